"""Read, crop, convert and write pictures: bytes -> upright sRGB -> crop -> uint8 tensor -> float, and back to a PNG.

`read_rgb` resolves everything particular to a file (rotation, colour space, bit depth, alpha, palette, animation) and
returns upright 8-bit RGB. Tensors are (3, H, W), channels R, G, B.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, UnidentifiedImageError
from PIL.Image import Resampling, Transpose
from PIL.ImageFile import ImageFile
from torch import Tensor

from taming_cli.config.size import Size
from taming_cli.data.disk import no_handle, write_atomically
from taming_cli.data.formats import RAW, max_pixels, open_picture
from taming_cli.errors import BadImageError

EXTENSIONS = frozenset(
    ".avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png "  # noqa: SIM905 - a list to read
    ".pnm .ppm .tif .tiff .webp".split()
)
"""Suffixes, in lower case, of pictures in folders and archives."""

SETTINGS = "taming"
"""The text chunk in which our PNG files record their settings."""

SHEET = '{"sheet": true}'
"""Its content for several pictures on one sheet."""

# EXIF's orientation -> the transformation to upright (EXIF 2.32, tag 0x0112).
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def read_rgb(data: bytes, name: str, *, min_size: Size | None = None) -> Image.Image:
    """Read a picture -> upright 8-bit RGB in sRGB, transparency on white, the first frame of several.

    With `min_size` (of the upright picture) JPEG files are decoded at 1/2, 1/4 or 1/8 of their size, which is faster,
    as long as neither side falls below it. An embedded colour profile is converted to sRGB; a broken one is ignored.
    16-bit values are scaled by 255/65535. A floating-point picture has white at 1 (TIFF's convention), or at 255
    (Pillow's) if it holds values above 2.

    Raises BadImageError, which names `name`, for a file that is not a picture, is damaged, or declares more pixels than
    `formats.max_pixels`.
    """
    with opened(data, name) as image:
        if min_size is not None and image.format in ("JPEG", "MPO"):  # HEIF files would return their thumbnail
            sideways = _orientation(image) >= 5
            image.draft(None, (min_size.height, min_size.width) if sideways else (min_size.width, min_size.height))
        image.load()
        return upright(image, _to_srgb(image))


@contextlib.contextmanager
def opened(data: bytes, name: str) -> Iterator[ImageFile]:
    """Open a picture as its format stores it, without loading its pixels, for a `with` statement.

    Any exception within the statement becomes a BadImageError that names `name`, because Pillow raises nearly every
    class for damaged data. A BadImageError raised there without the name gets it.
    """
    if not data:
        raise BadImageError(f"{name}: the file is empty")
    if PurePosixPath(name).suffix.lower() in RAW:
        raise BadImageError(f"{name}: a camera raw file, which cannot be read; save it as TIFF or JPEG")
    max_pixels()  # an invalid setting is not an error of the picture
    try:
        with open_picture(data) as image:
            yield image
    except BadImageError as error:
        raise BadImageError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise BadImageError(f"{name}: not a picture in a format that can be read, or damaged at its start") from error
    except Image.DecompressionBombError as error:
        # Pillow's own limit, which some of its readers apply themselves.
        raise BadImageError(f"{name}: too large for a picture of its format; scale it down ({error})") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImageError(f"{name}: damaged or unreadable picture ({reason})") from error


def upright(image: Image.Image, pixels: Image.Image) -> Image.Image:
    """Rotate or mirror `pixels`, made from a loaded `image`, as its EXIF data requires."""
    turn = _UPRIGHT.get(_orientation(image))  # after loading, because Pillow rotates TIFF files itself
    return pixels if turn is None else pixels.transpose(turn)


def upright_size(data: bytes, name: str) -> Size:
    """Return the size of a picture as `read_rgb` returns it; for most formats the beginning of the file is enough.

    Raises BadImageError for other files, and for an incomplete header.
    """
    with opened(data, name) as image:
        # Pillow rotates TIFF files itself, and reports the rotated size before that.
        sideways = image.format != "TIFF" and _orientation(image) >= 5
        return Size(image.height, image.width) if sideways else Size(image.width, image.height)


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 (upright) if it is missing or unreadable."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata is no reason to lose the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert a loaded picture of any mode to RGB in sRGB on white."""
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        if isinstance(clear := image.info.get("transparency"), int):
            alpha = Image.fromarray(np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8))
        image = _eight_bits(image)
    elif image.has_transparency_data:
        grey = image.mode in ("L", "LA")
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.getchannel("R") if grey else image.convert("RGB")
    elif image.mode == "LAB":
        lab, srgb = (ImageCms.ImageCmsProfile(ImageCms.createProfile(space)) for space in ("LAB", "sRGB"))
        image = ImageCms.ImageCmsTransform(lab, srgb, "LAB", "RGB").apply(image)
        profile = None
    elif image.mode not in ("L", "CMYK"):  # these two may have a profile of their own
        image = image.convert("RGB")

    transform = _profile_to_srgb(profile, image.mode) if isinstance(profile, bytes) else None
    image = image.convert("RGB") if transform is None else transform.apply(image)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert a grey picture of 16-bit, 32-bit or floating-point values to mode L, rounded."""
    values = np.asarray(image)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise BadImageError("holds infinite values or nan")
        white = 255.0 if values.max() > 2 else 1.0
    else:
        if values.min() < 0 or values.max() > 65535:
            raise BadImageError("holds 32-bit integers, whose value for white is unknown; save it with 16 bits")
        white = 65535.0
    return Image.fromarray((values * (255.0 / white)).round().clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=16)
def _profile_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of an ICC profile from `mode` to sRGB; None if it is broken, of another mode, or sRGB."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        transform = ImageCms.ImageCmsTransform(ImageCms.ImageCmsProfile(BytesIO(profile)), srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if mode == "CMYK":
        return transform
    # sRGB profiles have many descriptions. They are recognised by colours, which they change by rounding only.
    if mode == "L":
        probe = np.arange(256, dtype=np.uint8)[None]
    else:
        levels = np.linspace(0, 255, 18).astype(np.uint8)
        probe = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    before = Image.fromarray(probe)
    moved = np.asarray(transform.apply(before), dtype=int) - np.asarray(before.convert("RGB"), dtype=int)
    return transform if np.abs(moved).max() > 2 else None


def tensor(image: Image.Image) -> Tensor:
    """Convert an RGB picture to uint8 (3, H, W), a copy."""
    assert image.mode == "RGB"
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


def read_image(data: bytes, name: str) -> Tensor:
    """Read a picture as `read_rgb` does -> uint8 (3, H, W); the inverse of `write_png`. Raises BadImageError."""
    return tensor(read_rgb(data, name))


def png_settings(path: Path) -> str | None:
    """Return the settings that one of our PNG files records; None for other files."""
    return png_text(path, SETTINGS)


def png_text(path: Path, key: str) -> str | None:
    """Return a text chunk of a PNG; None for other files, and without such a chunk."""
    try:  # not by `Image.open`, which limits the number of pixels
        with path.open("rb") as stream, PngImagePlugin.PngImageFile(stream) as image:
            text = image.info.get(key)
    except (OSError, SyntaxError, ValueError) as error:
        if no_handle(error):
            raise
        return None
    return text if isinstance(text, str) else None


def write_png(path: Path, image: Tensor, text: Mapping[str, str] | None = None) -> None:
    """Write uint8 (3, H, W) as a PNG; see `save_png`."""
    assert image.dtype == torch.uint8
    assert image.ndim == 3
    assert image.shape[0] == 3
    save_png(path, Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()), text)


def save_png(path: Path, picture: Image.Image, text: Mapping[str, str] | None = None) -> None:
    """Write a PNG with `text` in its text chunks (keys: 1 to 79 Latin-1 characters).

    The file appears complete or not at all; the folder is created if it is missing. Raises DiskError where the disk
    refuses the file.
    """
    chunks = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        # Settings may contain a file name that is not valid utf-8: keep it readable rather than fail.
        chunks.add_text(key, value.encode("utf-8", "backslashreplace").decode("utf-8"))

    def write(temporary: Path) -> None:
        with temporary.open("xb") as stream:  # Pillow removes what it opened, and with it the size for an error
            picture.save(stream, "PNG", pnginfo=chunks)

    write_atomically(path, write, durable=False)


def to_float(image: Tensor) -> Tensor:
    """Convert uint8 [0, 255] of any shape to float32 [-1, 1]; the inverse of `to_uint8`."""
    assert image.dtype == torch.uint8
    return image.to(torch.float32) / 127.5 - 1


def to_uint8(image: Tensor) -> Tensor:
    """Convert floating point [-1, 1] of any shape to uint8 [0, 255], rounded and clamped."""
    return ((image.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Arrange pictures, uint8 (N, 3, H, W), row by row in `columns` columns with white gaps of `gap` pixels."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = torch.full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


class Crop(NamedTuple):
    """A box in pixels (left and top inclusive), the size to scale it to, and whether it is mirrored afterwards.

    The same crop applies to a picture and to its condition maps of equal size.
    """

    left: float
    top: float
    width: float
    height: float
    out: Size
    flip: bool = False


def whole(source: Size, out: Size) -> Crop:
    """Return a crop of the whole picture, scaled to `out` regardless of its aspect."""
    return Crop(0, 0, source.width, source.height, out)


def centre_crop(source: Size, out: Size) -> Crop:
    """Return the largest centred crop of `out`'s aspect."""
    width, height = _largest_box(source, out.width / out.height)
    return Crop((source.width - width) / 2, (source.height - height) / 2, width, height, out)


def random_resized_crop(
    source: Size,
    out: Size,
    rng: np.random.Generator,
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (1.0, 1.0),
    flip: bool = True,
) -> Crop:
    """Draw a random crop for training.

    `ratio` bounds a log-uniform factor on `out`'s aspect; `scale` bounds the box's area, uniform, as a share of the
    largest box of that aspect, so that every draw fits in the picture. The position is uniform; with `flip`, half of
    the crops are mirrored. Every call draws five numbers from `rng`.
    """
    u_ratio, u_scale, u_left, u_top, u_flip = rng.random(5)
    aspect = out.width / out.height * math.exp(math.log(ratio[0]) + u_ratio * math.log(ratio[1] / ratio[0]))
    width, height = _largest_box(source, aspect)
    shrink = math.sqrt(scale[0] + u_scale * (scale[1] - scale[0]))
    width, height = width * shrink, height * shrink
    left, top = u_left * (source.width - width), u_top * (source.height - height)
    return Crop(float(left), float(top), width, height, out, flip and bool(u_flip < 0.5))


def _largest_box(source: Size, aspect: float) -> tuple[float, float]:
    """Return width and height of the largest box of `aspect` = width / height inside `source`."""
    if source.width <= source.height * aspect:
        return float(source.width), min(source.width / aspect, float(source.height))
    return min(source.height * aspect, float(source.width)), float(source.height)


def nearest_known(unknown: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each pixel (H, W) the flat index of the nearest known pixel, which is its own if it is known."""
    _, nearest = cv2.distanceTransformWithLabels(
        unknown.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    place = np.zeros(int(nearest.max()) + 1, np.int64)
    place[nearest[~unknown]] = np.flatnonzero(~unknown)
    return np.asarray(place[nearest])


def apply(image: Image.Image, crop: Crop, resample: Resampling = Resampling.LANCZOS) -> Image.Image:
    """Crop, scale (antialiased, in one step) and mirror; `Resampling.NEAREST` is for labels, which must not mix."""
    right = min(crop.left + crop.width, image.width)  # rounding may put the sum slightly beyond the edge
    bottom = min(crop.top + crop.height, image.height)
    cut = image.resize((crop.out.width, crop.out.height), resample, box=(crop.left, crop.top, right, bottom))
    return cut.transpose(Transpose.FLIP_LEFT_RIGHT) if crop.flip else cut
