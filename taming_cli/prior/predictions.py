"""What a network reads in a training step, and what it predicts: the same for raster priors and those for any order."""

from typing import NamedTuple

from torch import Tensor


class TokenBatch(NamedTuple):
    """The windows of a step: `targets` and `inputs` (B, cells) int64, which differ where codes were replaced (`pkeep`),
    and the codes of their conditions by kind, (B, length) or (B, h, w).

    For a prior for any order, `groups` and `levels` (B, h, w) int64 as in a plan; a raster prior has none.
    """

    targets: Tensor
    inputs: Tensor
    conditions: dict[str, Tensor]
    groups: Tensor | None = None
    levels: Tensor | None = None

    def take(self, rows: slice) -> "TokenBatch":
        """Some of the windows."""
        conditions = {kind: codes[rows] for kind, codes in self.conditions.items()}
        groups, levels = (None if of is None else of[rows] for of in (self.groups, self.levels))
        return TokenBatch(self.targets[rows], self.inputs[rows], conditions, groups, levels)


class Predictions(NamedTuple):
    """`features` (n, C) of predicted cells, from which a network's `logits` follow, their true `codes` (n,), and the
    `weights` (n,) of their losses, which sum to 1; None: all are equal."""

    features: Tensor
    codes: Tensor
    weights: Tensor | None = None
