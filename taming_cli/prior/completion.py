"""Completion with several candidates: some cells are known, the others are drawn several times, and the best is kept.

A raster prior, and a PixelSNAIL, run forward: a drawn cell depends on the known cells before it, never on those after
it. But they give the likelihood of the later known cells after the drawn ones, so the candidate is kept under which
these are likeliest. The more candidates, the better the later cells fit. A prior for any order sees all known cells
from the start; of its candidates, the likeliest filling is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from taming_cli.config.sampling import DecodingConfig
from taming_cli.errors import UsageError
from taming_cli.prior.any_order import likelihood as any_order
from taming_cli.prior.any_order.plan import group_plan
from taming_cli.prior.draw import draw
from taming_cli.prior.layout import KnownCells
from taming_cli.prior.model import Network
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.pixelsnail import PixelSNAIL
from taming_cli.prior.noise import ATTEMPTS
from taming_cli.prior.pixelsnail import likelihood as pixelsnail
from taming_cli.prior.raster import likelihood as raster
from taming_cli.prior.raster.scoring import scoring_cells


class Completion(NamedTuple):
    """`codes` (n, h, w) int64 on the prior's device; `chosen` (n,) int64, the index of the candidate kept; `scores`
    (n, candidates) float64 in nats, a log-likelihood by which candidates rank."""

    codes: Tensor
    chosen: Tensor
    scores: Tensor


class _Scoring(NamedTuple):
    """The number of cells of a picture that score, and their log p, for codes, `conditions` and `on_progress`."""

    cells: int
    log_likelihood: Callable[..., Tensor]


def complete(
    network: Network,
    known: KnownCells,
    *,
    samples: Sequence[int],
    seed: int,
    decoding: DecodingConfig,
    candidates: int,
    conditions: Mapping[str, Tensor] | None = None,
    stride: int = 1,
    steps: int = 32,
    batch_size: int = 16,
    speculate: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Completion:
    """Draw the unknown cells `candidates` times for each sample, and keep the best candidate of each.

    Candidate c of sample k is a function of (seed, k, c) and the settings alone: it uses the noise of attempt c, so
    candidate 0 is what `draw` draws. Its score is the sum of log p, regardless of `decoding`: with a prior for any
    order over the drawn cells, by the chain rule in the order of the plan; else over the known cells that an unknown
    one precedes, under the windows of the plan. The first of equal scores is kept. Where no cell scores, as below a
    known upper half, all scores are 0 and only candidate 0 is drawn. Greedy decoding draws the same candidate each
    time, so one is drawn, and its score counts for all (0 with a prior for any order).

    Scoring costs about as much as drawing. The other arguments are those of `draw`. `on_progress(done, total)` counts
    the cells drawn, then the cells scored. Raises UsageError as `draw` does, and for a number of candidates out of
    range.
    """
    if not 1 <= candidates <= ATTEMPTS:
        raise UsageError(f"candidates is {candidates}; use 1 to {ATTEMPTS}")
    scoring = _scoring(network, known.mask.cpu(), stride, steps, decoding)
    drawn = candidates if scoring.cells and not decoding.greedy else 1
    count = len(samples)
    repeated = {kind: codes.repeat_interleave(drawn, dim=0) for kind, codes in (conditions or {}).items()}
    progress = _Progress(count * drawn * scoring.cells, on_progress)
    codes = draw(
        network,
        size=(known.mask.shape[0], known.mask.shape[1]),
        samples=[number for number in samples for _ in range(drawn)],
        attempts=[*range(drawn)] * count,
        seed=seed,
        decoding=decoding,
        conditions=repeated,
        stride=stride,
        steps=steps,
        batch_size=batch_size,
        speculate=speculate,
        known=KnownCells(known.codes.expand(count, -1, -1).repeat_interleave(drawn, dim=0), known.mask),
        on_progress=progress.count_drawn,
    )
    scores = torch.zeros(count * drawn, dtype=torch.float64)
    if scoring.cells:
        nats = scoring.log_likelihood(
            codes, conditions=repeated, batch_size=batch_size, on_progress=progress.count_scored
        )
        scores = nats.sum(dim=(1, 2))
    scores = scores.view(count, drawn).expand(count, candidates)
    chosen = scores.argmax(dim=1)  # the first of equals
    return Completion(codes[(torch.arange(count) * drawn + chosen).to(codes.device)], chosen, scores)


def _scoring(network: Network, mask: Tensor, stride: int, steps: int, decoding: DecodingConfig) -> _Scoring:
    """How candidates are scored where the cells of `mask` (h, w) are known."""
    height, width = mask.shape
    if isinstance(network, AnyOrder):
        chain = group_plan(height, width, max(steps, height * width), mask.numpy())
        score = partial(any_order.log_likelihood, network, plan=chain)
        return _Scoring(0 if decoding.greedy else chain.steps, score)
    cells = scoring_cells(network.config, mask, 1 if isinstance(network, PixelSNAIL) else stride)
    if isinstance(network, PixelSNAIL):
        return _Scoring(int(cells.sum()), partial(pixelsnail.log_likelihood, network, cells=cells))
    return _Scoring(int(cells.sum()), partial(raster.log_likelihood, network, cells=cells, stride=stride))


class _Progress:
    """One count of cells over two stages: drawing, whose total `draw` reports, and scoring."""

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
