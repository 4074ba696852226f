"""Exact speculative sampling: several cells of a window in one forward, with the codes of drawing one by one.

A code is the argmax of its logits plus noise, and the noise depends on seed, sample and cell alone. So with the seed
fixed, the code of a cell is a function of the cells before it. A forward reads the last code and guesses of the next
ones, and gives the code of each cell behind them. These are right up to the first one whose guess was wrong, and that
one is right too. The others are the guesses of the next forward. This is the Jacobi iteration (Song et al. 2021) of
drawing, towards its only fixed point; speculative Jacobi decoding (Teng et al. 2024) preserves the distribution, but
not the picture.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from taming_cli.config.sampling import MOST_CELLS
from taming_cli.prior.raster.code_grid import BatchRow, CodeGrid


class TokenCost(NamedTuple):
    """The time of a forward of T > 1 tokens in each of B rows, relative to that of one token in each:
    1 + `start` + (T - 1) `alone` B / (1 + `shared` B). The forward of one token takes longer for more rows as well."""

    start: float
    alone: float
    shared: float

    def time(self, rows: int, tokens: int) -> float:
        """The relative time for so many rows and tokens."""
        if tokens == 1:
            return 1.0
        return 1 + self.start + (tokens - 1) * self.alone * rows / (1 + self.shared * rows)


TOKEN_COSTS = {
    "cpu": TokenCost(0.25, 0.035, 0.05),
    "cpu, bf16": TokenCost(0.0, 0.05, 0.3),
    "cuda": TokenCost(0.0, 0.004, 0.0),
}
"""Measured on a CPU (`scripts/RESULTS.md`), estimated for a GPU. Other devices use the cost of "cpu"."""
WORTH = 1.2
"""A batch is drawn cell by cell where guesses are not expected to draw so many cells in the time of one."""
POWER = 0.35
"""A forward of m cells draws about m^POWER of them, as long as nothing is known of the picture."""
LENGTHS = tuple(1 << n for n in range(1, MOST_CELLS.bit_length()))
"""Cells in a forward, to choose from."""
HOPELESS = 0.85
"""Forwards have one cell where guesses draw fewer cells than this in the time of one: guesses that do not wait are not
improved, and more of them are wrong."""
TRIAL = (16, 4)
"""Where forwards have one cell, one in 16 has 4 cells, to find out if guesses are right again."""
MEMORY = 0.98
"""Decay of the earlier forwards at each one, of which there are at first as many as this remembers."""


class DraftLength:
    """How many cells of each row a forward computes: the number that draws the most cells in the estimated time.

    A guess that waits is improved by each forward, so longer drafts have more right guesses than the first ones would
    let one expect: a forward of m cells draws m^p, and p hardly depends on m (`scripts/RESULTS.md`). It is estimated
    from the last forwards, so it depends on the codes alone, not on the clock. `fixed` cells instead, if it is not 0.
    """

    def __init__(self, device: str, dtype: torch.dtype, fixed: int = 0) -> None:
        kind = f"{device}, bf16" if dtype == torch.bfloat16 else device
        self.cost, self.fixed = TOKEN_COSTS.get(kind) or TOKEN_COSTS.get(device, TOKEN_COSTS["cpu"]), fixed
        self._forwards = 1 / (1 - MEMORY)
        self._lengths = self._forwards * math.log(8)
        self._drawn = self._forwards * 8**POWER
        self._single = 0

    @property
    def power(self) -> float:
        """The power of a forward's length that its drawn cells are, from the last forwards."""
        return max(0.0, math.log(self._drawn / self._forwards) / (self._lengths / self._forwards))

    def speed(self, cells: int, rows: int, power: float) -> float:
        """Cells drawn by forwards of so many cells, in the time of one that is drawn alone."""
        return math.pow(cells, power) / self.cost.time(rows, cells)

    def one_by_one(self, rows: int) -> bool:
        """Whether a batch of so many rows of the network is drawn cell by cell."""
        if self.fixed:
            return self.fixed == 1
        return max(self.speed(cells, rows, POWER) for cells in LENGTHS) < WORTH

    def choose(self, rows: int, most: int) -> int:
        """The number of cells for a forward of so many rows of the network: a power of two, but not more than
        `most`."""
        if self.fixed:
            return min(self.fixed, most)
        power = self.power
        length = max(LENGTHS, key=lambda cells: self.speed(cells, rows, power))
        if self.speed(length, rows, power) >= HOPELESS:
            self._single = 0
            return min(most, length)
        self._single += 1
        every, cells = TRIAL
        return min(most, 1 if self._single % every else cells)

    def count(self, cells: int, kept: Sequence[int]) -> None:
        """Take into account a forward of `cells` cells for each row, of which `kept` were right; 0 of finished rows."""
        drawn = [number for number in kept if number]
        if cells > 1 and drawn:
            self._forwards = MEMORY * self._forwards + 1
            self._lengths = MEMORY * self._lengths + math.log(cells)
            self._drawn = MEMORY * self._drawn + sum(drawn) / len(drawn)


