"""Sheets of pictures that a training leaves in `samples/`: what lies where on one, and one cut into its pictures again.

A sheet of samples says in a text chunk how it is laid out and of which class each sample is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image

LAYOUT = "taming-sheet"
"""The text chunk's key."""
CONDITION = "condition_"
"""How the sheet of the maps of a kind is called, which the samples were drawn for: `condition_depth.png`."""
GAP = 2
"""Pixels between two pictures of a sheet, as `data.images.grid` leaves them."""
MOST_PIXELS = 2**26
"""Sheets of more are shown as they are: taking one apart would need too much memory."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A PNG: reconstructions or samples as of `step`; width and height in pixels, size in bytes."""

    step: int
    path: Path
    width: int
    height: int
    bytes: int


@dataclass(frozen=True)
class Layout:
    """`count` pictures of one size, row by row in `columns` columns; `labels` has a word for each, or none at all."""

    columns: int
    count: int
    labels: tuple[str, ...] = ()


class Piece(NamedTuple):
    """A part of a sheet: a PNG's bytes, width and height in pixels."""

    png: bytes
    width: int
    height: int


def stamp(layout: Layout) -> dict[str, str]:
    """The text that goes into a sheet's PNG; the partner of `layout_of`."""
    return {LAYOUT: json.dumps(asdict(layout))}


def layout_of(sheet: Sheet) -> Layout | None:
    """What a sheet says of itself; None where it says nothing, or nothing that fits it."""
    if sheet.width * sheet.height > MOST_PIXELS:
        return None
    try:
        with Image.open(sheet.path) as picture:
            said = json.loads(picture.info.get(LAYOUT, "null"))
        layout = Layout(int(said["columns"]), int(said["count"]), tuple(map(str, said["labels"])))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError):  # another PNG, or a damaged one
        return None
    fits = layout.columns > 0 and layout.count > 0 and len(layout.labels) in (0, layout.count)
    return layout if fits and min(_cell(sheet, layout)) > 0 else None


def pieces(sheet: Sheet, layout: Layout) -> list[Piece]:
    """Every picture of a sheet, in order; none where the file is damaged."""
    width, height = _cell(sheet, layout)
    corners = [divmod(number, layout.columns) for number in range(layout.count)]
    boxes = [(column * (width + GAP), row * (height + GAP)) for row, column in corners]
    return _cut(sheet.path, [(left, top, left + width, top + height) for left, top in boxes])


def halves(sheet: Sheet) -> Mapping[str, Piece]:
    """The `originals` in the upper half of a codec's sheet, and what became of them, `rebuilt`; nothing where the file
    is damaged or too large to be taken apart."""
    height = (sheet.height - GAP) // 2
    if height < 1 or sheet.width * sheet.height > MOST_PIXELS:
        return {}
    boxes = [(0, 0, sheet.width, height), (0, sheet.height - height, sheet.width, sheet.height)]
    return dict(zip(("originals", "rebuilt"), _cut(sheet.path, boxes), strict=False))


def _cell(sheet: Sheet, layout: Layout) -> tuple[int, int]:
    """Width and height of each picture on a sheet."""
    rows = -(-layout.count // layout.columns)
    return (sheet.width + GAP) // layout.columns - GAP, (sheet.height + GAP) // rows - GAP


def _cut(path: Path, boxes: Sequence[tuple[int, int, int, int]]) -> list[Piece]:
    """Boxes (left, top, right, bottom) of a PNG, each as a PNG."""
    found = []
    try:
        with Image.open(path) as picture:
            whole = picture.convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return []
    for box in boxes:
        stream = BytesIO()
        whole.crop(box).save(stream, "PNG")
        found.append(Piece(stream.getvalue(), box[2] - box[0], box[3] - box[1]))
    return found
