"""Picture formats: which decoders are let near a file, what a file's first bytes say, and how many pixels it may have.

Nothing is registered with Pillow, and none of its settings are changed: other users of Pillow in the same process see
no difference. HEIF files are opened by pillow-heif's class directly.
"""

import os
import re
import struct
from io import BytesIO
from typing import BinaryIO, cast

from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features
from PIL.ImageFile import ImageFile

from taming_cli.errors import BadImageError, UsageError

LIMIT_VARIABLE = "TAMING_MAX_PIXELS"

HEAD_BYTES = 32
"""How much of a file `format_of` looks at."""

# Only these decoders are let near a file: Pillow's others include one that starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM", "JPEG2000")

_FEATURES = {"JPEG": "jpg", "WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
"""What a build of Pillow may have been made without, as `PIL.features` calls it."""

RAW = frozenset(".3fr .arw .cr2 .dng .erf .iiq .kdc .mef .mos .nef .nrw .orf .pef .rw2 .srw".split())  # noqa: SIM905 - a list to read
"""Suffixes of cameras' raw files that look like TIFF: a TIFF reader finds a thumbnail in them."""

_SIDECARS_NAMES = """
.aae .cls .csv .db .h5 .htm .html .ini .json .jsonl .log .md .npy .npz .pt .py .safetensors .toml .tsv .txt .xml
.xmp .yaml .yml
"""
SIDECARS = frozenset(_SIDECARS_NAMES.split())
"""Suffixes of what lies beside pictures and is none."""

_NO_PICTURES_NAMES = """
.ai .avi .cr3 .eps .gz .m4a .m4v .mkv .mov .mp3 .mp4 .pdf .ps .psb .psd .raf .raw .svg .tar .tgz .wav .webm .xcf
.zip
"""
NO_PICTURES = RAW | frozenset(_NO_PICTURES_NAMES.split())
"""Suffixes of what may be meant as pictures, and is none that can be read. Raw files mostly lie beside the same picture
as JPEG."""

# Brands of ISO/IEC 23008-12, annex B, the telling ones first: a file may have several.
_BRANDS = (
    (frozenset((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs")), "HEIF"),
    (frozenset((b"avif", b"avis")), "AVIF"),
    (frozenset((b"mif1", b"msf1")), "HEIF"),
)
_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WEBP"),
    (re.compile(rb"(II[*+]\0|MM\0[*+])"), "TIFF"),
    (re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), "BMP"),
    (re.compile(rb"P[1-6]\s+(#|\d+\s)"), "PPM"),
    (re.compile(rb"(\0\0\0\x0cjP {2}\r\n\x87\n|\xff\x4f\xff\x51)"), "JPEG2000"),
    (re.compile(rb"(\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n)"), "JPEG XL"),
)
_FAR = 64 * 1024
_ISPE = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)  # ISO/IEC 23008-12, 6.5.3: width and height of an image item


def format_of(head: bytes) -> str | None:
    """The picture format that a file's first HEAD_BYTES bytes are of, in Pillow's words; None for all else."""
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[place : place + 4] for place in range(16, len(head) - 3, 4))}
        return next((name for telling, name in _BRANDS if brands & telling), None)
    return next((name for signature, name in _SIGNATURES if signature.match(head)), None)


def is_unclear(suffix: str, extensions: frozenset[str]) -> bool:
    """Whether a suffix (in lower case) leaves open if a file is a picture: then its first bytes have to tell."""
    return suffix not in extensions and suffix not in SIDECARS and suffix not in NO_PICTURES


def holds_picture(path: str) -> bool:
    """Whether the first bytes of a file are a picture's. No for one that cannot be opened."""
    try:
        with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - one of very many
            return format_of(stream.read(HEAD_BYTES)) is not None
    except OSError:
        return False


def remedy_for(kind: str) -> str | None:
    """What to install so that a format can be read; None where it can be."""
    if kind == "HEIF":
        try:
            import pillow_heif  # noqa: F401
        except ImportError:
            return "`pip install pillow-heif`"
        return None
    feature = _FEATURES.get(kind)
    known = feature in features.modules or feature in features.codecs  # Pillow before 11.3 does not know AVIF
    if feature is None or (known and features.check(feature)):
        return None
    return "`pip install --upgrade --force-reinstall pillow`"


