"""Completion by a prior for any order: all known cells are seen from the start, and candidates rank by likelihood."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from taming_cli.config.sampling import DecodingConfig
from taming_cli.prior.any_order.generate import generate
from taming_cli.prior.any_order.likelihood import log_likelihood
from taming_cli.prior.any_order.plan import group_plan
from taming_cli.prior.completed import Completion, best_completion, check_candidates
from taming_cli.prior.layout import KnownCells
from taming_cli.prior.networks.any_order import AnyOrder


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
    check_candidates(candidates)
    height, width = known.mask.shape
    chain = group_plan(height, width, max(steps, height * width), known.mask.cpu().numpy())
    drawn = 1 if decoding.greedy else candidates
    return best_completion(
        partial(
            generate, network, size=(height, width), seed=seed, decoding=decoding, steps=steps, batch_size=batch_size
        ),
        partial(log_likelihood, network, plan=chain, batch_size=batch_size),
        known,
        samples=samples,
        candidates=candidates,
        drawn=drawn,
        scored=chain.steps if drawn > 1 else 0,
        conditions=conditions,
        on_progress=on_progress,
    )
