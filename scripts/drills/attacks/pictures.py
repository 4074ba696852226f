"""Pictures that declare or unpack to much more than they are."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attacks import Attack, Scene
from taming_cli.data.conditions.depth import read_depth
from taming_cli.data.conditions.labels import read_labels
from taming_cli.data.formats import declared_size
from taming_cli.data.images import read_image, upright_size
from taming_cli.data.oversized import find_oversized
from taming_cli.data.sources import Item
from taming_cli.errors import BadImageError

SIDE = 60_000
"""Pixels along a side of a picture that is far beyond the limit."""


def read(path: Path) -> Any:
    """A picture as a training reads it, and as a map; each way has to end."""
    item = Item(path.name, path)
    data = item.read()
    with path.open("rb") as stream:
        declared_size(stream)
    find_oversized([item, Item("other", path.with_name("small.png"))])
    for other in (read_labels, read_depth, upright_size):
        try:
            other(data, item.name)
        except BadImageError as error:
            if item.name not in str(error):
                raise ValueError(f"the error does not name the picture: {error}") from error
    return read_image(data, item.name).shape


def bombs(scene: Scene) -> list[Attack]:
    """Pictures of each format."""
    small = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    small.save(scene.folder / "small.png")
    bomb = zlib.compress(bytes(2**29), 1)
    files = {
        "png size.png": _png(SIDE, SIDE, zlib.compress(bytes(2**20))),
        "png claimed.png": _png(2**31 - 1, 2**31 - 1, b""),
        "png text.png": _png(8, 8, zlib.compress(bytes(200)), (b"zTXt", b"a\0\0" + bomb)),
        "png texts.png": _png(8, 8, b"", *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20)))] * 500),
        "png profile.png": _png(8, 8, zlib.compress(bytes(200)), (b"iCCP", b"a\0\0" + bomb)),
        "png data.png": _png(8, 8, bomb),
        "tiff size.tif": _tiff({256: SIDE, 257: SIDE}),
        "tiff strips.tif": _tiff({256: 8, 257: 8}, count=2**30),
        "tiff tags.tif": b"II*\0\x08\0\0\0\xff\xff" + bytes(100),
        "tiff loop.tif": _tiff({256: 8, 257: 8})[:-4] + struct.pack("<I", 8),
        "bmp size.bmp": b"BM" + struct.pack("<IIIIiiHHIIIIII", 10**6, 0, 54, 40, SIDE, SIDE, 1, 24, 0, 0, 0, 0, 0, 0),
        "ppm size.ppm": f"P6 {SIDE} {SIDE} 255\n".encode() + bytes(100),
        "ppm digits.ppm": b"P6 " + b"9" * 10**6 + b" 1 255\n",
        "gif size.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b",",
        "jpg size.jpg": _jpeg(small),
        "webp size.webp": _webp(),
        "jp2 size.j2k": _jpeg2000(),
        "depth header.npy": b"\x93NUMPY\x02\0" + struct.pack("<I", 2**31) + b"{",
        "depth nested.npy": _npy("(" * 5000),
        "depth shape.npy": _npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**31}, {2**31})}}"),
        "depth digits.npy": _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 8000 + ",)}"),
    }
    attacks: list[Attack] = []
    for name, data in files.items():
        path = scene.folder / name
        path.write_bytes(data)
        # Metadata that is left out, and data behind the last row, are no reason to lose the pixels.
        readable = name.startswith(("png text", "png profile", "png data", "tiff loop"))
        warm = (lambda: read(scene.folder / "small.png")) if not attacks else None
        attacks.append(Attack(path.stem, path, read, may_be_read=readable, warm=warm))
    return attacks


def _png(width: int, height: int, pixels: bytes, *before: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return start + b"".join(chunk(*each) for each in before) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _tiff(tags: dict[int, int], count: int = 1) -> bytes:
    """A grey picture; `count` is the claimed number of strips."""
    every = {258: 8, 259: 5, 262: 1, 273: 8, 277: 1, 278: 8, 279: 100, **tags}
    entries = [
        struct.pack("<HHII", tag, 4, count if tag in (273, 279) else 1, value) for tag, value in sorted(every.items())
    ]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _jpeg(image: Image.Image) -> bytes:
    """A JPEG whose frame declares the largest sides."""
    data = bytearray(_encoded(image, "JPEG", progressive=True))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def _webp() -> bytes:
    """A lossless WebP that declares its largest sides."""
    bits = (16383) | (16383 << 14)
    body = b"VP8L" + struct.pack("<I", 20) + b"\x2f" + struct.pack("<I", bits) + bytes(15)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _jpeg2000() -> bytes:
    """A bare codestream that declares 60,000 x 60,000 pixels."""
    size = struct.pack(">HHIIIIIIIIH", 47, 0, SIDE, SIDE, 0, 0, SIDE, SIDE, 0, 0, 3) + bytes((7, 1, 1)) * 3
    return b"\xff\x4f\xff\x51" + size + bytes(100)


def _npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + bytes(64)
