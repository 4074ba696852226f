"""Segmentation maps: each pixel's label, read from a file, and painted to be looked at.

A label is an integer from 0. Labels must come out as they were stored, so only formats that keep them are read, and
nothing is scaled or converted on the way.
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

_FORMATS = ("PNG", "TIFF", "BMP")  # not GIF: its writers put palettes, and with them the indices, into another order
_LARGEST = 65535

# Grey pictures of less than a byte a pixel, as Pillow names their storage -> what it multiplies their values with.
_SPREAD = {"L;2": 85, "L;4": 17}

_COLOUR = re.compile(r"#([0-9a-fA-F]{6})(?:\s+(.*))?")
_MISTYPED = re.compile(r"#[0-9a-fA-F]+(?:\s|$)")


class Colours(NamedTuple):
    """What each label looks like."""

    rgb: NDArray[np.uint8]
    """(L, 3), all different."""

    names: tuple[str, ...]
    """L of them, empty where a label has none."""


def read_colours(path: Path) -> Colours:
    """A text file with a line `#rrggbb name` for each label in order; the name may be left out.

    Empty lines are passed over, and so are comments: lines that begin with `#` but whose first word is no number.
    Raises UsageError, naming file and line, for other lines and for a colour that is there twice.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: the table of colours cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the table of colours is not text in utf-8") from error
    found: dict[str, str] = {}
    places: dict[str, int] = {}
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
        if code in found:
            raise UsageError(f"{path}, line {number}: #{code} is the colour of line {places[code]} too; change one")
        found[code], places[code] = colour[2] or "", number
    if not found:
        raise UsageError(f"{path}: no colours; write a line for each label, as in `#87ceeb sky`")
    rgb = np.array([list(bytes.fromhex(code)) for code in found], np.uint8)
    return Colours(rgb, tuple(found.values()))


def read_labels(
    data: bytes, name: str, *, colours: Colours | None = None, unlabelled: bool = False, values: Sequence[int] = ()
) -> Image.Image:
    """A label map's bytes -> its labels, upright: mode L where all are below 256, else mode I (up to 65535).

    The label is the grey value as it is stored (1 to 16 bits a pixel, or three equal channels), or a palette picture's
    index. `unlabelled` is for COCO-Stuff's files, whose stored 255 means unlabelled: the label is (value + 1) mod 256,
    so 255 becomes 0, and 0 to 181 become 1 to 182. With `values`, the label is the place of the stored value among
    them: `(0, 255)` makes labels 0 and 1 of a mask of 0 and 255. True-colour pictures need a table: with `colours`, the
    label of a picture of three channels is its colour's place in that (and `unlabelled` has no effect on it).

    Raises BadImageError for what is not a picture, damaged, or not stored without loss; for true colour without a
    table; for a colour that the table lacks; and for a stored value that `values` lacks.
    """
    with opened(data, name) as image:
        _check_lossless(image)
        storage = _storage(image)
        if re.search(r";\d?I", storage):
            raise BadImageError("stores its grey values inverted, so that its labels are in doubt; save it as PNG")
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
                    "a picture in colour; give a table of colours that says which label each one is (train-vqgan "
                    "--colours FILE)"
                )
            stored = pixels[..., 0].astype(np.int64)
        else:
            raise BadImageError(f"pixels stored as {storage} are no labels; save the map as grey PNG of 8 or 16 bits")
        if values:
            stored = _numbered(stored, values)
        if stored.min() < 0 or stored.max() > _LARGEST:
            raise BadImageError(
                f"holds labels from {stored.min()} to {stored.max()}; 0 to {_LARGEST} can be read, others where "
                "train-vqgan --label-values lists them"
            )
        if unlabelled:
            if stored.max() > 255:
                raise BadImageError(f"holds the label {stored.max()}; maps whose 255 means unlabelled end at 255")
            stored = (stored + 1) % 256
        return upright(image, _as_picture(stored))


