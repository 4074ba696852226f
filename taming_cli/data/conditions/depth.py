"""Depth maps: a number for each pixel, in any unit, scaled to [-1, 1] by the map's own minimum and maximum, or by two
of its percentiles."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from taming_cli.data.arrays import read_header
from taming_cli.data.formats import check_pixels
from taming_cli.data.images import nearest_known, opened, upright
from taming_cli.errors import BadImageError

Floats = NDArray[np.float64]
WHOLE = (0.0, 100.0)
"""The percentiles of the minimum and the maximum."""

_NPY = b"\x93NUMPY"
_LARGEST = 1e15
"""The largest number accepted in a picture's four channels; its inverse is the smallest besides 0."""


def read_depth(
    data: bytes, name: str, *, missing: Sequence[float] = (), percentiles: tuple[float, float] = WHOLE
) -> Image.Image:
    """Read a depth map -> mode F, upright, its smallest value at -1 and its largest at 1; a constant map is 0.

    Pixels with one of the values `missing` (which may include nan and infinities) were not measured: they do not affect
    the range, and get the value of the nearest measured pixel. The `percentiles` of the measured values become -1 and
    1, and values beyond them are clipped; where the two are equal, minimum and maximum are used.

    Supported are grey pictures of any depth (16-bit and 8-bit PNG, floating-point TIFF), arrays in numpy's .npy format
    of shape (H, W), (1, H, W) or (H, W, 1), and PNGs whose four channels R, G, B, A are the bytes of a little-endian
    float32, as published by the authors of the paper.

    Raises BadImageError for other files, damaged ones, infinite values or nan that are not among `missing`, and maps
    without a measured pixel.
    """
    with np.errstate(all="ignore"):  # `_scaled` checks for nan and overflow
        if data.startswith(_NPY):
            try:
                return Image.fromarray(_scaled(_array(data), missing, percentiles))
            except BadImageError as error:
                raise BadImageError(f"{name}: {error}") from error
        with opened(data, name) as image:
            image.load()
            return upright(image, Image.fromarray(_scaled(_values(image), missing, percentiles)))


def _scaled(values: Floats, missing: Sequence[float], percentiles: tuple[float, float]) -> NDArray[np.float32]:
    measured = values
    if missing:
        gone = _is_one_of(values, missing)
        measured = values[~gone]
        if not measured.size:
            listed = ", ".join(f"{each:g}" for each in missing)
            raise BadImageError(f"every pixel has a value that means missing ({listed}); the map holds no depth")
        if gone.any():
            values = values.ravel()[nearest_known(gone)]
    low, high = float(measured.min()), float(measured.max())
    if not np.isfinite(high - low):  # the minimum of values with a nan is nan
        raise BadImageError(
            "holds infinite values or nan; if they mark pixels that were not measured, train with "
            "--missing nan,inf,-inf"
        )
    if percentiles != WHOLE:
        below, above = np.percentile(measured, percentiles)
        if above > below:
            low, high = float(below), float(above)
            values = values.clip(low, high)
    if high == low:
        return np.zeros(values.shape, np.float32)
    return ((values - low) / (high - low) * 2 - 1).astype(np.float32)


def _is_one_of(values: Floats, missing: Sequence[float]) -> NDArray[np.bool_]:
    """Return where values are one of `missing`, exactly or rounded to float32."""
    matches = np.zeros(values.shape, bool)
    for each in missing:
        matches |= np.isnan(values) if np.isnan(each) else (values == each) | (values == float(np.float32(each)))
    return matches


def _array(data: bytes) -> Floats:
    """Read an array in .npy format, whose sides are checked against the file's length before memory is allocated."""
    stream = BytesIO(data)
    try:
        shape, by_columns, kind = read_header(stream)
    except Exception as error:  # the header is a Python literal, and fails in many ways
        raise BadImageError(f"damaged .npy file ({' '.join(str(error).split())})") from error
    if kind.kind not in "fiub":
        raise BadImageError(f"an array of {kind}; a depth map has floating-point numbers or integers")
    if not (len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[2]))) or min(shape) < 1:
        raise BadImageError(f"an array of shape {shape}; a depth map is (H, W), (1, H, W) or (H, W, 1)")
    count = int(np.prod(shape, dtype=object))
    if len(data) - stream.tell() < count * kind.itemsize:
        raise BadImageError(f"the .npy file is shorter than its {count} values")
    height, width = shape if len(shape) == 2 else sorted(shape)[1:]
    check_pixels((width, height))
    values = np.frombuffer(data, kind, count, stream.tell()).reshape(shape, order="F" if by_columns else "C")
    if len(shape) == 3:
        values = values[0] if shape[0] == 1 else values[..., 0]
    return values.astype(np.float64)


def _values(image: Image.Image) -> Floats:
    """Return the numbers of a loaded picture, (H, W)."""
    if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.float64)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode not in ("RGB", "RGBA", "LA"):
        raise BadImageError(f"a picture of mode {image.mode}; a depth map is grey, or an array in a .npy file")
    pixels = np.asarray(image.convert("RGBA"))
    grey = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()
    if grey and (pixels[..., 3] == 255).all():
        return pixels[..., 0].astype(np.float64)
    if image.mode == "RGBA" and image.format == "PNG":
        # Pixels or the bytes of numbers? A holds the sign and the upper bits of the exponent: 255 of an opaque pixel
        # would make a number beyond 1e38 or nan, 0 of a clear pixel one below 1e-37. So a picture is mistaken for
        # numbers only if every pixel has A from 38 to 88 (or from 166 to 216).
        numbers = np.ascontiguousarray(pixels).view("<f4")[..., 0].astype(np.float64)
        size = np.abs(numbers[numbers != 0])
        if size.size and ((size >= 1 / _LARGEST) & (size <= _LARGEST)).all():
            return numbers
    if grey:
        raise BadImageError("is transparent in places, which have no depth; fill them first")
    raise BadImageError("a picture in colour; a depth map is grey, or holds a float32 in the four bytes R, G, B, A")
