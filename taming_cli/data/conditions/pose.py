"""Read poses: rendered skeletons as they are, and keypoints in JSON, which are drawn.

Positions are in pixels from the top left corner of the picture, x to the right and y down.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from taming_cli.config.size import Size
from taming_cli.data.conditions.keypoints import Point, named, sheets
from taming_cli.data.conditions.skeletons import paint_figures
from taming_cli.data.formats import check_pixels
from taming_cli.data.images import read_rgb
from taming_cli.errors import BadImageError

_SHARES = 1.5
"""The largest coordinate of joints that are shares of the picture's sides; some joints lie outside of the picture."""


def read_pose(data: bytes, name: str, *, size: Size | None = None) -> Image.Image:
    """Read a rendered skeleton (see `images.read_rgb`) or draw keypoints in JSON -> RGB.

    JSON is recognised by its content (see `keypoints`). The drawing has the size that the file declares (`width` and
    `height`, `canvas_width` and `canvas_height`, or those of the only one of its `images`), else `size`. Coordinates
    that are all at most 1.5 are shares of the picture's sides.

    Raises BadImageError for files that `read_rgb` refuses, JSON without keypoints, keypoints of several pictures, where
    no size is known, and where most joints lie outside of `size`.
    """
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] not in (b"{", b"["):  # no image format begins with either
        return read_rgb(data, name)
    try:
        pictures = sheets(text)
        if len(pictures) > 1:
            raise BadImageError(
                f"keypoints of {len(pictures)} pictures; split the file into one for each, named like the picture"
            )
        sheet = pictures[0]
        figures = [named(person, number) for number, person in enumerate(sheet.people)]
        drawn = sheet.size or size
        if drawn is None:
            raise BadImageError(
                "keypoints without the size of their picture; name the pictures (--pictures), give the size (--size), "
                "or add `width` and `height` to the file; see: taming guide conditions"
            )
        check_pixels((drawn.width, drawn.height))
        figures = _in_pixels(figures, drawn)
        if sheet.size is None:
            _check_inside(figures, drawn)
    except BadImageError as error:
        raise BadImageError(f"{name}: {error}") from error
    return Image.fromarray(paint_figures(figures, drawn.width, drawn.height))


def _in_pixels(figures: list[dict[str, Point]], size: Size) -> list[dict[str, Point]]:
    """Convert joints that are shares of the picture's sides to pixels; others are returned as they are."""
    places = [place for figure in figures for place in figure.values()]
    if len(places) < 3 or max(size.width, size.height) < 8 or np.abs(places).max() > _SHARES:
        return figures
    return [{name: (x * size.width, y * size.height) for name, (x, y) in figure.items()} for figure in figures]


def _check_inside(figures: Sequence[Mapping[str, Point]], size: Size) -> None:
    """Raise BadImageError for a size that cannot be the picture's: most joints lie outside of it."""
    places = np.array([place for figure in figures for place in figure.values()]).reshape(-1, 2)
    outside = (places < 0).any(1) | (places > (size.width, size.height)).any(1)
    if outside.sum() > len(places) / 2:
        x, y = places[outside][places[outside].sum(1).argmax()]
        raise BadImageError(f"most joints lie outside of {size}, one at ({x:.0f}, {y:.0f}); give their picture's size")
