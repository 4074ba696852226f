"""The sampling plan: which window predicts which cell, and what may be computed at the same time. Pure integers.

Words: a *run* is a stretch of consecutive cells that share a window: the prior reads the window up to the first of them
once, then one more token per further cell. A *wave* is a set of runs that do not need each other's cells: one batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from taming_cli.errors import UsageError


class Run(NamedTuple):
    """`length` consecutive cells from (row, column) on, in the window whose corner is (top, left); in cells."""

    top: int
    left: int
    row: int
    column: int
    length: int


@dataclass(frozen=True)
class Plan:
    """How a latent of `height` x `width` cells is sampled: `waves`, in order, of runs that are independent.

    `padded_width` and `padded_height` are the latent's sides, or the window's where the latent is shorter. The padded
    columns are sampled and cropped; rows below the latent come after all of its cells, so they are not sampled at all.
    """

    height: int
    width: int
    window_height: int
    window_width: int
    waves: tuple[tuple[Run, ...], ...]

    @property
    def padded_height(self) -> int:
        """Rows that conditions must cover."""
        return max(self.height, self.window_height)

    @property
    def padded_width(self) -> int:
        """Columns that are sampled, and that conditions must cover."""
        return max(self.width, self.window_width)

    @cached_property
    def sequential_forwards(self) -> int:
        """Forward passes one after the other: per wave as many as its longest run has cells."""
        return sum(max(run.length for run in wave) for wave in self.waves)

    def tokens_run(self, prefix_length: int) -> int:
        """Tokens that go through the network for one sample: for each run its prefix, what is known of its window, and
        all of its cells but the last."""
        return sum(prefix_length + self.known(run) + run.length - 1 for wave in self.waves for run in wave)

    def known(self, run: Run) -> int:
        """Cells of the run's window before its first cell, in raster order."""
        return (run.row - run.top) * self.window_width + run.column - run.left

    def cells(self, run: Run) -> Iterator[tuple[int, int]]:
        """(row, column) of each of the run's cells. A run that is longer than a row lies in a window as wide as all."""
        for offset in range(run.length):
            rows, column = divmod(run.column + offset, self.padded_width)
            yield run.row + rows, column

    def part(self, run: Run, wanted: Sequence[Sequence[bool]]) -> Run | None:
        """The run from its first to its last wanted cell; None where there is none. `wanted[i][j]` is for the cell in
        row i and column j, `height` x `padded_width` of them."""
        cells = list(self.cells(run))
        found = [n for n, (i, j) in enumerate(cells) if wanted[i][j]]
        if not found:
            return None
        row, column = cells[found[0]]
        return run._replace(row=row, column=column, length=found[-1] - found[0] + 1)


def plan(height: int, width: int, window: tuple[int, int], stride: int = 1) -> Plan:
    """The plan for a latent of `height` x `width` cells under a `window` of (rows, columns).

    Cell (i, j) is predicted in the window with corner `clamp(i - a//2, 0, h - a)`, `clamp(j - b//2, 0, w - b)`, as
    published; with `stride` s the second is `clamp(j' - b//2 + s//2, 0, w - b)`, j' being j rounded down to a multiple
    of s. Raises UsageError for a stride that does not divide half the window's width.
    """
    a, b = window
    check_stride(stride, b)
    padded_height, padded_width = max(height, a), max(width, b)
    bands: list[list[Run]] = []
    for row in range(height):
        top = min(max(row - a // 2, 0), padded_height - a)
        runs = _runs_of_row(row, top, padded_width, b, stride)
        if len(runs) == 1 and bands and bands[-1][0].top == top:
            first = bands[-1][0]  # the window is as wide as the latent, and did not move down
            bands[-1] = [first._replace(length=first.length + runs[0].length)]
        else:
            bands.append(runs)
    return Plan(height, width, a, b, _waves(bands, b))


def widest_stride(window_width: int) -> int:
    """The largest stride, which the others divide: half the window's width."""
    return max(1, window_width // 2)


def check_stride(stride: int, window_width: int) -> None:
    """UsageError for a stride that does not divide half the window's width."""
    half = widest_stride(window_width)
    if stride < 1 or half % stride:
        valid = ", ".join(str(s) for s in range(1, half + 1) if half % s == 0)
        raise UsageError(f"stride is {stride}; it must divide half the window's width of {window_width}: use {valid}")


def _runs_of_row(row: int, top: int, width: int, b: int, stride: int) -> list[Run]:
    runs: list[Run] = []
    for column in range(0, width, stride):
        left = min(max(column - b // 2 + stride // 2, 0), width - b)
        length = min(stride, width - column)
        if runs and runs[-1].left == left:
            runs[-1] = runs[-1]._replace(length=runs[-1].length + length)
        else:
            runs.append(Run(top, left, row, column, length))
    return runs


def _waves(bands: list[list[Run]], b: int) -> tuple[tuple[Run, ...], ...]:
    """Run r of band i goes into wave `lag * i + r`. A run needs of the band above only the cells under its window, and
    the first run, whose window covers the first b columns, has to wait the longest for them."""
    lag = sum(run.column < b for run in bands[0])
    waves: list[list[Run]] = [[] for _ in range(lag * (len(bands) - 1) + len(bands[0]))]
    for i, runs in enumerate(bands):
        for r, run in enumerate(runs):
            waves[lag * i + r].append(run)
    return tuple(tuple(wave) for wave in waves if wave)