class GuessedRows:
    """Rows of a batch whose cells are drawn several at a time. The grid holds the codes of the cells drawn, and behind
    them the guesses of the next ones; cells that are true in `mask`, (rows, columns) of the grid, keep their codes.

    `cells` (B, longest span) int64 are numbers of cells on the grid; `drawn` and `guessed` count, for each active row,
    the cells of its span that are drawn, and those that are drawn or guessed.
    """

    def __init__(self, grid: CodeGrid, batch: Sequence[BatchRow], mask: Tensor | None) -> None:
        self._codes, self._mask = grid.codes.view(len(grid.codes), -1), None if mask is None else mask.flatten()
        self._sample, self._lengths = grid.samples(batch)[:, None], [row.span.length for row in batch]
        self.cells = grid.numbers(batch, self._lengths[0])
        self.drawn, self.guessed = [0] * len(batch), [0] * len(batch)

    @property
    def active(self) -> int:
        """Rows up to the last one that has cells to draw; those behind it are finished."""
        return len(self.drawn)

    @property
    def most(self) -> int:
        """The largest number of cells that a row has left."""
        return max(length - number for length, number in zip(self._lengths, self.drawn, strict=False))

    def missing(self, count: int) -> int:
        """Guesses to add to each row, so that all have `count`."""
        return max(0, count - min(more - n for more, n in zip(self.guessed, self.drawn, strict=True)))

    def guess(self, codes: Tensor, count: int) -> None:
        """Add `count` guesses to each active row, codes (B, count), or (B, 1) for the same one."""
        self._write(self.guessed, codes.expand(-1, count))
        self.guessed = [number + count for number in self.guessed]

    def last(self, count: int) -> Tensor:
        """The last code drawn and the count - 1 guesses behind it: (B, count)."""
        at, _ = self._at([number - 1 for number in self.drawn], count)
        return self._codes[self._sample[: self.active], at]

    def take(self, codes: Tensor) -> list[int]:
        """Take codes (B, T) for the cells behind those drawn, of which the first is right, and each other one whose
        predecessors were all guessed. -> The number of right ones, for each active row."""
        guesses, codes = self._write(self.drawn, codes)
        agreed = (guesses == codes)[:, :-1].long().cumprod(1).sum(1) + 1
        left = [length - number for length, number in zip(self._lengths, self.drawn, strict=False)]
        kept = [min(own, most) for own, most in zip(agreed.tolist(), left, strict=True)]
        self.guessed = [max(more, n + codes.shape[1]) for more, n in zip(self.guessed, self.drawn, strict=True)]
        self.drawn = [number + more for number, more in zip(self.drawn, kept, strict=True)]
        while self.drawn and self.drawn[-1] == self._lengths[len(self.drawn) - 1]:
            self.drawn.pop()
        self.guessed = self.guessed[: len(self.drawn)]
        return kept

    def _at(self, start: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
        """`count` cells of each active row from `start` on, (B, count), and which of them are in the row's span; its
        last cell stands for those beyond it."""
        index = torch.tensor(start, device=self.cells.device)[:, None] + torch.arange(count, device=self.cells.device)
        ends = torch.tensor(self._lengths[: len(start)], device=self.cells.device)[:, None] - 1
        return self.cells[: len(start)].gather(1, torch.minimum(index, ends)), index <= ends

    def _write(self, start: Sequence[int], codes: Tensor) -> tuple[Tensor, Tensor]:
        """Write codes (B, T) to the cells from `start` on, known ones excepted. -> The codes that the cells had, and
        those that they now have, also of the cells beyond the end of a row, which are not written."""
        (at, inside), sample = self._at(start, codes.shape[1]), self._sample[: len(codes)].expand_as(codes)
        before = self._codes[sample, at]
        if self._mask is not None:
            codes = torch.where(self._mask[at], before, codes)
        self._codes[sample[inside], at[inside]] = codes[inside]
        return before, codes


class NoiseAhead:
    """The noise of each row's next cells, computed in blocks of at least `block` cells by `make(row, cells)`, which
    gives (cells, K); None where decoding needs no noise."""

    def __init__(self, make: Callable[[int, Tensor], Tensor] | None, cells: Tensor, block: int) -> None:
        self._make, self._cells, self._block = make, cells, max(block, 4 * MOST_CELLS)
        self._start, self._noise = [0] * len(cells), [torch.empty(0)] * len(cells)

    def at(self, start: Sequence[int], count: int) -> Tensor | None:
        """The noise of `count` cells of each row from `start` on: (B, count, K)."""
        if self._make is None:
            return None
        found = []
        for row, first in enumerate(start):
            if not self._start[row] <= first <= self._start[row] + len(self._noise[row]) - count:
                length = self._cells.shape[1]
                number = max(count, min(self._block, length - first))
                index = torch.arange(first, first + number, device=self._cells.device).clamp(max=length - 1)
                self._start[row], self._noise[row] = first, self._make(row, self._cells[row, index])
            begin = first - self._start[row]
            found.append(self._noise[row][begin : begin + count])
        return torch.stack(found)


class Spent:
    """Forwards, one after the other, and tokens through the network, of each sample; and of all together, the guesses
    that were read, and those that were right."""

    def __init__(self, samples: int) -> None:
        self.forwards, self.tokens = [0] * samples, [0] * samples
        self.guesses = self.right = 0

    def count(self, rows: Sequence[BatchRow], tokens: Sequence[int]) -> None:
        """Count a forward with so many `tokens` for each of the rows."""
        for sample in {row.sample for row in rows}:
            self.forwards[sample] += 1
        for row, number in zip(rows, tokens, strict=False):
            self.tokens[row.sample] += number

    def count_spans(self, rows: Sequence[BatchRow], passes: int, grid: CodeGrid) -> None:
        """Count the forwards that draw the spans of all rows at once, cell by cell; each token passes through the
        network `passes` times."""
        longest = dict[int, int]()
        for row in rows:
            longest[row.sample] = max(longest.get(row.sample, 0), row.span.length)
            read = grid.config.prefix_length + grid.plan.known(row.span) + row.span.length - 1
            self.tokens[row.sample] += passes * read
        for sample, length in longest.items():
            self.forwards[sample] += length
