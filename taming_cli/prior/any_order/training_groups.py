"""The groups of cells in which a training picture is predicted: orders, group sizes and holes of many kinds.

Sampling draws by one order, completion knows any part of a picture, and likelihood may take one cell at a time. So the
network learns all of it: orders of blue noise, with the tile in any position, and random ones; and any part known.
"""

import math

import numpy as np
import torch

from taming_cli.prior.any_order.blue_noise import TILE, Ranks
from taming_cli.prior.any_order.plan import FEWEST_STEPS, GroupPlan
from taming_cli.prior.noise import WORD, Stream, uniform

HOLES = 0.2
"""Fraction of the pictures of which a part is known."""
RANDOM = 0.2
"""Fraction of the pictures whose cells are drawn in random order; the others follow blue noise."""
POWERS = (0.0, 0.0, 1.0, 1.5, 2.5)
"""How the groups grow (see `group_ends`)."""


def training_groups(height: int, width: int, seed: int, position: int) -> GroupPlan:
    """The groups of the picture at this position of a training, as a pure function of the arguments."""
    cells = height * width
    major, minor = torch.tensor(position >> 32), torch.tensor(position & WORD)
    draws = uniform(seed, Stream.GROUPS, major, minor, 16 + cells).numpy()
    u, noise = iter(draws[:16].tolist()), draws[16:]
    offset = int(next(u) * TILE), int(next(u) * TILE)
    ranks = Ranks(height, width, offset=offset, flip=int(next(u) * 8))
    power = POWERS[int(next(u) * len(POWERS))]
    steps = round(math.exp(next(u) * math.log(cells / FEWEST_STEPS)) * FEWEST_STEPS) if cells > FEWEST_STEPS else cells
    order = np.argsort(noise, kind="stable") if next(u) < RANDOM else ranks.order
    unknown = np.ones((height, width), dtype=bool)
    if next(u) < HOLES:
        unknown[:] = False
        unknown[_part(next(u), next(u), height), _part(next(u), next(u), width)] = True
        if next(u) < 0.5:  # all but a hole, or a hole
            unknown = ~unknown if unknown.mean() < 1 else unknown
    return GroupPlan.of(order, ranks.levels, unknown, steps, power)


def _part(length: float, start: float, size: int) -> slice:
    """A slice of at least a quarter of `size`, or all of it for one in four."""
    count = min(size, max(1, round(size * (0.25 + length))))
    first = int(start * (size - count + 1))
    return slice(first, first + count)
