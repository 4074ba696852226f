"""Completion by a prior for any order: all known cells are seen from the start, and candidates rank by likelihood."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from taming_cli.config.sampling import DecodingConfig
from taming_cli.errors import UsageError
from taming_cli.prior.any_order.generate import generate
from taming_cli.prior.any_order.likelihood import log_likelihood
from taming_cli.prior.any_order.plan import group_plan
from taming_cli.prior.completed import Completion, CompletionProgress
from taming_cli.prior.layout import KnownCells
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.noise import ATTEMPTS


def complete(
    network: AnyOrder,
    known: KnownCells,
    *,
    samples: Sequence[int],
    seed: int,
    decoding: DecodingConfig,
    candidates: int = 1,
    conditions: Mapping[str, Tensor] | None = None,
    steps: int = 32,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> Completion:
    """Draw the unknown cells `candidates` times for each sample, and keep the likeliest filling of each.

    The score of a candidate is the log-likelihood of its drawn cells given the known ones, by the chain rule in the
    order of the plan, regardless of `decoding`; of equal scores the first is kept. Candidate c uses the noise of
    attempt c, so candidate 0 is what `generate` draws. Greedy decoding draws the same one each time, so one is drawn.
    """
    if not 1 <= candidates <= ATTEMPTS:
        raise UsageError(f"candidates is {candidates}; use 1 to {ATTEMPTS}")
    count, (height, width) = len(samples), known.mask.shape
    drawn = 1 if decoding.greedy else candidates
    chain = group_plan(height, width, max(steps, height * width), known.mask.cpu().numpy())
    repeated = {kind: codes.repeat_interleave(drawn, dim=0) for kind, codes in (conditions or {}).items()}
    progress = CompletionProgress(count * drawn * chain.steps if drawn > 1 else 0, on_progress)
    codes = generate(
        network,
        size=(height, width),
        samples=[number for number in samples for _ in range(drawn)],
        attempts=[*range(drawn)] * count,
        seed=seed,
        decoding=decoding,
        conditions=repeated,
        steps=steps,
        batch_size=batch_size,
        known=KnownCells(known.codes.expand(count, -1, -1).repeat_interleave(drawn, dim=0), known.mask),
        on_progress=progress.count_drawn,
    )
    scores = torch.zeros(count * drawn, dtype=torch.float64)
    if drawn > 1:
        nats = log_likelihood(
            network,
            codes,
            chain,
            conditions=repeated,
            batch_size=batch_size,
            on_progress=progress.count_scored,
        )
        scores = nats.sum(dim=(1, 2))
    return Completion.best_of(codes, scores.view(count, drawn).expand(count, candidates))
