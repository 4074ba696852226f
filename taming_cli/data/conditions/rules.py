"""Conditions whose codes are computed from the picture, or from the position in it, by a rule without a codec."""

import torch
from torch import Tensor

from taming_cli.config.size import Size
from taming_cli.data.images import Crop

LOWRES_CODES = 16**3
"""Number of codes of `lowres`: three channels of 4 bits."""


def lowres(images: Tensor, grid: Size) -> Tensor:
    """Return the mean colour of each cell, 4 bits a channel: uint8 (n, 3, H, W) -> int64 (n, h, w).

    The code is 256 r + 16 g + b, each channel round(15 mean / 255), halves to even. H and W are multiples of the
    grid's sides. Sums are integers, so that codes are the same on every device and for every batch.
    """
    assert images.dtype == torch.uint8
    count, channels, height, width = images.shape
    assert channels == 3
    assert height % grid.height == 0
    assert width % grid.width == 0
    rows, columns = height // grid.height, width // grid.width
    sums = images.reshape(count, 3, grid.height, rows, grid.width, columns).sum((3, 5), dtype=torch.int64)
    # One division of integers in float64: only exact halves are rounded as halves.
    levels = (sums.double() / (17 * rows * columns)).round().long()
    return levels[:, 0] * 256 + levels[:, 1] * 16 + levels[:, 2]


def lowres_picture(codes: Tensor) -> Tensor:
    """Convert codes (n, h, w) of `lowres` to uint8 (n, 3, h, w), a pixel a cell; `lowres` is the inverse."""
    assert not codes.numel() or 0 <= int(codes.min()) <= int(codes.max()) < LOWRES_CODES
    levels = torch.stack([codes // 256, codes // 16 % 16, codes % 16], 1)
    return (levels * 17).to(torch.uint8)


def coords(crop: Crop, source: Size, grid: Size, levels: int) -> Tensor:
    """Return the position of each cell of a crop in its picture of size `source`: int64 (h, w), 0 to `levels`.

    The published raster scalar: in a picture W wide and H high, pixel (y, x) has the value (y W + x) / (H W), and a
    cell the mean over its box of the crop. The value is linear, so this is the value at the box's centre. The code is
    round(levels * value), halves to even, with the value clamped to [0, 1]. Columns of a mirrored crop run backwards.
    """
    assert levels >= 1
    row = torch.arange(grid.height, dtype=torch.float64)
    column = torch.arange(grid.width, dtype=torch.float64)
    # A pixel's value is that of its centre, half a pixel from the start of its box.
    y = crop.top + (row + 0.5) * crop.height / grid.height - 0.5
    x = crop.left + (column + 0.5) * crop.width / grid.width - 0.5
    if crop.flip:
        x = x.flip(0)
    place = y[:, None] * source.width + x[None, :]
    # One division, at the end: only exact halves are rounded as halves.
    return (place * levels / (source.height * source.width)).clamp(0, levels).round().long()
