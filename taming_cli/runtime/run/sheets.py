"""Sheets of pictures that a training writes to `samples/`: their layout, and cutting one into its pictures.

A sheet of samples records its layout, and the class of each sample, in a text chunk of the PNG.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from taming_cli.config.parsing import parse_json
from taming_cli.data.disk import no_handle
from taming_cli.errors import BadFileError

LAYOUT = "taming-sheet"
"""Key of the text chunk."""
CONDITION = "condition_"
"""Prefix of the sheet with the maps of one kind that the samples follow: `condition_depth.png`."""
GAP = 2
"""Pixels between two pictures of a sheet, as in `data.images.grid`."""
MOST_PIXELS = 2**26
"""Largest number of pixels of a sheet that is cut into pictures; cutting a larger one would need too much memory."""
_SIGNATURE, _END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


@dataclass(frozen=True, kw_only=True)
class PngFile:
    """A PNG file of a run: width and height in pixels, size in bytes, and the step at which it was drawn (0 if it
    belongs to none)."""

    step: int
    path: Path
    width: int
    height: int
    size: int

    @property
    def png(self) -> bytes:
        """The file's content."""
        return self.path.read_bytes()


@dataclass(frozen=True)
class Layout:
    """`count` pictures of one size, row by row in `columns` columns; `labels` has one text per picture, or is empty."""

    columns: int
    count: int
    labels: tuple[str, ...] = ()


class Picture(NamedTuple):
    """A picture cut from a sheet: a PNG's bytes, width and height in pixels."""

    png: bytes
    width: int
    height: int


def read_png(path: Path, step: int = 0) -> PngFile:
    """Read a PNG's size from its header. BadFileError if the file is no complete PNG."""
    data = path.read_bytes()
    if len(data) < 24 or not data.startswith(_SIGNATURE) or not data.endswith(_END):
        raise BadFileError(f"{path} is not a complete PNG file")
    width, height = struct.unpack(">II", data[16:24])
    return PngFile(step=step, path=path, width=width, height=height, size=len(data))


def stamp(layout: Layout) -> dict[str, str]:
    """The text chunk of a sheet's PNG, as `layout_of` reads it."""
    return {LAYOUT: json.dumps(asdict(layout))}


def layout_of(sheet: PngFile) -> Layout | None:
    """The layout that a sheet records; None if it records none, or one that does not fit its size."""
    if sheet.width * sheet.height > MOST_PIXELS:
        return None
    try:
        with Image.open(sheet.path) as picture:
            recorded = parse_json(picture.info.get(LAYOUT, "null"))
        layout = Layout(int(recorded["columns"]), int(recorded["count"]), tuple(map(str, recorded["labels"])))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError) as error:  # another PNG, or a damaged one
        if no_handle(error):
            raise
        return None
    fits = layout.columns > 0 and layout.count > 0 and len(layout.labels) in (0, layout.count)
    return layout if fits and min(_picture_size(sheet, layout)) > 0 else None


def pictures_on(sheet: PngFile, layout: Layout) -> list[Picture]:
    """Every picture of a sheet, in order; empty if the file is damaged."""
    width, height = _picture_size(sheet, layout)
    corners = [divmod(number, layout.columns) for number in range(layout.count)]
    boxes = [(column * (width + GAP), row * (height + GAP)) for row, column in corners]
    return _cut(sheet.path, [(left, top, left + width, top + height) for left, top in boxes])


def halves(sheet: PngFile) -> Mapping[str, Picture]:
    """The two halves of a codec's sheet: `originals` above, `rebuilt` below. Empty if the file is damaged or too large
    to cut."""
    height = (sheet.height - GAP) // 2
    if height < 1 or sheet.width * sheet.height > MOST_PIXELS:
        return {}
    boxes = [(0, 0, sheet.width, height), (0, sheet.height - height, sheet.width, sheet.height)]
    return dict(zip(("originals", "rebuilt"), _cut(sheet.path, boxes), strict=False))


def _picture_size(sheet: PngFile, layout: Layout) -> tuple[int, int]:
    """Width and height of each picture on a sheet."""
    rows = -(-layout.count // layout.columns)
    return (sheet.width + GAP) // layout.columns - GAP, (sheet.height + GAP) // rows - GAP


def _cut(path: Path, boxes: Sequence[tuple[int, int, int, int]]) -> list[Picture]:
    """Boxes (left, top, right, bottom) of a PNG, each as a PNG; empty if the file is damaged."""
    try:
        with Image.open(path) as file:
            sheet = file.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        if no_handle(error):
            raise
        return []
    pictures = []
    for box in boxes:
        stream = BytesIO()
        sheet.crop(box).save(stream, "PNG")
        pictures.append(Picture(stream.getvalue(), box[2] - box[0], box[3] - box[1]))
    return pictures
