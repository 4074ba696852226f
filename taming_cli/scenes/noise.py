"""Smooth noise over the plane and sums of its octaves, which fade out where a pixel is wider than their detail."""

from collections.abc import Iterator

import numpy as np

from taming_cli.scenes.canvas import Dice, Floats

_PERIOD = 128  # lattice points per side: a power of two, small enough for a processor's cache
# Each octave doubles the frequency and turns the plane, so that the lattices never line up; x + iy is one number.
_TURN, _SHIFT = complex(1.6, -1.2), complex(17.3, 9.1)


class Noise:
    """Value noise in [0, 1] on a lattice of random numbers; features are about 1 wide, and x and y broadcast.

    `footprint` is a pixel's width in units of x, a number or (N, 1) for points (N, W).
    """

    def __init__(self, dice: Dice) -> None:
        self._table = dice.many(_PERIOD * _PERIOD)

    def value(self, x: Floats, y: Floats) -> Floats:
        """Return the noise at the points (x, y)."""
        x, y = np.broadcast_arrays(x, y)
        floor_x, floor_y = np.floor(x), np.floor(y)
        column = floor_x.astype(np.int32) & (_PERIOD - 1)
        row = (floor_y.astype(np.int32) & (_PERIOD - 1)) * _PERIOD
        right, below = (column + 1) & (_PERIOD - 1), (row + _PERIOD) & (_PERIOD * _PERIOD - 1)
        fx, fy, take = x - floor_x, y - floor_y, self._table.take
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        upper = take(row | column)
        upper = upper + (take(row | right) - upper) * fx
        lower = take(below | column)
        lower = lower + (take(below | right) - lower) * fx
        return np.asarray(upper + (lower - upper) * fy)

    def fbm(self, x: Floats, y: Floats, octaves: int, footprint: Floats | float = 0.0, gain: float = 0.5) -> Floats:
        """Return the sum of octaves, scaled to [0, 1]; it is 0.5 where all of them have faded."""
        total = np.full(np.broadcast_shapes(x.shape, y.shape), 0.5, np.float32)
        norm = sum(gain**k for k in range(octaves))
        for number, rows, fade, px, py in _octaves(x, y, octaves, footprint):
            total[rows] += fade * np.float32(gain**number / norm) * (self.value(px, py) - np.float32(0.5))
        return total

    def ridged(self, x: Floats, y: Floats, octaves: int, footprint: Floats | float) -> Floats:
        """Return the sum of octaves of sharp ridges, each weighted by the sum before it; about [0, 1].

        After F. K. Musgrave, "Procedural Fractal Terrains", in Ebert et al., "Texturing and Modeling" (1994).
        """
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
        for number, rows, fade, px, py in _octaves(x, y, octaves, footprint):
            ridge = 1 - np.abs(2 * self.value(px, py) - 1)
            above = np.clip(2 * total[rows], 0, 1) if number else np.float32(1)
            total[rows] += fade * np.float32(0.5 ** (number + 1)) * ridge * ridge * above
        return total


def _octaves(
    x: Floats, y: Floats, count: int, footprint: Floats | float
) -> Iterator[tuple[int, slice, Floats, Floats, Floats]]:
    """Yield each octave's number, the rows where its detail exceeds a pixel, and its strength, x and y there."""
    x, y = np.broadcast_arrays(x, y)
    turn, shift = complex(1), complex(0)
    for number in range(count):
        rows, fade = slice(None), np.clip(1.6 - 2 * 2**number * np.asarray(footprint, np.float32), 0, 1)
        if fade.ndim:
            left = np.flatnonzero(fade)
            if not len(left):
                return
            rows = slice(left[0], left[-1] + 1)
            fade = fade[rows]
        px, py = x[rows], y[rows]
        yield (number, rows, fade, px * turn.real - py * turn.imag + shift.real,
               px * turn.imag + py * turn.real + shift.imag)  # fmt: skip
        turn, shift = turn * _TURN, shift * _TURN + _SHIFT
