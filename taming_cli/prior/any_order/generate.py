"""Sampling by a plan: each step adds the codes drawn last to the cache, and draws the next group, in one forward.

The codes depend on the prior, the conditions, the seed, each sample's number, the plan and the decoding settings alone:
not on the batch size, nor on which other samples are drawn.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from taming_cli.config.sampling import Decoding, DecodingConfig
from taming_cli.prior.any_order.forwards import context_of, forwards
from taming_cli.prior.any_order.plan import group_plan
from taming_cli.prior.any_order.stages import most_cells, stages
from taming_cli.prior.decoding import choose_guided
from taming_cli.prior.layout import KnownCells, check_conditions, check_guidance
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.noise import cell, gumbel


@torch.inference_mode()
def generate(
    network: AnyOrder,
    *,
    size: tuple[int, int],
    samples: Sequence[int],
    seed: int,
    decoding: DecodingConfig,
    conditions: Mapping[str, Tensor] | None = None,
    steps: int = 32,
    batch_size: int = 16,
    known: KnownCells | None = None,
    attempts: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw the samples numbered `samples` in `steps` forwards: codes (n, h, w), int64, on the prior's device. Large
    pictures take more forwards, in bounded memory (see `stages`).

    `batch_size` is the largest number of pictures computed at once. The other arguments are those of the raster prior's
    `generate`. Raises UsageError if conditions or guidance do not fit.
    """
    assert not network.training
    device = network.head.weight.device
    given = {kind: codes.to(device) for kind, codes in (conditions or {}).items()}
    check_conditions(network.config, given, len(samples), size)
    check_guidance(network.config, decoding)
    plan = group_plan(*size, steps, None if known is None else known.mask.cpu().numpy())
    parts = stages(plan, network.config, guided=decoding.guided)
    together = max(1, min(batch_size, most_cells(network.config, guided=decoding.guided) // plan.groups.size))
    codes = torch.zeros(len(samples), *size, dtype=torch.int64, device=device)
    if known is not None:
        codes += known.codes.to(device) * known.mask.to(device)
    numbers, tries = (
        torch.tensor(of, dtype=torch.int64, device=device) for of in (samples, attempts or [0] * len(samples))
    )
    total = len(samples) * int((plan.groups > 0).sum())
    done = 0
    for start in range(0, len(samples), together):
        rows = slice(start, start + together)
        own = {kind: of[rows] for kind, of in given.items()}
        contexts = [context_of(network, own, len(codes[rows]), size)]
        if decoding.guided:
            contexts.append(context_of(network, {}, len(codes[rows]), size))
        context = torch.cat(contexts)
        for stage in parts:
            for group in forwards(network, context, codes[rows], stage):
                now = decoding.at((group.number - 1) / max(1, plan.steps - 1))
                noise = None
                if not now.greedy:
                    cells = cell(group.rows, group.columns)
                    noise = gumbel(seed, numbers[rows, None], cells, group.logits.shape[-1], attempt=tries[rows, None])
                codes[rows, group.rows, group.columns] = _chosen(group.logits, noise, now, guided=decoding.guided)
                done += len(codes[rows]) * len(group.rows)
                if on_progress is not None:
                    on_progress(done, total)
    return codes


def _chosen(logits: Tensor, noise: Tensor | None, decoding: Decoding, *, guided: bool) -> Tensor:
    """Logits (B, A, K), twice for guidance, conditional and then unconditional, and noise (B, A, K) -> codes (B, A)."""
    flat = None if noise is None else noise.flatten(0, 1)
    return choose_guided(logits.flatten(0, 1), flat, decoding, guided=guided).view(-1, logits.shape[1])
