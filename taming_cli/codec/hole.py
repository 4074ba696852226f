"""A picture with a hole: which cells are known, and their codes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from taming_cli.codec import tiles
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.size import Size
from taming_cli.data.images import nearest_known, read_rgb
from taming_cli.data.sources import Item
from taming_cli.errors import UsageError

UPPER_HALF = "upper-half"
"""Instead of a mask: the upper half is known, the lower is made."""
WHITE = 128
"""A mask's grey value from which on it means: generate."""


class Known(NamedTuple):
    """What is known of a picture: `codes` (1, h, w) int64, of which those count where `keep` (h, w) is true. The others
    are 0, so that what is known says all."""

    codes: Tensor
    keep: Tensor


def known(
    codec: VQGAN,
    picture: Path,
    mask: Path | str | None = None,
    *,
    size: Size | None = None,
    at: tuple[int, int] | None = None,
) -> Known:
    """The known cells of a picture on a canvas of `size`, by default its own size.

    `mask` has the picture's size, and is white where something is to be made; or it is `UPPER_HALF`. On a larger canvas
    the picture's upper left corner lies `at` (x, y), by default so that it is in the middle; what is around it is to be
    made. A cell with any unknown pixel is unknown. Before encoding, unknown pixels get the colour of the nearest known
    one, so that nothing of theirs leaks into their neighbours.

    Sides that f does not divide are cut, half on each side, where no `size` is given. Raises BadImageError for files
    that cannot be read, and UsageError for a mask of another size, one that leaves nothing to make or nothing known,
    and a canvas that the picture does not fit into.
    """
    image = _read(picture)
    unknown = _mask(mask, image, picture)
    pixels = np.asarray(image)
    f, own = codec.config.downsample_factor, Size(*image.size)
    if size is None:
        size = Size(own.width // f * f, own.height // f * f)
        if not size.width or not size.height:
            raise UsageError(f"{picture} is {own}, smaller than one code of {f} x {f} pixels; give --size")
        left, top = (own.width - size.width) // 2, (own.height - size.height) // 2
        box = (slice(top, top + size.height), slice(left, left + size.width))
        canvas, hole = pixels[box], unknown[box]
    else:
        codec.config.latent(size)
        x, y = at if at is not None else ((size.width - own.width) // 2, (size.height - own.height) // 2)
        if not (0 <= x <= size.width - own.width and 0 <= y <= size.height - own.height):
            raise UsageError(f"{picture} is {own} and does not fit into {size} at {x},{y}; give a larger --size")
        canvas = np.zeros((size.height, size.width, 3), np.uint8)
        hole = np.ones((size.height, size.width), bool)
        box = (slice(y, y + own.height), slice(x, x + own.width))
        canvas[box], hole[box] = pixels, unknown
    cells = F.max_pool2d(torch.from_numpy(hole)[None].float(), f)[0] > 0  # touched by the hole
    if cells.all() or not cells.any():
        what = "nothing known" if cells.all() else "nothing to make"
        raise UsageError(f"{mask or picture} leaves {what}; in a mask, white means: make this")
    filled = torch.from_numpy(_filled(canvas, hole)).permute(2, 0, 1)[None]
    return Known(tiles.encode(codec, filled).cpu() * ~cells, ~cells)


def _filled(pixels: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(H, W, 3) with the pixels of the hole in the colour of the nearest known one."""
    return np.asarray(pixels.reshape(-1, 3)[nearest_known(hole)], np.uint8)


def _mask(mask: Path | str | None, image: Image, picture: Path) -> NDArray[np.bool_]:
    """(H, W): where something is to be made."""
    unknown = np.zeros((image.height, image.width), bool)
    if mask is None:
        return unknown
    if mask == UPPER_HALF:
        unknown[image.height // 2 :] = True
        return unknown
    found = _read(Path(mask))
    if found.size != image.size:
        raise UsageError(f"{mask} is {Size(*found.size)}, but {picture} is {Size(*image.size)}; make them one size")
    return np.asarray(np.asarray(found.convert("L")) >= WHITE)


def _read(path: Path) -> Image:
    return read_rgb(Item(str(path), path).read(), str(path))
