"""Segmentation maps: the label of each pixel, read from a file, and painted.

A label is an integer from 0. Only lossless formats are read, without scaling or conversion, so that labels stay as they
were stored.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from torch import Tensor

from taming_cli.data.images import opened, upright
from taming_cli.errors import BadImageError, UsageError

_FORMATS = ("PNG", "TIFF", "BMP")  # not GIF, whose writers reorder palettes and with them the indices
_LARGEST = 65535

# How grey pictures with less than a byte per pixel are stored, in Pillow's terms -> the factor that it applies.
_SPREAD = {"L;2": 85, "L;4": 17}

_COLOUR = re.compile(r"#([0-9a-fA-F]{6})(?:\s+(.*))?")
_MISTYPED = re.compile(r"#[0-9a-fA-F]+(?:\s|$)")


class Colours(NamedTuple):
    """The colours of labels."""

    rgb: NDArray[np.uint8]
    """(L, 3), all different."""

    names: tuple[str, ...]
    """L names, empty for labels without one."""


def read_colours(path: Path) -> Colours:
    """Read a text file with a line `#rrggbb name` per label, in order; the name is optional.

    Empty lines and comments, which are lines that begin with `#` but not with a colour, are ignored. Raises UsageError,
    which names file and line, for other lines and for repeated colours.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: the table of colours cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the table of colours is not utf-8 text") from error
    names: dict[str, str] = {}
    lines_of: dict[str, int] = {}
    for number, text in enumerate(lines, start=1):
        line = text.strip()
        colour = _COLOUR.fullmatch(line)
        if colour is None:
            if line and (not line.startswith("#") or _MISTYPED.match(line)):
                raise UsageError(
                    f"{path}, line {number}: {line[:40]!r} is not a colour and a name, as in `#87ceeb sky`"
                )
            continue
        code = colour[1].lower()
        if code in names:
            raise UsageError(f"{path}, line {number}: #{code} is also the colour of line {lines_of[code]}; change one")
        names[code], lines_of[code] = colour[2] or "", number
    if not names:
        raise UsageError(f"{path}: no colours; write a line per label, as in `#87ceeb sky`")
    rgb = np.array([list(bytes.fromhex(code)) for code in names], np.uint8)
    return Colours(rgb, tuple(names.values()))


def read_labels(
    data: bytes, name: str, *, colours: Colours | None = None, unlabelled: bool = False, values: Sequence[int] = ()
) -> Image.Image:
    """Read a label map, upright: mode L if all labels are below 256, else mode I (up to 65535).

    The label is the stored grey value (1 to 16 bits a pixel, or three equal channels), or the index of a palette
    picture. `unlabelled` is for COCO-Stuff's files, in which 255 means unlabelled: the label is (value + 1) mod 256, so
    255 becomes 0, and 0 to 181 become 1 to 182. With `values`, the label is the index of the stored value among them:
    `(0, 255)` turns a mask of 0 and 255 into labels 0 and 1. True-colour pictures need a table: with `colours`, the
    label in a picture of three channels is the index of its colour in the table (`unlabelled` does not apply).

    Raises BadImageError for other files, damaged ones and lossy formats; for true colour without a table; for a colour
    that is not in the table; and for a stored value that is not in `values`.
    """
    with opened(data, name) as image:
        _check_lossless(image)
        storage = _storage(image)
        if re.search(r";\d?I", storage):
            raise BadImageError("stores its grey values inverted, so that its labels are ambiguous; save it as PNG")
        image.load()
        if image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
            stored = np.asarray(image).astype(np.int64) // _SPREAD.get(storage.removesuffix("R"), 1)
        elif image.mode in ("LA", "RGB", "RGBA") and "16" not in storage:
            pixels = _opaque(image)
            if colours is not None and image.mode != "LA":
                turned = np.asarray(upright(image, Image.fromarray(pixels)))
                return _as_picture(_look_up(turned, colours))
            if not (pixels == pixels[..., :1]).all():
                raise BadImageError(
                    "a picture in colour; give a table of the labels' colours (train-vqgan --colours FILE)"
                )
            stored = pixels[..., 0].astype(np.int64)
        else:
            raise BadImageError(
                f"pixels stored as {storage} are not labels; save the map as grey PNG with 8 or 16 bits"
            )
        if values:
            stored = _numbered(stored, values)
        if stored.min() < 0 or stored.max() > _LARGEST:
            raise BadImageError(
                f"holds labels from {stored.min()} to {stored.max()}; labels are 0 to {_LARGEST}, list others with "
                "train-vqgan --label-values"
            )
        if unlabelled:
            if stored.max() > 255:
                raise BadImageError(f"holds the label {stored.max()}; maps in which 255 means unlabelled end at 255")
            stored = (stored + 1) % 256
        return upright(image, _as_picture(stored))