def paint(labels: Tensor, colours: Colours | None = None) -> Tensor:
    """Integers (..., H, W) -> uint8 (..., 3, H, W), for looking at them.

    Labels that the table lacks, and all without one, get a colour that is a fixed function of the label: dark grey for
    0, then hues that are a golden section of the circle apart, of changing strength and brightness.
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
    """Colours of the labels 0 to count - 1, uint8 (count, 3)."""
    number = np.arange(count)
    hue = number * ((5**0.5 - 1) / 2) % 1 * 6
    # Hues nearly come back after 21, 34, 55, 89 and 144 labels, none of which is a multiple of these cycles' 20.
    saturation = np.array([0.8, 0.9, 0.6, 1.0, 0.4])[number % 5]
    value = np.array([0.5, 0.7, 0.85, 1.0])[number % 4]
    sector = (np.array([5, 3, 1]) + hue[:, None]) % 6  # HSV to RGB, without cases (Smith, 1978, in its closed form)
    strength = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    rgb = value[:, None] * (1 - saturation[:, None] * strength)
    rgb[0] = 0.2
    return np.asarray((rgb * 255).round(), np.uint8)


def _check_lossless(image: ImageFile) -> None:
    """Raise BadImageError unless a file of this kind gives back the values that were put into it."""
    kind = "JPEG" if image.format == "MPO" or "jpeg" in str(image.info.get("compression")) else image.format
    if kind == "JPEG":
        raise BadImageError("JPEG changes values, so its labels cannot be trusted; make the map anew, as PNG")
    if kind not in _FORMATS or "webp" in str(image.info.get("compression")):
        raise BadImageError(f"label maps are read from {', '.join(_FORMATS)} files, which keep every value; not {kind}")


def _storage(image: ImageFile) -> str:
    """How a file that is opened, but not loaded, stores its pixels, in Pillow's words; its mode where that is all."""
    arguments = image.tile[0].args if image.tile else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else image.mode


def _opaque(image: Image.Image) -> NDArray[np.uint8]:
    """The colours of a picture that has them, (H, W, 3); BadImageError where any of it is transparent."""
    if "A" in image.mode and image.getchannel("A").getextrema() != (255, 255):
        raise BadImageError("is transparent in places, which have no label; fill them with one")
    return np.asarray(image.convert("RGB"))


def _numbered(stored: NDArray[np.int64], values: Sequence[int]) -> NDArray[np.int64]:
    """Each stored value's place among `values`; BadImageError for one that is not there."""
    known = np.array(values, np.int64)
    order = np.argsort(known)
    place = order[np.searchsorted(known[order], stored).clip(max=len(known) - 1)]
    missing = known[place] != stored
    if missing.any():
        y, x = np.argwhere(missing)[0]
        listed = ", ".join(map(str, values[:12])) + (", ..." if len(values) > 12 else "")
        raise BadImageError(f"holds {stored[y, x]} at ({x}, {y}), which is not one of the label values {listed}")
    return np.asarray(place, np.int64)


def _look_up(pixels: NDArray[np.uint8], colours: Colours) -> NDArray[np.int64]:
    """uint8 (H, W, 3) -> each pixel's place in the table; BadImageError for a colour that is not there."""
    weights = np.array([65536, 256, 1])
    wanted, known = pixels @ weights, colours.rgb @ weights
    order = np.argsort(known)
    place = order[np.searchsorted(known[order], wanted).clip(max=len(known) - 1)]
    missing = known[place] != wanted
    if missing.any():
        y, x = np.argwhere(missing)[0]
        raise BadImageError(
            f"the colour #{wanted[y, x]:06x} at ({x}, {y}) is not one of the table's {len(known)}; add it there"
        )
    return np.asarray(place, np.int64)


def _as_picture(labels: NDArray[np.int64]) -> Image.Image:
    return Image.fromarray(labels.astype(np.uint8) if labels.max() < 256 else labels.astype(np.int32))
