"""A picture with a hole: which cells are known, and their codes; and its known pixels put back."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from taming_cli.codec.tiling import tiles
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.size import Frame, Size
from taming_cli.data.images import nearest_known, read_rgb
from taming_cli.data.sources import Item
from taming_cli.errors import UsageError

UPPER_HALF = "upper-half"
"""Instead of a mask: the upper half is known, the lower is made."""
WHITE = 128
"""A mask's grey value from which on it means: generate."""
MISSED = 32.0
"""Grey levels that a codec's colours are wrong by, at most: twice the root mean square error at 24 dB."""


class Known(NamedTuple):
    """What is known of a picture in a `frame`: `codes` (1, h, w) int64, of which those count where `keep` (h, w) is
    true, and `pixels` uint8 (3, H, W), of which those count where `pixels_known` (H, W) is. The others are 0, so that
    what is known says all."""

    codes: Tensor
    keep: Tensor
    pixels: Tensor
    pixels_known: Tensor
    frame: Frame


def known(
    codec: VQGAN,
    picture: Path,
    mask: Path | str | None = None,
    *,
    size: Size | None = None,
    at: tuple[int, int] | None = None,
    budget: int = tiles.BUDGET,
) -> Known:
    """What is known of a picture on a canvas of any `size`, by default its own size.

    `mask` has the picture's size, and is white where something is to be made; or it is `UPPER_HALF`. On a larger canvas
    the picture's upper left corner lies `at` (x, y), by default so that it is in the middle; what is around it is to be
    made. The grid is the smallest that covers the canvas, and where it reaches beyond, cells begin at the picture's
    corner if they can. A cell with any unknown pixel of the canvas is unknown. Before encoding, unknown pixels, and
    those beyond the canvas, get the colour of the nearest known one, so that nothing of theirs leaks into their
    neighbours. Encoding takes `budget` bytes.

    Raises BadImageError for files that cannot be read, and UsageError for a mask of another size, one that leaves
    nothing to make or nothing known, and a canvas that the picture does not fit into.
    """
    image = _read(picture)
    unknown = _mask(mask, image, picture)
    f, own = codec.config.downsample_factor, Size(*image.size)
    size = size or own
    x, y = at if at is not None else ((size.width - own.width) // 2, (size.height - own.height) // 2)
    if not (0 <= x <= size.width - own.width and 0 <= y <= size.height - own.height):
        raise UsageError(f"{picture} is {own} and does not fit into {size} at {x},{y}; give a larger --size")
    frame = _around(size, f, x, y)
    pixels = np.zeros((frame.whole.height, frame.whole.width, 3), np.uint8)
    hole, inside = np.ones(pixels.shape[:2], bool), np.zeros(pixels.shape[:2], bool)
    inside[frame.place] = True
    top, left = frame.corner[1] + y, frame.corner[0] + x
    box = (slice(top, top + own.height), slice(left, left + own.width))
    pixels[box], hole[box] = np.asarray(image), unknown
    touched = F.max_pool2d(torch.from_numpy(hole & inside)[None].float(), f)[0] > 0
    if touched.all() or not touched.any():
        nothing = f"nothing known, no whole cell of {f} x {f} pixels" if touched.all() else "nothing to make"
        raise UsageError(f"{mask or picture} leaves {nothing}; in a mask, white means: make this")
    filled = torch.from_numpy(_filled(pixels, hole)).permute(2, 0, 1)[None]
    there = torch.from_numpy(~hole[frame.place])
    return Known(
        codes=tiles.encode(codec, filled, budget=budget).cpu() * ~touched,
        keep=~touched,
        pixels=torch.from_numpy(pixels[frame.place]).permute(2, 0, 1) * there,
        pixels_known=there,
        frame=frame,
    )


def _around(size: Size, f: int, x: int, y: int) -> Frame:
    """A canvas on the smallest grid that covers it, where cells begin at (x, y) if there is room for that."""
    grid = Frame(size, f).whole
    room = (grid.width - size.width, grid.height - size.height)
    left, top = (start if (start := -at % f) <= free else 0 for at, free in zip((x, y), room, strict=True))
    return Frame(size, f, (left, top))


def restored(images: Tensor, given: Known) -> Tensor:
    """Pictures uint8 (n, 3, H, W), decoded, with every known pixel as it was given.

    The codec does not give its colours back exactly, so pasting alone would leave an edge. What it is wrong by at the
    known pixels, blurred over a cell, is taken from the pixels nearby that were made, and fades out over another; but
    no more than MISSED: what differs by more is another thing, and would shine into its neighbours.
    """
    there = given.pixels_known.numpy().astype(np.float32)
    true, sigma = given.pixels.permute(1, 2, 0).numpy().astype(np.float32), given.frame.f / 2
    near = cv2.GaussianBlur(there, (0, 0), sigma)
    share = np.minimum(1, 2 * near) / np.maximum(near, 1e-6)  # a half lies on each side of a straight edge
    out = []
    for image in images:
        made = image.permute(1, 2, 0).numpy().astype(np.float32)
        wrong = np.clip(true - made, -MISSED, MISSED) * there[..., None]
        off = cv2.GaussianBlur(wrong, (0, 0), sigma) * share[..., None]
        mended = np.where(there[..., None] > 0, true, np.clip(np.rint(made + off), 0, 255))
        out.append(torch.from_numpy(mended.astype(np.uint8)).permute(2, 0, 1))
    return torch.stack(out)


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