def paint(labels: Tensor, colours: Colours | None = None) -> Tensor:
    """Paint labels (..., H, W) as uint8 (..., 3, H, W).

    Labels that are not in the table, and all without one, get a colour that is a fixed function of the label: dark grey
    for 0, then hues a golden section of the circle apart, of alternating saturation and brightness.
    """
    assert not labels.is_floating_point()
    assert not labels.numel() or int(labels.min()) >= 0
    table = _palette(int(labels.max()) + 1 if labels.numel() else 1)
    if colours is not None:
        known = min(len(colours.rgb), len(table))
        table[:known] = colours.rgb[:known]
    painted = torch.from_numpy(table).to(labels.device)[labels.long()]
    return painted.movedim(-1, -3).contiguous()


def _palette(count: int) -> NDArray[np.uint8]:
    """Return the colours of the labels 0 to count - 1, uint8 (count, 3)."""
    number = np.arange(count)
    hue = number * ((5**0.5 - 1) / 2) % 1 * 6
    # Hues nearly repeat after 21, 34, 55, 89 and 144 labels, none of them a multiple of 20, the period of these.
    saturation = np.array([0.8, 0.9, 0.6, 1.0, 0.4])[number % 5]
    value = np.array([0.5, 0.7, 0.85, 1.0])[number % 4]
    sector = (np.array([5, 3, 1]) + hue[:, None]) % 6  # HSV to RGB in closed form (Smith 1978)
    strength = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    rgb = value[:, None] * (1 - saturation[:, None] * strength)
    rgb[0] = 0.2
    return np.asarray((rgb * 255).round(), np.uint8)


def _check_lossless(image: ImageFile) -> None:
    """Raise BadImageError for files of lossy formats."""
    kind = "JPEG" if image.format == "MPO" or "jpeg" in str(image.info.get("compression")) else image.format
    if kind == "JPEG":
        raise BadImageError("JPEG changes values, so its labels cannot be trusted; create the map again, as PNG")
    if kind not in _FORMATS or "webp" in str(image.info.get("compression")):
        raise BadImageError(
            f"label maps are read from {', '.join(_FORMATS)} files, which are lossless; not from {kind}"
        )


def _storage(image: ImageFile) -> str:
    """Return how an opened file, not yet loaded, stores its pixels, in Pillow's terms; by default its mode."""
    arguments = image.tile[0].args if image.tile else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else image.mode


def _opaque(image: Image.Image) -> NDArray[np.uint8]:
    """Return the colours of a picture, (H, W, 3). Raises BadImageError for transparent pixels."""
    if "A" in image.mode and image.getchannel("A").getextrema() != (255, 255):
        raise BadImageError("is transparent in places, which have no label; fill them first")
    return np.asarray(image.convert("RGB"))


def _numbered(stored: NDArray[np.int64], values: Sequence[int]) -> NDArray[np.int64]:
    """Return each stored value's index among `values`. Raises BadImageError for others."""
    index, missing = _find(stored, np.array(values, np.int64))
    for y, x in np.argwhere(missing)[:1]:
        listed = ", ".join(map(str, values[:12])) + (", ..." if len(values) > 12 else "")
        raise BadImageError(f"holds {stored[y, x]} at ({x}, {y}), which is not one of the label values {listed}")
    return index


def _look_up(pixels: NDArray[np.uint8], colours: Colours) -> NDArray[np.int64]:
    """Return the index in the table of each pixel of (H, W, 3). Raises BadImageError for other colours."""
    weights = np.array([65536, 256, 1])
    stored = pixels @ weights
    index, missing = _find(stored, colours.rgb @ weights)
    for y, x in np.argwhere(missing)[:1]:
        raise BadImageError(
            f"the colour #{stored[y, x]:06x} at ({x}, {y}) is not one of the table's {len(colours.rgb)}; add it there"
        )
    return index


def _find(values: NDArray[np.int64], known: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the index in `known` of each value, and where there is none."""
    order = np.argsort(known)
    index = order[np.searchsorted(known[order], values).clip(max=len(known) - 1)]
    return np.asarray(index, np.int64), np.asarray(known[index] != values)


def _as_picture(labels: NDArray[np.int64]) -> Image.Image:
    return Image.fromarray(labels.astype(np.uint8) if labels.max() < 256 else labels.astype(np.int32))
