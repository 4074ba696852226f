"""Completion of a picture: its known cells and pixels, and how known pixels are restored after decoding."""

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
from taming_cli.prior.layout import KnownCells
from taming_cli.sampling.own_codes import read_own_codes

UPPER_HALF = "upper-half"
"""A value in place of a mask: the upper half is known, the lower half is drawn."""
WHITE = 128
"""Smallest grey value of a mask at which a pixel is drawn."""
LARGEST_ERROR = 32.0
"""Largest correction of the codec's colours, in grey levels: twice the root mean square error at 24 dB."""


class KnownPicture(NamedTuple):
    """The known part of a picture in a `frame`: its `cells`, codes (1, h, w) and mask (h, w), and its `pixels` uint8
    (3, H, W), valid where `mask` (H, W) is true. Unknown codes and pixels are 0, so equal tensors mean equal input."""

    cells: KnownCells
    pixels: Tensor
    mask: Tensor
    frame: Frame


def read_known(
    codec: VQGAN,
    picture: Path,
    mask: Path | str | None = None,
    *,
    size: Size | None = None,
    at: tuple[int, int] | None = None,
    budget: int = tiles.BUDGET,
) -> KnownPicture:
    """Read a picture to complete, on a canvas of any `size`; by default of its own size.

    `mask` is an image of the picture's size, white where pixels are to be drawn, or `UPPER_HALF`. On a larger canvas,
    the picture's upper left corner is `at` (x, y), centred by default; its surroundings are drawn. The grid is the
    smallest that covers the canvas. If it is larger than the canvas, cells start at the picture's corner where
    possible. A cell with any unknown pixel of the canvas is unknown. Before encoding, pixels that are unknown or
    outside the canvas take the colour of the nearest known pixel, so that they do not affect known cells. Encoding uses
    `budget` bytes.

    Raises BadImageError for files that cannot be read, and UsageError for a mask of another size, a mask that leaves
    nothing to draw or nothing known, and a canvas that does not contain the picture.
    """
    image = _read(picture)
    unknown = _unknown_pixels(mask, image, picture)
    f, own = codec.config.downsample_factor, Size(*image.size)
    size = size or own
    x, y = at if at is not None else ((size.width - own.width) // 2, (size.height - own.height) // 2)
    if not (0 <= x <= size.width - own.width and 0 <= y <= size.height - own.height):
        raise UsageError(f"{picture} is {own} and does not fit into {size} at {x},{y}; give a larger --size")
    frame = _frame_at(size, f, x, y)
    pixels = np.zeros((frame.whole.height, frame.whole.width, 3), np.uint8)
    missing, inside = np.ones(pixels.shape[:2], bool), np.zeros(pixels.shape[:2], bool)
    inside[frame.place] = True
    top, left = frame.corner[1] + y, frame.corner[0] + x
    box = (slice(top, top + own.height), slice(left, left + own.width))
    pixels[box], missing[box] = np.asarray(image), unknown
    drawn = _drawn_cells(missing & inside, f, mask or picture)
    filled = pixels.reshape(-1, 3)[nearest_known(missing)]
    codes = tiles.encode(codec, torch.from_numpy(filled).permute(2, 0, 1)[None], budget=budget).cpu()
    known = torch.from_numpy(~missing[frame.place])
    return KnownPicture(
        cells=KnownCells(codes * ~drawn, ~drawn),
        pixels=torch.from_numpy(pixels[frame.place]).permute(2, 0, 1) * known,
        mask=known,
        frame=frame,
    )


def read_sample(codec: VQGAN, picture: Path, mask: Path | str) -> KnownPicture:
    """Read a sample to redraw in part: where `mask`, as in `read_known`, is black, its own codes are known.

    Raises UsageError for a picture that is no sample of this codec, and as `read_known`.
    """
    image, own = _read(picture), read_own_codes(picture)
    f, frame = codec.config.downsample_factor, own.frame
    if own.codec_sha256 != codec.sha256() or f != frame.f:
        raise UsageError(
            f"{picture} was drawn with another codec ({own.codec_sha256[:12]}); use the prior that drew it"
        )
    if image.size != (frame.size.width, frame.size.height):
        raise UsageError(
            f"{picture} is {Size(*image.size)}, but its codes are of {frame.size}; use the file as written"
        )
    missing = np.zeros((frame.whole.height, frame.whole.width), bool)
    missing[frame.place] = _unknown_pixels(mask, image, picture)
    drawn = _drawn_cells(missing, f, mask)
    known = torch.from_numpy(~missing[frame.place])
    return KnownPicture(
        cells=KnownCells((own.codes * ~drawn)[None], ~drawn),
        pixels=torch.from_numpy(np.array(image)).permute(2, 0, 1) * known,
        mask=known,
        frame=frame,
    )


def _drawn_cells(missing: NDArray[np.bool_], f: int, source: Path | str) -> Tensor:
    """The cells (h, w) with a missing pixel. UsageError if that is all or none."""
    drawn = F.max_pool2d(torch.from_numpy(missing)[None].float(), f)[0] > 0
    if drawn.all() or not drawn.any():
        reason = f"nothing known, no whole cell of {f} x {f} pixels" if drawn.all() else "nothing to draw"
        raise UsageError(f"{source} leaves {reason}; a mask is white where pixels are to be drawn")
    return drawn


def restore_pixels(images: Tensor, known: KnownPicture) -> Tensor:
    """Decoded pictures uint8 (n, 3, H, W) with every known pixel restored to its original value.

    The codec does not reproduce colours exactly, so pasting alone would leave an edge. The codec's error at the known
    pixels, blurred over a cell, is subtracted from the drawn pixels nearby and fades out over another cell. Errors are
    clipped to LARGEST_ERROR: a larger difference means different content, whose colour would bleed into its
    surroundings.
    """
    mask = known.mask.numpy().astype(np.float32)
    original, sigma = known.pixels.permute(1, 2, 0).numpy().astype(np.float32), known.frame.f / 2
    near = cv2.GaussianBlur(mask, (0, 0), sigma)
    share = np.minimum(1, 2 * near) / np.maximum(near, 1e-6)  # a half lies on each side of a straight edge
    restored = []
    for image in images:
        decoded = image.permute(1, 2, 0).numpy().astype(np.float32)
        error = np.clip(original - decoded, -LARGEST_ERROR, LARGEST_ERROR) * mask[..., None]
        correction = cv2.GaussianBlur(error, (0, 0), sigma) * share[..., None]
        blended = np.where(mask[..., None] > 0, original, np.clip(np.rint(decoded + correction), 0, 255))
        restored.append(torch.from_numpy(blended.astype(np.uint8)).permute(2, 0, 1))
    return torch.stack(restored)


def _frame_at(size: Size, f: int, x: int, y: int) -> Frame:
    """A canvas on the smallest grid that covers it. Cells start at (x, y) if the grid has room for that."""
    grid = Frame(size, f).whole
    room = (grid.width - size.width, grid.height - size.height)
    left, top = (start if (start := -at % f) <= free else 0 for at, free in zip((x, y), room, strict=True))
    return Frame(size, f, (left, top))


def _unknown_pixels(mask: Path | str | None, image: Image, picture: Path) -> NDArray[np.bool_]:
    """(H, W): true where pixels are to be drawn."""
    unknown = np.zeros((image.height, image.width), bool)
    if mask is None:
        return unknown
    if mask == UPPER_HALF:
        unknown[image.height // 2 :] = True
        return unknown
    read = _read(Path(mask))
    if read.size != image.size:
        raise UsageError(f"{mask} is {Size(*read.size)}, but {picture} is {Size(*image.size)}; make them the same size")
    return np.asarray(np.asarray(read.convert("L")) >= WHITE)


def _read(path: Path) -> Image:
    return read_rgb(Item(str(path), path).read(), str(path))
