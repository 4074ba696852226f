"""Completion: some cells are known, the others are drawn, and the known cells that follow score each candidate.

Sampling runs forward: a drawn cell depends on the known cells before it, never on those after it. But the prior gives
the likelihood of the later known cells after the drawn ones. So several candidates are drawn, and the one under which
the later cells are most likely is kept. The more candidates, the better the later cells fit.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.config.prior import PriorConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.prior.completed import Completion, best_completion, check_candidates
from taming_cli.prior.layout import KnownCells
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.raster.code_grid import plan_for
from taming_cli.prior.raster.generate import generate
from taming_cli.prior.raster.likelihood import log_likelihood
from taming_cli.prior.raster.order import in_order, on_grid


def complete(
    gpt: GPT,
    known: KnownCells,
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
    """Draw the unknown cells `candidates` times for each sample, and keep the best candidate of each.

    Candidate c of sample k is a function of (seed, k, c) and the settings alone: it uses the noise of attempt c, so
    candidate 0 is what `generate` draws. Its score is the sum of log p over the cells of `scoring_cells`, under the
    windows of the plan, regardless of `decoding`; of equal scores the first is kept. Where no cell scores, as below a
    known upper half, all scores are 0 and only candidate 0 is drawn. Greedy decoding draws the same candidate each
    time, so one is drawn, and its score counts for all.

    Scoring reads one window per span, which costs about as much as drawing: with one candidate, `generate` with `known`
    draws the same codes without it. The other arguments are those of `generate`. `on_progress(done, total)` counts the
    cells drawn, then the cells scored. Raises UsageError as `generate` does, and for a number of candidates out of
    range.
    """
    check_candidates(candidates)
    scoring = scoring_cells(gpt.config, known.mask, stride)
    scored = int(scoring.sum())
    height, width = known.mask.shape
    own = partial(generate, gpt, size=(height, width), seed=seed, decoding=decoding)
    return best_completion(
        partial(own, stride=stride, batch_size=batch_size),
        partial(log_likelihood, gpt, cells=scoring, stride=stride, batch_size=batch_size),
        known,
        samples=samples,
        candidates=candidates,
        drawn=candidates if scored and not decoding.greedy else 1,
        scored=scored,
        conditions=conditions,
        on_progress=on_progress,
    )


def scoring_cells(config: PriorConfig, mask: Tensor, stride: int = 1) -> Tensor:
    """The cells whose likelihood distinguishes candidates: known cells, true in `mask` (h, w), whose window has an
    unknown cell before them. (h, w) bool, on the CPU. Raises UsageError for a stride or size that the prior refuses."""
    height, width = mask.shape
    planned = plan_for(config, (height, width), stride)
    known = in_order(config, mask[None].cpu()).view(height, width)
    sums = F.pad((~known).long().cumsum(0).cumsum(1), (1, 0, 1, 0)).tolist()  # of all above and to the left of (i, j)
    scoring = known.tolist()

    def unknown(top: int, bottom: int, left: int, right: int) -> int:
        """Unknown cells in rows top to bottom - 1 and columns left to right - 1."""
        return int(sums[bottom][right] - sums[top][right] - sums[bottom][left] + sums[top][left])

    for span in (span for wave in planned.waves for span in wave):
        right = min(span.left + planned.window_width, width)
        for i, j in planned.cells(span):
            if j < width and scoring[i][j]:
                scoring[i][j] = unknown(span.top, i, span.left, right) + unknown(i, i + 1, span.left, j) > 0
    result = torch.tensor(scoring)
    return result if config.order == "raster" else on_grid(config, result.view(1, -1))[0]
