"""Smooth noise over the plane, and its sums over octaves, faded out where a pixel is wider than the detail."""

import numpy as np
from numpy.typing import NDArray

from taming_cli.scenes.canvas import Dice, Floats

_PERIOD = 128  # lattice points per side: a power of two, small enough for a processor's cache
# Each octave is turned by this angle (cosine 0.8, sine 0.6), so that the lattices never line up.
_COS, _SIN = 1.6, 1.2


class Noise:
    """Value noise on a lattice of random numbers, with its slope.

    Steps of octaves follow I. Quilez, "Elevated" (2008): damping an octave by the slope gathered so far leaves smooth
    valleys and carved ridges, as erosion would.
    """

    def __init__(self, dice: Dice) -> None:
        self._table = dice.many(_PERIOD * _PERIOD)

    def _corners(self, x: Floats, y: Floats) -> tuple[Floats, Floats, tuple[Floats, Floats, Floats, Floats]]:
        """Fractions inside the cell, and the four lattice values around it."""
        floor_x, floor_y = np.floor(x), np.floor(y)
        column: NDArray[np.int32] = floor_x.astype(np.int32) & (_PERIOD - 1)
        row: NDArray[np.int32] = (floor_y.astype(np.int32) & (_PERIOD - 1)) * _PERIOD
        right, below = (column + 1) & (_PERIOD - 1), (row + _PERIOD) & (_PERIOD * _PERIOD - 1)
        take = self._table.take
        return (
            x - floor_x,
            y - floor_y,
            (take(row | column), take(row | right), take(below | column), take(below | right)),
        )

    def value(self, x: Floats, y: Floats) -> Floats:
        """Noise in [0, 1] at the points (x, y), float32 arrays that broadcast; features are about 1 wide."""
        x, y = np.broadcast_arrays(x, y)
        fx, fy, (a, b, c, d) = self._corners(x, y)
        fx = fx * fx * (3 - 2 * fx)
        fy = fy * fy * (3 - 2 * fy)
        top = a + (b - a) * fx
        return np.asarray(top + (c + (d - c) * fx - top) * fy)

    def slope(self, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
        """Noise in [0, 1] and its derivatives along x and y."""
        fx, fy, (a, b, c, d) = self._corners(x, y)
        sx = fx * fx * (3 - 2 * fx)
        sy = fy * fy * (3 - 2 * fy)
        ba, ca = b - a, c - a
        k = a - b - c + d
        dx = 6 * fx * (1 - fx) * (ba + k * sy)
        dy = 6 * fy * (1 - fy) * (ca + k * sx)
        return a + ba * sx + ca * sy + k * sx * sy, dx, dy

    def fbm(self, x: Floats, y: Floats, octaves: int, footprint: Floats | float = 0.0, gain: float = 0.5) -> Floats:
        """Octaves of `value`, scaled to [0, 1]; each fades as `footprint` (a pixel's width, units of x) outgrows it."""
        x, y = np.broadcast_arrays(x, y)
        total = np.full(x.shape, 0.5 * sum(gain**k for k in range(octaves)), np.float32)
        whole = total
        weight, norm, scale = 1.0, 0.0, 1.0
        for _ in range(octaves):
            fade = np.clip(1.6 - 2 * scale * np.asarray(footprint, np.float32), 0, 1)
            norm += weight
            if fade.ndim == 2 and fade.shape[1] == 1:  # leave out the rows where nothing is left of this octave
                seen = np.flatnonzero(fade[:, 0])
                if len(seen) == 0:
                    weight *= gain
                    continue
                rows = slice(seen[0], seen[-1] + 1)
                if len(seen) < len(x):
                    x, y, total, fade = x[rows], y[rows], total[rows], fade[rows]
                    footprint = np.asarray(footprint, np.float32)[rows]
            total += weight * fade * (self.value(x, y) - np.float32(0.5))
            x, y = x * _COS + y * _SIN + 17.3, y * _COS - x * _SIN + 9.1
            weight *= gain
            scale *= 2
        return whole / np.float32(norm)

    def detail(self, x: Floats, y: Floats, fade: Floats) -> Floats:
        """`value` less its mean, times `fade` (N, 1), which decreases along N; costs nothing where fade is 0."""
        found = np.zeros(np.broadcast_shapes(x.shape, y.shape, fade.shape), np.float32)
        rows = int(np.count_nonzero(fade[:, 0]))
        if rows:
            found[:rows] = (self.value(x[:rows], y[:rows]) - np.float32(0.5)) * fade[:rows]
        return found

    def carved(self, x: Floats, y: Floats, octaves: int, footprint: Floats, carve: float = 1.0) -> Floats:
        """Octaves damped by slope, about [0, 1]; x, y (N, W); footprint (N, 1) must grow along N."""
        total = np.zeros(x.shape, np.float32)
        gather_x, gather_y = np.zeros_like(total), np.zeros_like(total)
        weight, scale, rows = 0.55, 1.0, len(x)
        for _ in range(octaves):
            fade = np.clip(1.6 - 2 * scale * footprint, 0, 1)
            rows = int(np.count_nonzero(fade[:rows, 0]))  # beyond these rows the detail is below a pixel
            if rows == 0:
                break
            x, y, fade = x[:rows], y[:rows], fade[:rows]
            n, dx, dy = self.slope(x, y)
            gx, gy = gather_x[:rows], gather_y[:rows]
            gx += dx * fade
            gy += dy * fade
            total[:rows] += weight * fade * (n - 0.15) / (1 + carve * (gx * gx + gy * gy))
            x, y = x * _COS + y * _SIN + 31.7, y * _COS - x * _SIN + 5.3
            weight *= 0.5
            scale *= 2
        return total
