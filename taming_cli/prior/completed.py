"""The best of several completions of a picture, and the progress of drawing and scoring them."""

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor


class Completion(NamedTuple):
    """`codes` (n, h, w) int64 on the prior's device; `chosen` (n,) int64, the index of the candidate kept; `scores`
    (n, candidates) float64 in nats, a log-likelihood by which candidates rank."""

    codes: Tensor
    chosen: Tensor
    scores: Tensor

    @classmethod
    def best_of(cls, codes: Tensor, scores: Tensor) -> Self:
        """The candidate of the highest score for each sample, the first of equals.

        `codes` (n drawn, h, w) holds the drawn candidates of each sample in turn; `scores` (n, candidates) may repeat
        the score of a single drawn one.
        """
        count = len(scores)
        drawn = len(codes) // max(1, count)
        chosen = scores.argmax(dim=1)  # the first of equals
        return cls(codes[(torch.arange(count) * drawn + chosen).to(codes.device)], chosen, scores)


class CompletionProgress:
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
