"""The best of several completions of a picture: what completion by both kinds of prior shares."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from taming_cli.errors import UsageError
from taming_cli.prior.layout import KnownCells
from taming_cli.prior.noise import ATTEMPTS


class Completion(NamedTuple):
    """`codes` (n, h, w) int64 on the prior's device; `chosen` (n,) int64, the index of the candidate kept; `scores`
    (n, candidates) float64 in nats, a log-likelihood by which candidates rank."""

    codes: Tensor
    chosen: Tensor
    scores: Tensor


def best_completion(
    generate: Callable[..., Tensor],
    log_likelihood: Callable[..., Tensor],
    known: KnownCells,
    *,
    samples: Sequence[int],
    candidates: int,
    drawn: int,
    scored: int,
    conditions: Mapping[str, Tensor] | None,
    on_progress: Callable[[int, int], None] | None,
) -> Completion:
    """Draw the first `drawn` of the `candidates` of each sample by `generate`, and keep the one with the highest sum of
    `log_likelihood`, the first of equals. Without `scored` cells in a picture, all scores are 0.

    Both functions receive conditions and progress, `generate` also samples, attempts and known cells, and
    `log_likelihood` the codes. A single drawn candidate counts for all.
    """
    count = len(samples)
    repeated = {kind: codes.repeat_interleave(drawn, dim=0) for kind, codes in (conditions or {}).items()}
    progress = _Progress(count * drawn * scored, on_progress)
    codes = generate(
        samples=[number for number in samples for _ in range(drawn)],
        attempts=[*range(drawn)] * count,
        conditions=repeated,
        known=KnownCells(known.codes.expand(count, -1, -1).repeat_interleave(drawn, dim=0), known.mask),
        on_progress=progress.count_drawn,
    )
    scores = torch.zeros(count * drawn, dtype=torch.float64)
    if scored:
        scores = log_likelihood(codes, conditions=repeated, on_progress=progress.count_scored).sum(dim=(1, 2))
    scores = scores.view(count, drawn).expand(count, candidates)
    chosen = scores.argmax(dim=1)  # the first of equals
    return Completion(codes[(torch.arange(count) * drawn + chosen).to(codes.device)], chosen, scores)


def check_candidates(candidates: int) -> None:
    """UsageError for a number of candidates out of range."""
    if not 1 <= candidates <= ATTEMPTS:
        raise UsageError(f"candidates is {candidates}; use 1 to {ATTEMPTS}")


class _Progress:
    """One count of cells over two stages: drawing, whose total `generate` reports, and scoring."""

    def __init__(self, scoring: int, report: Callable[[int, int], None] | None) -> None:
        self.drawing, self.scoring, self.report = 0, scoring, report

    def count_drawn(self, done: int, total: int) -> None:
        """`done` of `total` cells are drawn."""
        self.drawing = total
        if self.report is not None:
            self.report(done, total + self.scoring)

    def count_scored(self, done: int, total: int) -> None:
        """All are drawn, and `done` of `total` cells are scored."""
        assert total == self.scoring
        if self.report is not None:
            self.report(self.drawing + done, self.drawing + total)
