"""The order in which the cells of a grid of any size are drawn: coarse to fine, neighbours far apart, always the same.

Cells take their ranks from one tile of blue noise, which repeats over the grid. The cells of rank 0, one of each tile,
are ordered by the same rule on the grid of tiles. So the first cells of a picture of any size are few and far apart,
and each part of the order is spread evenly over the picture.

The *level* of a cell says how sparse the cells are that come no later: one in `4 ** level`.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

TILE = 64
"""Rows and columns of the tile."""
LEVELS = 6
"""The level of rank 0 in a tile: TILE squared is 4 ** LEVELS."""
SIGMAS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Widths, in cells, of the Gaussians whose sum is the energy that a cell has for the others."""

Grid = npt.NDArray[np.int64]


@lru_cache(maxsize=1)
def tile() -> Grid:
    """The ranks of the tile, (TILE, TILE), a permutation of 0 to TILE**2 - 1, which tiles the plane without a seam.

    Each next cell is the one where the sum of the energies of those before is least, as in the void-and-cluster method
    (Ulichney 1993), with Gaussians of several widths, so that small parts of the order are spread evenly too.
    """
    distance = np.minimum(np.arange(TILE), TILE - np.arange(TILE)).astype(np.float64)
    squared = distance[:, None] ** 2 + distance**2
    energy_of_one = np.sum([np.exp(-squared / (2 * sigma**2)) / sigma for sigma in SIGMAS], axis=0)
    energy_of_one[0, 0] = np.inf
    shifted = np.tile(energy_of_one, (2, 2))
    energy = np.random.default_rng(0).random((TILE, TILE)) * 1e-6
    ranks = np.empty((TILE, TILE), dtype=np.int64)
    for rank in range(TILE**2):
        row, column = divmod(int(energy.argmin()), TILE)
        ranks[row, column] = rank
        energy += shifted[TILE - row : 2 * TILE - row, TILE - column : 2 * TILE - column]
    ranks.setflags(write=False)
    return ranks


class Ranks:
    """The order of a grid (h, w): `order` holds the numbers of its cells, `row * w + column`, from the first to the
    last, and `levels` (h, w) the level of each cell.

    `offset` (rows, columns) moves the tile; by default, the first cell is at the centre. With `flip`, a number below 8,
    the tile is mirrored (bits 0 and 1) and transposed (bit 2).
    """

    def __init__(self, height: int, width: int, *, offset: tuple[int, int] | None = None, flip: int = 0) -> None:
        ranks = tile()
        ranks = ranks.T if flip & 4 else ranks
        ranks = ranks[:: -1 if flip & 1 else 1, :: -1 if flip & 2 else 1]
        if offset is None:
            first_row, first_column = divmod(int(ranks.argmin()), TILE)
            offset = first_row - height // 2, first_column - width // 2
        down, across = (np.arange(n) + o for n, o in zip((height, width), offset, strict=True))
        own = ranks[down[:, None] % TILE, across % TILE]
        tile_rows, tile_columns = down // TILE - down[0] // TILE, across // TILE - across[0] // TILE
        tiles = int(tile_rows[-1]) + 1, int(tile_columns[-1]) + 1
        several = tiles != (1, 1)
        among = Ranks(*tiles) if several else None
        place = np.zeros(tiles, dtype=np.int64) if among is None else among.places()
        of_tile = place[tile_rows[:, None], tile_columns]
        self.order: Grid = np.lexsort((of_tile.ravel(), own.ravel()))
        self.levels: Grid = LEVELS - np.ceil(np.log2(own + 1) / 2).astype(np.int64)
        if among is not None:
            self.levels = self.levels + np.where(own == 0, among.levels[tile_rows[:, None], tile_columns], 0)

    def places(self) -> Grid:
        """The place of each cell in the order, in the shape of the grid."""
        places = np.empty(self.order.size, dtype=np.int64)
        places[self.order] = np.arange(self.order.size)
        return places.reshape(self.levels.shape)
