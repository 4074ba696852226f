"""The order in which a prior draws the cells of its window: raster, or one of the published permutations.

Only raster order has a sliding window; in the others, pictures always have the window's size.
"""

import torch
from torch import Tensor

from taming_cli.config.prior import PriorConfig


def cells(config: PriorConfig) -> Tensor:
    """The raster number of the cell at each position of the order: (cells,) int64, a permutation.

    Esser, Rombach, Ommer 2021, section 4.4 and figure 46: `z-curve` (Morton), `spiral-out` from the middle and
    `spiral-in` to it, `alternating` rows.
    """
    height, width = config.window.height, config.window.width
    raster = torch.arange(height * width).view(height, width)
    if config.order == "z-curve":
        return torch.argsort(_morton(raster // width, raster % width).flatten())
    if config.order == "alternating":
        raster[1::2] = raster[1::2].flip(1)
    if config.order in ("spiral-out", "spiral-in"):
        out = _spiral(raster)
        return out if config.order == "spiral-out" else out.flip(0)
    return raster.flatten()


def in_order(config: PriorConfig, grid: Tensor) -> Tensor:
    """Values on the window (n, a, b) -> (n, cells) in the prior's order."""
    return grid.flatten(1) if config.order == "raster" else grid.flatten(1)[:, cells(config).to(grid.device)]


def on_grid(config: PriorConfig, row: Tensor) -> Tensor:
    """The inverse of `in_order`: (n, cells) -> (n, a, b)."""
    shape = (len(row), config.window.height, config.window.width)
    return row.view(shape) if config.order == "raster" else row[:, cells(config).argsort().to(row.device)].view(shape)


def _morton(row: Tensor, column: Tensor) -> Tensor:
    """The interleaved bits of row and column, the column's lowest bit first."""
    number = torch.zeros_like(row)
    for bit in range(16):
        number |= (column >> bit & 1) << 2 * bit | (row >> bit & 1) << 2 * bit + 1
    return number


def _spiral(raster: Tensor) -> Tensor:
    """Up, right, down, left by 1, 1, 2, 2, 3, 3, ... cells, from the lower left of the four cells in the middle."""
    side = len(raster)
    row, column, path = side // 2, side // 2 - 1, []
    for turn in range(2 * side):
        down, right = ((-1, 0), (0, 1), (1, 0), (0, -1))[turn % 4]
        for _ in range(turn // 2 + 1):
            path.append(raster[row, column])
            row, column = row + down, column + right
            if len(path) == side * side:
                return torch.stack(path)
    raise AssertionError("a spiral covers its square")
