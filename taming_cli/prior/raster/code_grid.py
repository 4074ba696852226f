"""The codes and conditions of several samples on one grid, padded to the window plan, and the input of each window.

Sampling fills the codes in, cell by cell; likelihood starts with all of them. Both read windows through `CodeGrid`, so
both see the same input.
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
from taming_cli.prior.raster.order import cells as cells_in_order
from taming_cli.prior.raster.order import in_order, on_grid
from taming_cli.prior.raster.windows import Span, WindowPlan, check_stride, plan


class BatchRow(NamedTuple):
    """One row of the network's batch: a span of the sample with this index on the grid."""

    span: Span
    sample: int


class WindowInput(NamedTuple):
    """The network's input for B rows: `prefix` (B, prefix_length), the tokens of the conditions; `codes` (B, cells of
    the window); and for each row the number of cells before its span, `known`."""

    prefix: Tensor
    codes: Tensor
    known: list[int]


@dataclass(frozen=True)
class CodeGrid:
    """`codes` (n, padded_height, padded_width) int64, initially zero, and conditions padded to the same size.

    In another order than raster, codes are stored in that order: the first column of the first row comes first.
    """

    config: PriorConfig
    plan: WindowPlan
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
    ) -> "CodeGrid":
        """A grid for this number of samples of `size` (rows, columns); `conditions` as in `generate`.

        Where the latent is smaller than the window, condition grids repeat their last row and column. Raises UsageError
        for conditions, a stride or a size that do not fit the prior.
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
        """Values of the picture's cells (n, h, w), in the order of this grid."""
        return in_order(self.config, picture).view(picture.shape)

    def by_cell(self, values: Tensor) -> Tensor:
        """The inverse of `by_place`: values on the grid (n, padded_height, padded_width), cropped to (n, h, w)."""
        if self.config.order != "raster":
            return on_grid(self.config, values.flatten(1))
        return values[:, : self.plan.height, : self.plan.width].clone()

    def numbers(self, rows: Sequence[BatchRow], length: int) -> Tensor:
        """The first `length` cells of each row's span, numbered in raster order over the grid: (B, length) int64."""
        first = [row.span.row * self.plan.padded_width + row.span.column for row in rows]
        return self._tensor(first)[:, None] + torch.arange(length, device=self.codes.device)

    def raster(self, numbers: Tensor) -> Tensor:
        """Numbers over the grid -> numbers of the same cells over the picture, in raster order."""
        return numbers if self.config.order == "raster" else self._order[numbers]

    def samples(self, rows: Sequence[BatchRow]) -> Tensor:
        """The sample index of each row, (B,) int64."""
        return self._tensor([row.sample for row in rows])

    def inputs(self, rows: Sequence[BatchRow]) -> WindowInput:
        """The network's input for each row."""
        config, device = self.config, self.codes.device
        sample = self.samples(rows)
        top, left = self._tensor([row.span.top for row in rows]), self._tensor([row.span.left for row in rows])
        down = top[:, None, None] + torch.arange(config.window.height, device=device)[:, None]
        across = left[:, None, None] + torch.arange(config.window.width, device=device)
        window = (sample[:, None, None], down, across)  # (B, a, b) of a grid
        forms = {spec.kind: spec.form for spec in config.conditions}
        cut = {k: codes[window] if forms[k] == "grid" else codes[sample] for k, codes in self.conditions.items()}
        known = [self.plan.known(row.span) for row in rows]
        return WindowInput(prefix(config, cut, len(rows), device), self.codes[window].flatten(1), known)

    @cached_property
    def _order(self) -> Tensor:
        return cells_in_order(self.config).to(self.codes.device)

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.codes.device)


def plan_for(config: PriorConfig, size: tuple[int, int], stride: int) -> WindowPlan:
    """The plan for a latent of `size` (rows, columns). Raises UsageError as `check_plan` does."""
    check_plan(config, size, stride)
    return plan(*size, (config.window.height, config.window.width), stride)


def check_plan(config: PriorConfig, size: tuple[int, int], stride: int) -> None:
    """Raise UsageError for a stride that does not divide half the window's width, and, in another order than raster,
    for a size (rows, columns) that is not the window's."""
    window = (config.window.height, config.window.width)
    check_stride(stride, config.window.width)
    if config.order != "raster" and size != window:
        raise UsageError(
            f"this prior draws cells in the order {config.order!r}, so its pictures are always {config.window} cells; "
            "leave --size out"
        )


def repeat_edge(codes: Tensor, planned: WindowPlan) -> Tensor:
    """(n, h, w) -> (n, padded_height, padded_width), the last row and column repeated."""
    rows = torch.arange(planned.padded_height, device=codes.device).clamp(max=codes.shape[1] - 1)
    columns = torch.arange(planned.padded_width, device=codes.device).clamp(max=codes.shape[2] - 1)
    return codes[:, rows][:, :, columns]
