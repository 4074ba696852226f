"""The forward passes of a stage of a picture: each adds the codes drawn last to the cache, and predicts the next group.

Sampling turns the predictions into codes; the likelihood reads codes that are there already.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from taming_cli.prior.any_order.stages import DrawingStage
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.group_attention import GroupCache
from taming_cli.prior.networks.surroundings import REACH

CONTEXT = 2**15
"""Cells whose context is computed at once."""
LOGITS = 2**22
"""Logits that are in memory at once."""


class GroupLogits(NamedTuple):
    """What a forward pass predicts for some of its cells: its `number` in the plan of the whole picture, from 1 on; the
    `rows` and `columns` (A,) of the cells; and `logits` (n, A, K)."""

    number: int
    rows: Tensor
    columns: Tensor
    logits: Tensor


def forwards(network: AnyOrder, context: Tensor, codes: Tensor, stage: DrawingStage) -> Iterator[GroupLogits]:
    """The predictions of a stage, group by group, and of a large group in parts of LOGITS.

    `codes` (B, h, w) and `context` (n, h, w, C), for n = B or a multiple of it, are those of the whole pictures. A pass
    reads the codes of the cells that were predicted before: draw them into `codes` in between.
    """
    height, width = stage.plan.groups.shape
    weight = network.head.weight
    part = slice(stage.top, stage.top + height)
    levels = torch.from_numpy(stage.plan.levels.ravel()).to(weight.device)
    size = (height, width)
    cache = GroupCache(
        network.config, len(context), size, capacity=stage.capacity, dtype=weight.dtype, device=weight.device
    )
    codes, context = codes[:, part], context[:, part].flatten(1, 2)
    times = len(context) // len(codes)
    drawn = torch.from_numpy(stage.plan.cells(0)).to(weight.device)
    for step in range(1, min(stage.steps, stage.plan.steps) + 1):
        asked = torch.from_numpy(stage.plan.cells(step)).to(weight.device)
        if not len(asked):  # a band may have no cell of a small group
            continue
        known = codes[:, drawn // width, drawn % width].repeat(times, 1)
        features = network.step(cache, context, levels, drawn, known, asked)
        most = max(1, LOGITS // (len(context) * network.config.codebook_size))
        for cells, x in zip(torch.split(asked, most), torch.split(features, most, dim=1), strict=True):
            rows, columns = cells // width + stage.top, cells % width
            yield GroupLogits(stage.first + step - 1, rows, columns, network.logits(x))
        drawn = asked


def context_of(network: AnyOrder, conditions: Mapping[str, Tensor], batch: int, size: tuple[int, int]) -> Tensor:
    """As `AnyOrder.context`, in the shape of the grid, (B, h, w, C), some rows at a time where there are many cells."""
    height, width = size
    rows = max(1, CONTEXT // width)
    found = []
    for start in range(0, height, rows):
        end = min(start + rows, height)
        top, bottom = max(0, start - REACH), min(height, end + REACH)
        given = {kind: of[:, top:bottom] if of.ndim == 3 else of for kind, of in conditions.items()}
        x = network.context(given, batch, (bottom - top, width)).reshape(batch, bottom - top, width, -1)
        found.append(x[:, start - top : end - top])
    return torch.cat(found, dim=1)
