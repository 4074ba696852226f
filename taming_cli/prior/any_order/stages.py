"""Pictures too large for one cache: first the sparse cells of the whole picture, then the others band by band.

The keys and values of all cells of a picture of 8192 x 8192 would take gigabytes. So the first groups, whose cells are
few and agree with one another over the whole picture, are drawn at once. Then each band of rows is drawn in the groups
that remain, with the sparse cells and the finished rows around it known.
"""

from typing import NamedTuple

import numpy as np

from taming_cli.config.prior import PriorConfig
from taming_cli.prior.any_order.plan import GroupPlan

BYTES = 2**31
"""Keys and values in fp32 that are in memory at once; in bf16, they take half of it."""
SPARSE = 4
"""The sparse cells take at most one in so many of the cells in memory."""


class DrawingStage(NamedTuple):
    """Cells that one cache holds: the rows from `top` on. `plan` has groups of its own for them: 0 for known cells, 1
    to `steps` for those that are drawn, in order, and `steps + 1` for those that are not in it. Its group 1 is number
    `first` in the plan of the whole picture."""

    top: int
    plan: GroupPlan
    steps: int
    first: int

    @property
    def capacity(self) -> int:
        """Tokens that the cache has to hold."""
        return int((self.plan.groups <= self.steps).sum())

    @property
    def tokens_run(self) -> int:
        """Tokens that run through the network: a query for each drawn cell, and the code of each cell but of those in
        the last group."""
        groups = self.plan.groups
        return int(((groups > 0) & (groups <= self.steps)).sum() + (groups < self.steps).sum()) if self.steps else 0


def most_cells(config: PriorConfig, *, guided: bool) -> int:
    """Cells of one picture whose keys and values take BYTES."""
    return max(1, BYTES // (config.n_layer * 2 * config.n_embd * 4 * (1 + guided)))


def stages(plan: GroupPlan, config: PriorConfig, *, guided: bool) -> list[DrawingStage]:
    """The stages in which a picture is drawn: one where its cells fit, else one for the sparse cells and one for each
    band. They depend on plan, network and guidance alone."""
    groups, levels = plan.groups, plan.levels
    (height, width), most = groups.shape, most_cells(config, guided=guided)
    if height * width <= most:
        return [DrawingStage(0, plan, plan.steps, 1)]
    drawn = np.cumsum(np.bincount(groups.ravel(), minlength=plan.steps + 1))
    last = int(np.clip(np.searchsorted(drawn, most // SPARSE, side="right") - 1, 1, plan.steps))
    found = [DrawingStage(0, GroupPlan(np.where(groups <= last, groups, last + 1), levels), last, 1)]
    margin = 2 * config.reach
    rows = max(1, most // width - 2 * margin)
    count = -(-height // rows)
    steps = plan.steps - last
    for start, end in ((height * n // count, height * (n + 1) // count) for n in range(count)):
        top, bottom = max(0, start - margin), min(height, end + margin)
        here = groups[top:bottom]
        own = np.where(here <= last, 0, here - last)
        row = np.arange(top, bottom)[:, None]
        own = np.where(row < start, 0, own)  # drawn with the band before
        own = np.where((row >= end) & (own > 0), steps + 1, own)
        if steps and ((own > 0) & (own <= steps)).any():
            found.append(DrawingStage(top, GroupPlan(own, levels[top:bottom]), steps, last + 1))
    return found
