"""Image formats: the allowed decoders, the format of a file by its first bytes, and the limit on its pixels.

Pillow's registry and settings stay unchanged for other users in the same process. HEIF files are opened by
pillow-heif's class directly.
"""

import os
import re
import struct
from io import BytesIO
from typing import BinaryIO, cast

from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features
from PIL.ImageFile import ImageFile

from taming_cli.data.disk import no_handle
from taming_cli.errors import BadImageError, UsageError

LIMIT_VARIABLE = "TAMING_MAX_PIXELS"

HEAD_BYTES = 32
"""Bytes of a file that `format_of` needs."""

# Only these decoders are used: Pillow's others include one that starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM", "JPEG2000")

_FEATURES = {"JPEG": "jpg", "WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
"""Features that a build of Pillow may lack, by their names in `PIL.features`."""

RAW = frozenset(".3fr .arw .cr2 .dng .erf .iiq .kdc .mef .mos .nef .nrw .orf .pef .rw2 .srw".split())  # noqa: SIM905 - a list to read
"""Suffixes of camera raw files that are TIFF files; a TIFF reader finds a thumbnail in them."""

_SIDECARS_NAMES = """
.aae .cls .csv .db .h5 .htm .html .ini .json .jsonl .log .md .npy .npz .pt .py .safetensors .toml .tsv .txt .xml
.xmp .yaml .yml
"""
SIDECARS = frozenset(_SIDECARS_NAMES.split())
"""Suffixes of files that accompany pictures."""

_NO_PICTURES_NAMES = """
.ai .avi .cr3 .eps .gz .m4a .m4v .mkv .mov .mp3 .mp4 .pdf .ps .psb .psd .raf .raw .svg .tar .tgz .wav .webm .xcf
.zip
"""
NO_PICTURES = RAW | frozenset(_NO_PICTURES_NAMES.split())
"""Suffixes of files that may be meant as pictures but cannot be read. Raw files mostly accompany the same picture as
JPEG."""

# Brands of ISO/IEC 23008-12, annex B, the specific ones first: a file may have several.
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
_WEBP_SIDE = 16383
_ISPE = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)  # ISO/IEC 23008-12, 6.5.3: width and height of an image item


def format_of(head: bytes) -> str | None:
    """Return the image format (Pillow's name) of a file by its first HEAD_BYTES bytes; None if unknown."""
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[place : place + 4] for place in range(16, len(head) - 3, 4))}
        return next((name for known, name in _BRANDS if brands & known), None)
    return next((name for signature, name in _SIGNATURES if signature.match(head)), None)


def is_unclear(suffix: str, extensions: frozenset[str]) -> bool:
    """Return whether a suffix (in lower case) leaves open if a file is a picture, so that its first bytes decide."""
    return suffix not in extensions and suffix not in SIDECARS and suffix not in NO_PICTURES


def holds_picture(path: str) -> bool:
    """Return whether the first bytes of a file are a picture's; False if it cannot be opened."""
    try:
        with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - called for very many files
            return format_of(stream.read(HEAD_BYTES)) is not None
    except OSError as error:
        if no_handle(error):
            raise
        return False


def remedy_for(kind: str) -> str | None:
    """Return what to install so that a format can be read; None if it can be."""
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
    """Return the largest number of pixels of a picture: $TAMING_MAX_PIXELS, or twice `PIL.Image.MAX_IMAGE_PIXELS`.

    Raises UsageError unless the variable holds a positive integer.
    """
    if value := os.environ.get(LIMIT_VARIABLE):
        if not value.isdecimal() or int(value) < 1:
            raise UsageError(f"{LIMIT_VARIABLE} is {value!r}; give a whole number of pixels, at least 1")
        return int(value)
    return float("inf") if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def check_pixels(size: tuple[int, int]) -> None:
    """Raise BadImageError, without a file name, for a picture of more pixels than `max_pixels`."""
    if (reason := excess(size)) is not None:
        raise BadImageError(reason)


