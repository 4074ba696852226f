"""Which samples form each batch of a training, and how much of their grids it reads: pure functions of the position.

All pictures of a batch have grids of one size. A raster prior reads a window of each. A prior for any order reads whole
grids where these have at most as many cells as its window, else crops of many shapes.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.prior.noise import WORD, Stream, uniform, words

Rows = npt.NDArray[np.int64]
Grid = tuple[int, int]
"""Rows and columns."""
FEWEST = 256
"""Cells of the smallest crops."""
NARROWEST = 8
"""Cells on the shorter side of a crop, at least, where window and grid have as many."""


class Buckets(NamedTuple):
    """The samples of a training by the sizes of their grids: `rows[i]` have grids of `grids[i]`."""

    grids: tuple[Grid, ...]
    rows: tuple[Rows, ...]


def batch_rows(buckets: Buckets, train: PriorTrainConfig, position: int, count: int) -> tuple[Rows, Grid]:
    """The samples at positions `position` to `position + count - 1`, and the size of their grids.

    An epoch reads each sample once; with grids of several sizes, those of one size together, so that some samples are
    read twice to complete the last batch of a size.
    """
    if len(buckets.grids) == 1:
        (rows,) = buckets.rows
        places = range(position, position + count)
        return rows[[order(len(rows), p // len(rows), train.seed)[p % len(rows)] for p in places]], buckets.grids[0]
    batches = _batches(tuple(len(rows) for rows in buckets.rows), train.batch_size)
    number, first = divmod(position, train.batch_size)
    epoch, place = divmod(number, len(batches))
    bucket, chunk = batches[order(len(batches), epoch, train.seed)[place]].tolist()
    rows = buckets.rows[bucket]
    start = chunk * train.batch_size + first
    return rows[order(len(rows), epoch, train.seed)[np.arange(start, start + count) % len(rows)]], buckets.grids[bucket]


def crop_size(grid: Grid, prior: PriorConfig, seed: int, batch: int) -> Grid:
    """The rows and columns that batch number `batch` reads of grids of this size.

    A raster prior reads its window. A prior for any order reads all of a grid of at most `prior.cells` cells. Of a
    larger one, half of the batches read crops of that many cells, the others of fewer, down to a quarter but not below
    FEWEST, in any shape between the narrowest and the flattest that fits; cells and rows are log-uniform.
    """
    height, width = grid
    if prior.arch != "any-order":
        return prior.window.height, prior.window.width
    if height * width <= prior.cells:
        return grid
    of_cells, of_rows = uniform(seed, Stream.SIZE, torch.tensor(batch >> 32), torch.tensor(batch & WORD), 2).tolist()
    cells = max(prior.cells * 4.0 ** min(0.0, 1 - 2 * of_cells), min(FEWEST, prior.cells))
    narrowest = min(NARROWEST, math.sqrt(cells) / 2)
    fewest, most = max(cells / width, min(narrowest, height)), min(height, cells / min(narrowest, width))
    rows = min(height, max(1, round(math.exp(math.log(fewest) + of_rows * math.log(max(1.0, most / fewest))))))
    return rows, min(width, max(1, round(cells / rows)))


@lru_cache(maxsize=8)  # a batch may reach into the next epoch, and grids may have several sizes
def order(count: int, epoch: int, seed: int) -> Rows:
    """The order of an epoch: indices sorted by random words."""
    drawn = words(seed, Stream.ORDER, torch.tensor(epoch), torch.tensor(0), count)
    return np.asarray(np.argsort(drawn.numpy(), kind="stable"), dtype=np.int64)


@lru_cache(maxsize=2)
def _batches(counts: tuple[int, ...], batch_size: int) -> Rows:
    """The bucket and the number within it of each batch of an epoch, (n, 2)."""
    return np.array([(b, c) for b, count in enumerate(counts) for c in range(-(-count // batch_size))], dtype=np.int64)
