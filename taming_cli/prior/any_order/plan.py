"""Which cells are drawn together: from the size of a grid, its known cells and a number of steps to groups of cells.

A plan is pure: the same arguments give the same plan on every machine.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from taming_cli.errors import UsageError
from taming_cli.prior.any_order.blue_noise import Grid, Ranks

FEWEST_STEPS = 8
"""The smallest number of steps: with fewer, neighbours are drawn together before anything near them is known."""
GROWTH = 4.0
"""The largest factor by which a step multiplies the drawn cells while few are drawn: one level of the order."""


@dataclass(frozen=True, eq=False)
class GroupPlan:
    """`groups` (h, w) int64: 0 for known cells, else the step, from 1 on, in which a cell is drawn. `levels` (h, w)
    are those of the cells (see `blue_noise`)."""

    groups: Grid
    levels: Grid

    @classmethod
    def of(cls, order: Grid, levels: Grid, unknown: Grid, steps: int, power: float = 0.0) -> "GroupPlan":
        """The `unknown` (h, w) cells in `order` (h w,), cut into groups as of `group_ends`; the others are known."""
        order = order[unknown.ravel()[order]]
        groups = np.zeros(levels.size, dtype=np.int64)
        groups[order] = np.searchsorted(group_ends(len(order), steps, power), np.arange(len(order)), side="right") + 1
        return cls(groups.reshape(levels.shape), levels)

    @property
    def steps(self) -> int:
        """The number of sequential forwards: one for each group."""
        return int(self.groups.max(initial=0))

    def cells(self, step: int) -> Grid:
        """The numbers of the cells of a group, `row * width + column`, ascending; step 0 gives the known ones."""
        return self._by_group[step]

    @cached_property
    def _by_group(self) -> list[Grid]:
        groups = self.groups.ravel()
        order = np.argsort(groups, kind="stable")
        return np.split(order, np.searchsorted(groups[order], np.arange(1, self.steps + 1)))


def group_plan(height: int, width: int, steps: int, known: Grid | None = None) -> GroupPlan:
    """The plan of a grid in `steps` steps, or in fewer where fewer cells are unknown; with as many steps as cells, it
    is one cell at a time. `known` (h, w) is true where a cell is known.

    The steps follow the order of `Ranks`. The share of cells that is drawn after t of S steps is
    1 - cos(pi t / 2 S), as in MaskGIT (Chang et al. 2022), but no step draws more than GROWTH times as many cells as
    are drawn already, so that the first cells of a large grid agree with one another. UsageError for too few steps.
    """
    if steps < FEWEST_STEPS:
        raise UsageError(f"sample_steps is {steps}; use {FEWEST_STEPS} or more")
    ranks = Ranks(height, width)
    unknown = np.ones((height, width), dtype=bool) if known is None else ~known.astype(bool)
    return GroupPlan.of(ranks.order, ranks.levels, unknown, steps)


def raster_plan(height: int, width: int) -> GroupPlan:
    """One cell at a time, in raster order: to compare likelihoods with those of a raster prior."""
    return GroupPlan(np.arange(1, height * width + 1).reshape(height, width), Ranks(height, width).levels)


def group_ends(cells: int, steps: int, power: float = 0.0) -> Grid:
    """The number of cells that are drawn after each step, ascending to `cells`, in min(steps, cells) steps.

    `power` 0 is the cosine of `group_plan`; p > 0 is the share (t / S) ** p.
    """
    steps = min(steps, cells)
    if steps == cells:
        return np.arange(1, cells + 1)
    share = np.arange(1, steps + 1) / steps
    drawn = cells * (share**power if power else 1 - np.cos(np.pi / 2 * share))
    half = steps // 2
    growth = max(GROWTH, drawn[half] ** (1 / half))
    ends: list[int] = []
    for number, target in enumerate(drawn.tolist()):
        before = ends[-1] if ends else 0
        most = math.ceil(before * growth) if ends else 1
        ends.append(max(before + 1, min(math.ceil(target - 1e-9), most, cells - (steps - 1 - number))))
    ends[-1] = cells
    return np.array(ends)