def excess(size: tuple[int, int]) -> str | None:
    """Return why a picture of this size is not decoded; None if it is."""
    width, height = size
    if width * height <= (limit := max_pixels()):
        return None
    return (
        f"larger than is safe to decode: {width} x {height} are {width * height} pixels, and --max-pixels "
        f"({LIMIT_VARIABLE}) is {limit:.0f}; raise the limit, or scale the picture down"
    )


def open_picture(data: bytes) -> ImageFile:
    """Open a picture as its format stores it, without decoding its pixels.

    Raises BadImageError, without a file name, for too many pixels or a missing decoder; UnidentifiedImageError for
    other files; and whatever Pillow raises for damaged data.
    """
    kind = format_of(data[:HEAD_BYTES])
    if kind == "JPEG XL":
        raise BadImageError("JPEG XL, which cannot be read; save it as PNG or JPEG")
    if kind is not None and (remedy := remedy_for(kind)) is not None:
        raise BadImageError(f"{kind}, which cannot be read here: {remedy}")
    image = _open_heif(data) if kind == "HEIF" else _open(_Sips(data))
    check_pixels(image.size)
    if image.format == "WEBP" and max(image.size) > _WEBP_SIDE:  # of an animation; its pictures cannot be as large
        raise BadImageError(f"damaged: it declares {image.width} x {image.height} pixels; WebP ends at {_WEBP_SIDE}")
    return image


def declared_size(stream: BinaryIO) -> tuple[int, int] | None:
    """Return the size (width, height) that a file, or its beginning, declares; None if it declares none.

    Of HEIF, AVIF and WebP files the first 64 KiB are searched; no pixels are decoded.
    """
    head = stream.read(HEAD_BYTES)
    kind = format_of(head)
    if kind in ("HEIF", "AVIF"):  # the largest: a picture may consist of tiles and have thumbnails
        head += stream.read(_FAR)
        sizes = [cast(tuple[int, int], struct.unpack(">II", sides)) for sides in _ISPE.findall(head)]
        return max(sizes, key=lambda size: size[0] * size[1], default=None)
    if kind == "WEBP":
        return _size_of_webp(head)
    if kind in (None, "JPEG XL"):
        return None
    try:
        stream.seek(0)
        return _open(stream).size
    except Exception:  # a longer header, or a damaged file, which is reported when it is read
        return None


def _size_of_webp(head: bytes) -> tuple[int, int] | None:
    """Return the size in the first 30 bytes of a WebP file (RFC 9649, sections 2.5 to 2.7)."""
    kind, number = head[12:16], int.from_bytes
    if kind == b"VP8X":
        return number(head[24:27], "little") + 1, number(head[27:30], "little") + 1
    if kind == b"VP8L":
        bits = number(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return number(head[26:28], "little") & 0x3FFF, number(head[28:30], "little") & 0x3FFF


def _open(stream: BinaryIO) -> ImageFile:
    """As `Image.open`, without its limit on pixels, which is a setting of the whole process."""
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
        except (SyntaxError, IndexError, TypeError, struct.error):  # as in Pillow: the next decoder may accept it
            continue
    raise UnidentifiedImageError


def _open_heif(data: bytes) -> ImageFile:
    from pillow_heif import HeifImageFile

    try:
        return HeifImageFile(BytesIO(data), "")  # type: ignore[no-untyped-call]
    except SyntaxError as error:
        raise BadImageError(f"damaged or unreadable picture ({error})") from error


class _Sips(BytesIO):
    """A stream whose first read returns at most 16 bytes: with more, Pillow's WebP reader applies its own limit."""

    def read(self, count: int | None = -1, /) -> bytes:
        if self.tell() == 0 and count == 30:
            count = 16
        return super().read(count)


class _Tiff(TiffImagePlugin.TiffImageFile):
    """Pillow's class, without its limit on pixels; `open_picture` has checked the size."""

    def load_prepare(self) -> None:
        if self._im is None and (size := getattr(self, "_tile_size", None)) is not None:
            check_pixels(size)
            self.im = Image.new(self.mode, size).im
        super().load_prepare()
