"""Completion: some cells are known, the others are drawn, and the known ones that come later score what was drawn.

Sampling goes forward: a drawn cell has seen the known cells before it, never those after it. But the prior can say how
likely those are after what was drawn. So several fillings are drawn, and the one that the later cells fit best is kept:
the more candidates, the closer the later cells fit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.config.prior import PriorConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.errors import UsageError
from taming_cli.prior.canvas import plan_for
from taming_cli.prior.generate import Given, generate
from taming_cli.prior.likelihood import log_likelihood
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.noise import ATTEMPTS
from taming_cli.prior.order import in_order, on_grid


class Completion(NamedTuple):
    """`codes` (n, h, w) int64 on the prior's device; `chosen` (n,) int64, which candidate each sample is; `scores`
    (n, candidates) float64 in nats, the log-likelihood of the known cells that come after unknown ones."""

    codes: Tensor
    chosen: Tensor
    scores: Tensor


def complete(
    gpt: GPT,
    given: Given,
    *,
    samples: Sequence[int],
    seed: int,
    decoding: DecodingConfig,
    candidates: int = 1,
    conditions: Mapping[str, Tensor] | None = None,
    stride: int = 1,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> Completion:
    """Draw the cells that are not given, `candidates` times for each sample, and keep the best candidate of each.

    Candidate c of sample k is a function of (seed, k, c) and the settings alone: noise of its c-th attempt, so that
    candidate 0 is what `generate` draws. Its score is the sum of log p over the cells that `scoring_cells` names, under
    the windows of the plan, whatever `decoding` says; of equals, the first is kept. Where no cell scores, as below a
    known upper half, all score 0, and candidate 0 alone is drawn. So it is with greedy decoding, which draws the same
    each time: one candidate is drawn and scored for all.

    Scoring reads one window per run, which costs about as much as drawing: with one candidate, `generate` with `given`
    draws the same codes without it. The other arguments are those of `generate`. `on_progress(done, total)` counts the
    cells drawn, and then those that score. Raises UsageError as `generate` does, and for a number of candidates that
    cannot be.
    """
    if not 1 <= candidates <= ATTEMPTS:
        raise UsageError(f"candidates is {candidates}; use 1 to {ATTEMPTS}")
    count, (height, width) = len(samples), given.keep.shape
    scoring = scoring_cells(gpt.config, given.keep, stride)
    scores = int(scoring.sum())
    drawn = candidates if scores and not decoding.greedy else 1
    repeated = {kind: codes.repeat_interleave(drawn, dim=0) for kind, codes in (conditions or {}).items()}
    progress = _Progress(count * drawn * scores, on_progress)
    codes = generate(
        gpt,
        size=(height, width),
        samples=[number for number in samples for _ in range(drawn)],
        attempts=[*range(drawn)] * count,
        seed=seed,
        decoding=decoding,
        conditions=repeated,
        stride=stride,
        batch_size=batch_size,
        given=Given(given.codes.expand(count, -1, -1).repeat_interleave(drawn, dim=0), given.keep),
        on_progress=progress.drew,
    )
    scores = torch.zeros(count * drawn, dtype=torch.float64)
    if scores:
        found = log_likelihood(
            gpt,
            codes,
            conditions=repeated,
            stride=stride,
            batch_size=batch_size,
            cells=scoring,
            on_progress=progress.scored,
        )
        scores = found.sum(dim=(1, 2))
    scores = scores.view(count, drawn).expand(count, candidates)
    chosen = scores.argmax(dim=1)  # the first of equals
    return Completion(codes[(torch.arange(count) * drawn + chosen).to(codes.device)], chosen, scores)


def scoring_cells(config: PriorConfig, keep: Tensor, stride: int = 1) -> Tensor:
    """The cells whose likelihood tells one filling from another: those of `keep` (h, w), the known ones, in whose
    window an unknown one comes before them. (h, w) bool, on the CPU. UsageError where the stride does not divide, or
    the size is not one that the prior makes."""
    height, width = keep.shape
    planned = plan_for(config, (height, width), stride)
    known = in_order(config, keep[None].cpu()).view(height, width)
    sums = F.pad((~known).long().cumsum(0).cumsum(1), (1, 0, 1, 0)).tolist()  # of all above and to the left of (i, j)
    scoring = known.tolist()

    def among(top: int, bottom: int, left: int, right: int) -> int:
        """Unknown cells in rows top to bottom - 1 and columns left to right - 1."""
        return int(sums[bottom][right] - sums[top][right] - sums[bottom][left] + sums[top][left])

    for run in (run for wave in planned.waves for run in wave):
        right = min(run.left + planned.window_width, width)
        for i, j in planned.cells(run):
            if j < width and scoring[i][j]:
                scoring[i][j] = among(run.top, i, run.left, right) + among(i, i + 1, run.left, j) > 0
    found = torch.tensor(scoring)
    return found if config.order == "raster" else on_grid(config, found.view(1, -1))[0]


class _Progress:
    """One count of cells over two stages: drawing, as long as `generate` says, and scoring, as long as is known."""

    def __init__(self, scoring: int, tell: Callable[[int, int], None] | None) -> None:
        self.drawing, self.scoring, self.tell = 0, scoring, tell

    def drew(self, done: int, total: int) -> None:
        """`done` cells of `total` are drawn."""
        self.drawing = total
        if self.tell is not None:
            self.tell(done, total + self.scoring)

    def scored(self, done: int, total: int) -> None:
        """All are drawn, and `done` of `total` cells are scored."""
        assert total == self.scoring
        if self.tell is not None:
            self.tell(self.drawing + done, self.drawing + total)