def max_pixels() -> float:
    """Pixels that a picture may have: $TAMING_MAX_PIXELS, or else twice `PIL.Image.MAX_IMAGE_PIXELS`.

    Raises UsageError where the variable holds no whole number of at least 1.
    """
    if said := os.environ.get(LIMIT_VARIABLE):
        if not said.isdecimal() or int(said) < 1:
            raise UsageError(f"{LIMIT_VARIABLE} is {said!r}; give a whole number of pixels, at least 1")
        return int(said)
    return float("inf") if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def check_pixels(size: tuple[int, int]) -> None:
    """Raise BadImageError, without a name, for a picture of more pixels than `max_pixels`."""
    if (reason := excess(size)) is not None:
        raise BadImageError(reason)


def excess(size: tuple[int, int]) -> str | None:
    """Why a picture of this size is not decoded; None where it is."""
    width, height = size
    if width * height <= (limit := max_pixels()):
        return None
    return (
        f"larger than is safe to decode: {width} x {height} are {width * height} pixels, and --max-pixels "
        f"({LIMIT_VARIABLE}) is {limit:.0f}; raise that, or scale the picture down"
    )


def open_picture(data: bytes) -> ImageFile:
    """A file's bytes -> the picture as its format stores it, its pixels not yet decoded and not too many.

    Raises BadImageError, without a name, where pixels are too many or no decoder is installed; UnidentifiedImageError
    for what is no picture; anything else that Pillow raises on damaged data.
    """
    kind = format_of(data[:HEAD_BYTES])
    if kind == "JPEG XL":
        raise BadImageError("JPEG XL, which cannot be read; save it as PNG or JPEG")
    if kind is not None and (remedy := remedy_for(kind)) is not None:
        raise BadImageError(f"{kind}, which cannot be read here: {remedy}")
    image = _open_heif(data) if kind == "HEIF" else _open(_Sips(data))
    check_pixels(image.size)
    return image


def declared_size(stream: BinaryIO) -> tuple[int, int] | None:
    """The size that a file, or the beginning of one, declares; None where it says nothing, or is no picture.

    HEIF and AVIF files, and WebP's, are looked through up to their first 64 KiB; no pixels are decoded.
    """
    head = stream.read(HEAD_BYTES)
    kind = format_of(head)
    if kind in ("HEIF", "AVIF"):  # the largest: a picture may be made of tiles, and have thumbnails
        head += stream.read(_FAR)
        sizes = [cast(tuple[int, int], struct.unpack(">II", found)) for found in _ISPE.findall(head)]
        return max(sizes, key=lambda size: size[0] * size[1], default=None)
    if kind == "WEBP":
        return _size_of_webp(head)
    if kind in (None, "JPEG XL"):
        return None
    try:
        stream.seek(0)
        return _open(stream).size
    except Exception:  # the header is longer, or the file is damaged, which its reader will say
        return None


def _size_of_webp(head: bytes) -> tuple[int, int] | None:
    """Of the first 30 bytes of a WebP file: RFC 9649, sections 2.5 to 2.7."""
    kind, number = head[12:16], int.from_bytes
    if kind == b"VP8X":
        return number(head[24:27], "little") + 1, number(head[27:30], "little") + 1
    if kind == b"VP8L":
        bits = number(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return number(head[26:28], "little") & 0x3FFF, number(head[28:30], "little") & 0x3FFF


def _open(stream: BinaryIO) -> ImageFile:
    """`Image.open`, but for its limit of pixels, which is a setting of the whole process."""
    Image.init()
    prefix = stream.read(16)
    for name in FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accepts = Image.OPEN[name]
        if accepts and accepts(prefix) is not True:
            continue
        stream.seek(0)
        try:
            return (_Tiff if name == "TIFF" else factory)(stream, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # as Pillow does: another may know it
            continue
    raise UnidentifiedImageError


def _open_heif(data: bytes) -> ImageFile:
    from pillow_heif import HeifImageFile

    try:
        return HeifImageFile(BytesIO(data), "")  # type: ignore[no-untyped-call]
    except SyntaxError as error:
        raise BadImageError(f"damaged or unreadable picture ({error})") from error


class _Sips(BytesIO):
    """What is read first comes 16 bytes long at most: with more, Pillow's WebP reader compares with its own limit."""

    def read(self, count: int | None = -1, /) -> bytes:
        if self.tell() == 0 and count == 30:
            count = 16
        return super().read(count)


class _Tiff(TiffImagePlugin.TiffImageFile):
    """Pillow's own, without its own limit of pixels: `open_picture` has looked at the size."""

    def load_prepare(self) -> None:
        if self._im is None and (size := getattr(self, "_tile_size", None)) is not None:
            check_pixels(size)
            self.im = Image.new(self.mode, size).im
        super().load_prepare()
