"""The likelihood of codes under a prior for any order, by a plan: all groups at once, or, in a large picture, as it is
drawn."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.prior.any_order.forwards import context_of, forwards
from taming_cli.prior.any_order.plan import GroupPlan
from taming_cli.prior.any_order.stages import most_cells, stages
from taming_cli.prior.layout import check_conditions, check_range
from taming_cli.prior.networks.any_order import AnyOrder

CELLS = 4096
"""Cells of a grid up to which all groups are read in one forward pass; its masks grow with their square."""


@torch.inference_mode()
def log_likelihood(
    network: AnyOrder,
    codes: Tensor,
    plan: GroupPlan,
    *,
    conditions: Mapping[str, Tensor] | None = None,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """log p(code | condition, the codes of the groups before) of each cell, in nats: (n, h, w), float64, on the CPU; 0
    for the known cells of the plan.

    With one cell in each group, the sum over the cells of a picture is its log-likelihood by the chain rule, given the
    known cells. Larger groups cost the difference, since their cells are drawn independently. `codes` (n, h, w) int64;
    `conditions` as in `generate`. `on_progress(done, total)` counts cells. Raises UsageError if codes or conditions do
    not fit the prior.
    """
    assert not network.training
    device, (samples, height, width) = network.head.weight.device, codes.shape
    check_range(codes, network.config.codebook_size, "code", remedy=": give tokens of its own codec")
    given = {kind: of.to(device) for kind, of in (conditions or {}).items()}
    check_conditions(network.config, given, samples, (height, width))
    unknown = torch.from_numpy(plan.groups > 0)
    found = torch.zeros(codes.shape, dtype=torch.float64)
    done, per_picture = 0, int(unknown.sum())
    read = _at_once if height * width <= CELLS else _step_by_step
    together = max(1, min(batch_size, most_cells(network.config, guided=False) // (height * width)))
    for start in range(0, samples, together):
        part = slice(start, start + together)
        batch = codes[part].to(device)
        found[part] = read(network, batch, plan, {kind: of[part] for kind, of in given.items()}).cpu().double()
        done += len(batch) * per_picture
        if on_progress is not None:
            on_progress(done, samples * per_picture)
    return found * unknown


def _at_once(network: AnyOrder, codes: Tensor, plan: GroupPlan, conditions: Mapping[str, Tensor]) -> Tensor:
    groups, levels = (torch.from_numpy(of)[None].to(codes.device) for of in (plan.groups, plan.levels))
    return _of_codes(network(codes, conditions, groups, levels), codes.flatten(1)).view(codes.shape)


def _step_by_step(network: AnyOrder, codes: Tensor, plan: GroupPlan, conditions: Mapping[str, Tensor]) -> Tensor:
    batch, height, width = codes.shape
    weight = network.head.weight
    context = context_of(network, conditions, batch, (height, width))
    found = torch.zeros(codes.shape, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device)
    for stage in stages(plan, network.config, guided=False):
        for _, rows, columns, logits in forwards(network, context, codes, stage):
            found[:, rows, columns] = _of_codes(logits, codes[:, rows, columns])
    return found


def _of_codes(logits: Tensor, codes: Tensor) -> Tensor:
    """Logits (B, n, K) and codes (B, n) -> log p of the codes, (B, n), in fp32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view(codes.shape)
