"""What windows look at: the codes and conditions of some samples, padded to the plan. Sampling fills the codes in, one
cell after the other; likelihood has them all from the start. Both look through here, so they see the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from taming_cli.config.prior import PriorConfig
from taming_cli.errors import UsageError
from taming_cli.prior.layout import check_conditions, prefix
from taming_cli.prior.order import cells as cells_in_order
from taming_cli.prior.order import in_order, on_grid
from taming_cli.prior.windows import Plan, Run, check_stride, plan


class Job(NamedTuple):
    """One run for one sample, which is the `sample`-th on the canvas."""

    run: Run
    sample: int


class View(NamedTuple):
    """What the windows of B jobs show: the tokens of the conditions, `prefix` (B, prefix_length), and the window's
    `codes` (B, window's cells), of which the job's cells begin at `known`, one number for each job."""

    prefix: Tensor
    codes: Tensor
    known: list[int]


@dataclass(frozen=True)
class Canvas:
    """`codes` (n, padded_height, padded_width) int64, zeros at first, and the conditions, padded as far.

    With another order than raster, the canvas's cells are places: the first of the first row is what comes first.
    """

    config: PriorConfig
    plan: Plan
    conditions: Mapping[str, Tensor]
    codes: Tensor

    @classmethod
    def blank(
        cls,
        config: PriorConfig,
        *,
        size: tuple[int, int],
        samples: int,
        conditions: Mapping[str, Tensor],
        stride: int,
        device: torch.device,
    ) -> "Canvas":
        """For so many samples of `size` (rows, columns); `conditions` as `generate` takes them.

        Where the latent is shorter than the window, grids of conditions repeat their last row and column. Raises
        UsageError for conditions, a stride or a size that do not fit the prior.
        """
        conditions = {kind: codes.to(device) for kind, codes in conditions.items()}
        check_conditions(config, conditions, samples, size)
        planned = plan_for(config, size, stride)
        for spec in config.conditions:
            if spec.form == "grid" and spec.kind in conditions:
                conditions[spec.kind] = repeat_edge(conditions[spec.kind], planned)
        shape = (samples, planned.padded_height, planned.padded_width)
        return cls(config, planned, conditions, torch.zeros(shape, dtype=torch.int64, device=device))

    def by_place(self, picture: Tensor) -> Tensor:
        """Values of the picture's cells (n, h, w), arranged as this canvas's are."""
        return in_order(self.config, picture).view(picture.shape)

    def by_cell(self, canvas: Tensor) -> Tensor:
        """The inverse: values on the canvas (n, padded_height, padded_width), cropped to the picture, (n, h, w)."""
        if self.config.order != "raster":
            return on_grid(self.config, canvas.flatten(1))
        return canvas[:, : self.plan.height, : self.plan.width].clone()

    def numbers(self, jobs: Sequence[Job], length: int) -> Tensor:
        """The first `length` cells of each job's run, numbered row by row over the canvas: (B, length) int64."""
        first = [job.run.row * self.plan.padded_width + job.run.column for job in jobs]
        return self._tensor(first)[:, None] + torch.arange(length, device=self.codes.device)

    def raster(self, numbers: Tensor) -> Tensor:
        """The cells that lie at places: numbers over the canvas to numbers over the picture, row by row."""
        return numbers if self.config.order == "raster" else self._order[numbers]

    def samples(self, jobs: Sequence[Job]) -> Tensor:
        """Which sample of the canvas each job is for, (B,) int64."""
        return self._tensor([job.sample for job in jobs])

    def view(self, jobs: Sequence[Job]) -> View:
        """What the window of each job shows."""
        config, device = self.config, self.codes.device
        sample = self.samples(jobs)
        top, left = self._tensor([job.run.top for job in jobs]), self._tensor([job.run.left for job in jobs])
        rows = top[:, None, None] + torch.arange(config.window.height, device=device)[:, None]
        columns = left[:, None, None] + torch.arange(config.window.width, device=device)
        window = (sample[:, None, None], rows, columns)  # (B, a, b) of a grid
        forms = {spec.kind: spec.form for spec in config.conditions}
        here = {k: codes[window] if forms[k] == "grid" else codes[sample] for k, codes in self.conditions.items()}
        known = [self.plan.known(job.run) for job in jobs]
        return View(prefix(config, here, len(jobs), device), self.codes[window].flatten(1), known)

    @cached_property
    def _order(self) -> Tensor:
        return cells_in_order(self.config).to(self.codes.device)

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.codes.device)


def plan_for(config: PriorConfig, size: tuple[int, int], stride: int) -> Plan:
    """The plan by which a prior goes through a latent of `size` (rows, columns). UsageError as of `check_plan`."""
    check_plan(config, size, stride)
    return plan(*size, (config.window.height, config.window.width), stride)


def check_plan(config: PriorConfig, size: tuple[int, int], stride: int) -> None:
    """UsageError for a stride that does not divide half the window's width, and for another size (rows, columns) than
    the window's where the order is not raster."""
    window = (config.window.height, config.window.width)
    check_stride(stride, config.window.width)
    if config.order != "raster" and size != window:
        raise UsageError(
            f"this prior goes through its cells in the order {config.order!r}, so it makes pictures of "
            f"{config.window} cells alone; leave --size out"
        )


def repeat_edge(codes: Tensor, planned: Plan) -> Tensor:
    """(n, h, w) -> (n, padded_height, padded_width), the last row and column repeated."""
    rows = torch.arange(planned.padded_height, device=codes.device).clamp(max=codes.shape[1] - 1)
    columns = torch.arange(planned.padded_width, device=codes.device).clamp(max=codes.shape[2] - 1)
    return codes[:, rows][:, :, columns]
