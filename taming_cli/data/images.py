"""One picture's way in and out: bytes -> upright sRGB -> crop -> uint8 tensor -> float, and back to a PNG.

Everything that is particular about a file (rotation, colour space, bit depth, alpha, palette, animation) ends in
`read_rgb`: what leaves it is 8-bit RGB with the top up. Tensors are (3, H, W), channels R, G, B.
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
from taming_cli.data.disk import write_atomically
from taming_cli.data.formats import RAW, max_pixels, open_picture
from taming_cli.errors import BadImageError

EXTENSIONS = frozenset(
    ".avif .bmp .gif .heic .heif .hif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm .png "  # noqa: SIM905 - a list to read
    ".pnm .ppm .tif .tiff .webp".split()
)
"""The suffixes, in lower case, of the files that a folder or an archive is searched for."""

SETTINGS = "taming"
"""The text chunk of a PNG of ours that says what it was made with."""

SHEET = '{"sheet": true}'
"""What it says of several pictures on one sheet."""

# EXIF's orientation -> what brings the picture upright (EXIF 2.32, tag 0x0112).
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
    """A file's bytes -> upright 8-bit RGB picture in sRGB, its transparency laid on white, the first frame if several.

    `min_size` (of the upright picture) lets JPEG files be decoded at 1/2, 1/4 or 1/8 of their size, which is faster,
    as long as neither side falls below it. An embedded colour profile is converted to sRGB; a broken one is ignored.
    16-bit values are scaled by 255/65535. A floating-point picture has white at 1 (TIFF's convention), or at 255
    (Pillow's own) where it holds values above 2.

    Raises BadImageError, with `name` in its one line, for what is not a picture, is damaged, or declares more pixels
    than `formats.max_pixels`.
    """
    with opened(data, name) as image:
        if min_size is not None and image.format in ("JPEG", "MPO"):  # of HEIF files this would take the thumbnail
            sideways = _orientation(image) >= 5
            image.draft(None, (min_size.height, min_size.width) if sideways else (min_size.width, min_size.height))
        image.load()
        return upright(image, _to_srgb(image))


@contextlib.contextmanager
def opened(data: bytes, name: str) -> Iterator[ImageFile]:
    """A file's bytes -> the picture as its format stores it, its pixels not yet loaded; closed at the end.

    Whatever goes wrong within the `with` statement becomes a BadImageError with `name` in its one line: Pillow raises
    nearly every class there is on damaged data. A BadImageError raised there (without the name) gets the name.
    """
    if not data:
        raise BadImageError(f"{name}: the file is empty")
    if PurePosixPath(name).suffix.lower() in RAW:
        raise BadImageError(f"{name}: a camera's raw file, which cannot be read; save it as TIFF or JPEG")
    max_pixels()  # a faulty setting is no fault of the picture
    try:
        with open_picture(data) as image:
            yield image
    except BadImageError as error:
        raise BadImageError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise BadImageError(f"{name}: not a picture in a format that can be read, or damaged at its start") from error
    except Image.DecompressionBombError as error:
        # Pillow's own limit, where a reader of its asks for that by itself.
        raise BadImageError(
            f"{name}: larger than this kind of picture can be decoded; scale it down ({error})"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImageError(f"{name}: damaged or unreadable picture ({reason})") from error


def upright(image: Image.Image, pixels: Image.Image) -> Image.Image:
    """`pixels`, made from a picture of a file that is loaded, turned as its EXIF data asks."""
    turn = _UPRIGHT.get(_orientation(image))  # asked after loading: Pillow turns TIFF files by itself
    return pixels if turn is None else pixels.transpose(turn)


def upright_size(data: bytes, name: str) -> Size:
    """The size of the picture in a file's bytes as `read_rgb` returns it. Of most formats the beginning is enough.

    Raises BadImageError for what is not a picture, and where the header is not whole.
    """
    with opened(data, name) as image:
        # Pillow turns TIFF files by itself, and says so by the size at once.
        sideways = image.format != "TIFF" and _orientation(image) >= 5
        return Size(image.height, image.width) if sideways else Size(image.width, image.height)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 (upright) where there is none or it cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata is no reason to lose the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_srgb(image: Image.Image) -> Image.Image:
    """A loaded picture of any mode -> RGB in sRGB on white."""
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
    elif image.mode not in ("L", "CMYK"):  # those two may have a profile of their own kind
        image = image.convert("RGB")

    transform = _profile_to_srgb(profile, image.mode) if isinstance(profile, bytes) else None
    image = image.convert("RGB") if transform is None else transform.apply(image)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16-bit, 32-bit or floating-point values -> mode L, rounded."""
    values = np.asarray(image)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise BadImageError("holds values that are infinite or not a number")
        white = 255.0 if values.max() > 2 else 1.0
    else:
        if values.min() < 0 or values.max() > 65535:
            raise BadImageError("holds 32-bit integers, of which no value is known to be white; save it with 16 bits")
        white = 65535.0
    return Image.fromarray((values * (255.0 / white)).round().clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=16)
def _profile_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform `mode` -> sRGB of an ICC profile; None where it is broken, of another mode, or sRGB itself."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        transform = ImageCms.ImageCmsTransform(ImageCms.ImageCmsProfile(BytesIO(profile)), srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if mode == "CMYK":
        return transform
    # sRGB comes in many files with many descriptions. Colours tell: such a profile moves none by more than rounding.
    if mode == "L":
        probe = np.arange(256, dtype=np.uint8)[None]
    else:
        levels = np.linspace(0, 255, 18).astype(np.uint8)
        probe = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    before = Image.fromarray(probe)
    moved = np.asarray(transform.apply(before), dtype=int) - np.asarray(before.convert("RGB"), dtype=int)
    return transform if np.abs(moved).max() > 2 else None


def tensor(image: Image.Image) -> Tensor:
    """RGB picture -> uint8 (3, H, W), a copy."""
    assert image.mode == "RGB"
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


def read_image(data: bytes, name: str) -> Tensor:
    """A file's bytes -> uint8 (3, H, W) as `read_rgb` reads them; the inverse of `write_png`. Raises BadImageError."""
    return tensor(read_rgb(data, name))


def png_settings(path: Path) -> str | None:
    """What a PNG of ours says it was made with; None for another file."""
    try:  # not by `Image.open`: a picture of any size may say something
        with path.open("rb") as stream, PngImagePlugin.PngImageFile(stream) as image:
            found = image.info.get(SETTINGS)
    except (OSError, SyntaxError, ValueError):
        return None
    return found if isinstance(found, str) else None


def write_png(path: Path, image: Tensor, text: Mapping[str, str] | None = None) -> None:
    """Write uint8 (3, H, W) as a PNG; the rest as of `save_png`."""
    assert image.dtype == torch.uint8
    assert image.ndim == 3
    assert image.shape[0] == 3
    save_png(path, Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()), text)


def save_png(path: Path, picture: Image.Image, text: Mapping[str, str] | None = None) -> None:
    """Write a picture of any mode of PNG's, with `text` in its text chunks (keys: 1 to 79 Latin-1 characters).

    The file appears complete or not at all; the folder is created if it is missing. Raises DiskError where the disk
    refuses the file.
    """
    chunks = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        # A file name that is no valid utf-8 may be part of the settings: keep it readable rather than fail.
        chunks.add_text(key, value.encode("utf-8", "backslashreplace").decode("utf-8"))
    write_atomically(path, lambda temporary: picture.save(temporary, "PNG", pnginfo=chunks), durable=False)


def to_float(image: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [-1, 1], any shape; the inverse of `to_uint8`."""
    assert image.dtype == torch.uint8
    return image.to(torch.float32) / 127.5 - 1


def to_uint8(image: Tensor) -> Tensor:
    """Floating point [-1, 1], any shape -> uint8 [0, 255], rounded, values beyond the range clamped."""
    return ((image.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """uint8 (N, 3, H, W) -> one picture, row by row in `columns` columns, with white gaps of `gap` pixels between."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = torch.full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


class Crop(NamedTuple):
    """A box of a picture, in its pixels (left and top inclusive), the size it is scaled to, and whether mirrored after.

    One crop serves a picture and its condition maps alike, as long as their sizes are the same.
    """

    left: float
    top: float
    width: float
    height: float
    out: Size
    flip: bool = False


def whole(source: Size, out: Size) -> Crop:
    """All of the picture, whatever its aspect, scaled to `out`."""
    return Crop(0, 0, source.width, source.height, out)


def centre_crop(source: Size, out: Size) -> Crop:
    """The largest box of `out`'s aspect in the middle of the picture."""
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
    """A random box for training.

    `ratio` bounds the factor (log-uniform) on `out`'s aspect; `scale` bounds the box's area (uniform) as a share of the
    largest box of that aspect, so that every draw fits, whatever the picture's shape. The place is uniform; where
    `flip` is allowed, half of the crops are mirrored. Takes five numbers from `rng` every time.
    """
    u_ratio, u_scale, u_left, u_top, u_flip = rng.random(5)
    aspect = out.width / out.height * math.exp(math.log(ratio[0]) + u_ratio * math.log(ratio[1] / ratio[0]))
    width, height = _largest_box(source, aspect)
    shrink = math.sqrt(scale[0] + u_scale * (scale[1] - scale[0]))
    width, height = width * shrink, height * shrink
    left, top = u_left * (source.width - width), u_top * (source.height - height)
    return Crop(float(left), float(top), width, height, out, flip and bool(u_flip < 0.5))


def _largest_box(source: Size, aspect: float) -> tuple[float, float]:
    """Width and height of the largest box of `aspect` = width / height inside `source`."""
    if source.width <= source.height * aspect:
        return float(source.width), min(source.width / aspect, float(source.height))
    return min(source.height * aspect, float(source.width)), float(source.height)


def nearest_known(unknown: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(H, W) -> for each pixel the place, in the flat picture, of the nearest one that is known: its own, if it is."""
    _, nearest = cv2.distanceTransformWithLabels(
        unknown.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    place = np.zeros(int(nearest.max()) + 1, np.int64)
    place[nearest[~unknown]] = np.flatnonzero(~unknown)
    return np.asarray(place[nearest])


def apply(image: Image.Image, crop: Crop, resample: Resampling = Resampling.LANCZOS) -> Image.Image:
    """Cut, scale (antialiased, in one step) and mirror; `Resampling.NEAREST` for maps of labels, which must not mix."""
    right = min(crop.left + crop.width, image.width)  # sums of floats may end a hair beyond the edge
    bottom = min(crop.top + crop.height, image.height)
    cut = image.resize((crop.out.width, crop.out.height), resample, box=(crop.left, crop.top, right, bottom))
    return cut.transpose(Transpose.FLIP_LEFT_RIGHT) if crop.flip else cut
