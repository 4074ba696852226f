"""The sampling plan: which window predicts which cell, and which cells can be computed in parallel. Pure integers.

A *span* is a stretch of consecutive cells that share a window: the prior reads the window up to the first cell of the
span once, then one more token per further cell. A *wave* is a set of spans that do not depend on each other's cells, so
they can be computed as one batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from taming_cli.errors import UsageError


class Span(NamedTuple):
    """`length` consecutive cells from (row, column) on, in the window with corner (top, left). Units: cells."""

    top: int
    left: int
    row: int
    column: int
    length: int


@dataclass(frozen=True)
class WindowPlan:
    """How a latent of `height` x `width` cells is sampled: `waves`, in order, each of independent spans.

    `padded_height` and `padded_width` are the sides of the latent, or those of the window where the latent is smaller.
    Padded columns are sampled and cropped. Rows below the latent follow all of its cells, so they are not sampled.
    """

    height: int
    width: int
    window_height: int
    window_width: int
    waves: tuple[tuple[Span, ...], ...]

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
        """Forward passes that wait for each other: the length of the longest span of each wave, summed."""
        return sum(max(span.length for span in wave) for wave in self.waves)

    def tokens_run(self, prefix_length: int) -> int:
        """Tokens that pass through the network for one sample: for each span its prefix, the known cells of its window,
        and all of its cells but the last."""
        return sum(prefix_length + self.known(span) + span.length - 1 for wave in self.waves for span in wave)

    def known(self, span: Span) -> int:
        """Cells of the span's window before its first cell, in raster order."""
        return (span.row - span.top) * self.window_width + span.column - span.left

    def cells(self, span: Span) -> Iterator[tuple[int, int]]:
        """(row, column) of each cell. A span may be longer than a row if the window is as wide as the latent."""
        for offset in range(span.length):
            rows, column = divmod(span.column + offset, self.padded_width)
            yield span.row + rows, column

    def part(self, span: Span, wanted: Sequence[Sequence[bool]]) -> Span | None:
        """The span from its first to its last wanted cell, or None if no cell is wanted. `wanted[i][j]` is for the cell
        in row i and column j, `height` x `padded_width` of them."""
        cells = list(self.cells(span))
        indices = [n for n, (i, j) in enumerate(cells) if wanted[i][j]]
        if not indices:
            return None
        row, column = cells[indices[0]]
        return span._replace(row=row, column=column, length=indices[-1] - indices[0] + 1)


def plan(height: int, width: int, window: tuple[int, int], stride: int = 1) -> WindowPlan:
    """The plan for a latent of `height` x `width` cells under a `window` of (rows, columns).

    Cell (i, j) is predicted in the window with corner `clamp(i - a//2, 0, h - a)`, `clamp(j - b//2, 0, w - b)`, as
    published. With `stride` s the second is `clamp(j' - b//2 + s//2, 0, w - b)`, where j' is j rounded down to a
    multiple of s. Raises UsageError if the stride does not divide half the window's width.
    """
    a, b = window
    check_stride(stride, b)
    padded_height, padded_width = max(height, a), max(width, b)
    bands: list[list[Span]] = []
    for row in range(height):
        top = min(max(row - a // 2, 0), padded_height - a)
        spans = _spans_of_row(row, top, padded_width, b, stride)
        if len(spans) == 1 and bands and bands[-1][0].top == top:
            first = bands[-1][0]  # the window is as wide as the latent, and did not move down
            bands[-1] = [first._replace(length=first.length + spans[0].length)]
        else:
            bands.append(spans)
    return WindowPlan(height, width, a, b, _waves(bands, b))


def widest_stride(window_width: int) -> int:
    """The largest stride, which all others divide: half the window's width."""
    return max(1, window_width // 2)


def check_stride(stride: int, window_width: int) -> None:
    """Raise UsageError if the stride does not divide half the window's width."""
    half = widest_stride(window_width)
    if stride < 1 or half % stride:
        valid = ", ".join(str(s) for s in range(1, half + 1) if half % s == 0)
        raise UsageError(f"stride is {stride}; it must divide half the window's width of {window_width}: use {valid}")


def _spans_of_row(row: int, top: int, width: int, b: int, stride: int) -> list[Span]:
    spans: list[Span] = []
    for column in range(0, width, stride):
        left = min(max(column - b // 2 + stride // 2, 0), width - b)
        length = min(stride, width - column)
        if spans and spans[-1].left == left:
            spans[-1] = spans[-1]._replace(length=spans[-1].length + length)
        else:
            spans.append(Span(top, left, row, column, length))
    return spans


def _waves(bands: list[list[Span]], b: int) -> tuple[tuple[Span, ...], ...]:
    """Span r of band i goes into wave `lag * i + r`. A span needs only the cells of the band above that its window
    covers. The first span, whose window covers the first b columns, waits the longest for them."""
    lag = sum(span.column < b for span in bands[0])
    waves: list[list[Span]] = [[] for _ in range(lag * (len(bands) - 1) + len(bands[0]))]
    for i, spans in enumerate(bands):
        for r, span in enumerate(spans):
            waves[lag * i + r].append(span)
    return tuple(tuple(wave) for wave in waves if wave)
