"""What a token of a prior for any order knows at once about the known codes next to its cell.

Attention has to learn which positions are near. This layer has a weight for each offset, so it need not: from scratch,
the prior learns several times faster with it (`scripts/RESULTS.md`). Short convolutions before attention do the same
for text (Allen-Zhu 2025); here, each token leaves out the cells that it must not see.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from taming_cli.prior.networks.blocks import RMSNorm

RADIUS = 2
"""Cells in each direction that are neighbours."""
OFFSETS = tuple(
    (down, across)
    for down in range(-RADIUS, RADIUS + 1)
    for across in range(-RADIUS, RADIUS + 1)
    if (down, across) != (0, 0)
)
NEVER = 2**40
"""The group of cells outside the grid."""
VALUES = 2**22
"""Values of the embeddings of neighbours that are in memory at once in sampling."""


class Neighbours(nn.Module):
    """The embeddings of known neighbours, each channel with a weight for each offset, summed; and a feed-forward layer
    of this sum, which is added to it.

    The weights begin as a Gaussian of the distance, the same in each channel: a new network predicts codes whose
    embeddings are similar to those of the cells around.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        near = torch.tensor([math.exp(-(down**2 + across**2) / 2) for down, across in OFFSETS])
        self.weight = nn.Parameter(near[:, None].repeat(1, width))
        self.skip = nn.Parameter(torch.ones(width))
        self.register_load_state_dict_pre_hook(_without_skip)  # type: ignore[no-untyped-call]
        self.norm = RMSNorm(width)
        self.up = nn.Linear(width, width, bias=False)
        self.down = nn.Linear(width, width, bias=False)

    def forward(self, embedded: Tensor, groups: Tensor) -> Tensor:
        """Under teacher forcing: embedded codes (B, h, w, C) and groups (B, h, w) or (1, h, w) -> what is added to the
        content of each cell, which knows the groups up to its own, and to its query, which knows those before:
        (B, 2, h w, C)."""
        y: Tensor = _Sum.apply(embedded.to(self.weight.dtype), self.weight, groups)
        return self._feed(y.flatten(2, 3))

    def at(self, cells: Tensor, codes: Tensor, known: Tensor, table: Tensor) -> Tensor:
        """In sampling: what is added to the tokens of `cells` (T,), (B, T, C). `codes` (B, h + 2 RADIUS, w + 2 RADIUS)
        have a margin, in which `known`, of the same size without B, is false; `table` embeds codes."""
        width = known.shape[1]
        first = cells // (width - 2 * RADIUS) * width + cells % (width - 2 * RADIUS)
        offset = torch.tensor([(down + RADIUS) * width + across + RADIUS for down, across in OFFSETS])
        places = first[:, None] + offset.to(cells.device)
        sums = []
        for part in torch.split(places, max(1, VALUES // (len(codes) * self.weight.numel()))):
            weight = self.weight * known.view(-1)[part][:, :, None]  # (T, offsets, C)
            sums.append((F.embedding(codes.flatten(1)[:, part], table) * weight).sum(2))
        return self._feed(torch.cat(sums, dim=1))

    def _feed(self, y: Tensor) -> Tensor:
        return self.skip * y + self.down(F.silu(self.up(self.norm(y))))  # type: ignore[no-any-return]


def _without_skip(module: nn.Module, tensors: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """The first priors for any order had the feed-forward layer alone."""
    weight = tensors.get(prefix + "weight")
    if weight is not None:
        tensors.setdefault(prefix + "skip", torch.zeros_like(weight[0]))


class _Sum(torch.autograd.Function):
    """The weighted sums of the known neighbours; the products with each offset are computed again in the backward pass.
    On a CPU, picture by picture, so that they stay in its cache."""

    @staticmethod
    def forward(context: Any, embedded: Tensor, weight: Tensor, groups: Tensor) -> Tensor:
        """(B, h, w, C), (offsets, C) and (B or 1, h, w) -> (B, 2, h, w, C)."""
        context.save_for_backward(embedded, weight, groups)
        batch, *shape = embedded.shape
        out = embedded.new_zeros(batch, 2, *shape)
        for rows in _pictures(embedded):
            there = F.pad(embedded[rows], (0, 0) + 4 * (RADIUS,))
            for own, window, known in _offsets(groups, rows, there.dtype):
                part = there[window] * weight[own]
                for role in (0, 1):
                    out[rows, role].addcmul_(part, known[role])
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """The gradients of embeddings and weights."""
        embedded, weight, groups = context.saved_tensors
        of_embedded, of_weight = torch.empty_like(embedded), torch.zeros_like(weight)
        for rows in _pictures(embedded):
            there = F.pad(embedded[rows], (0, 0) + 4 * (RADIUS,))
            of_there = torch.zeros_like(there)
            for own, window, known in _offsets(groups, rows, there.dtype):
                part = grad[rows, 0] * known[0]
                part.addcmul_(grad[rows, 1], known[1])
                of_there[window].addcmul_(part, weight[own])
                of_weight[own] += part.mul_(there[window]).sum((0, 1, 2))
            inside = slice(RADIUS, -RADIUS)
            of_embedded[rows] = of_there[:, inside, inside]
        return of_embedded, of_weight, None


def _pictures(embedded: Tensor) -> list[slice]:
    count = len(embedded)
    each = 1 if embedded.device.type == "cpu" else count
    return [slice(start, start + each) for start in range(0, count, each)]


def _offsets(
    groups: Tensor, rows: slice, dtype: torch.dtype
) -> Iterator[tuple[int, tuple[slice, slice, slice], tuple[Tensor, Tensor]]]:
    """For each offset: its number, the window of a grid with a margin that lies at it, and which of these cells the
    content and the query of each cell know, 1 or 0, (B or 1, h, w, 1)."""
    groups = groups[rows] if len(groups) > 1 else groups
    _, height, width = groups.shape
    there = F.pad(groups, 4 * (RADIUS,), value=NEVER)
    for number, (down, across) in enumerate(OFFSETS):
        top, left = down + RADIUS, across + RADIUS
        window = slice(None), slice(top, top + height), slice(left, left + width)
        then = there[window]
        of_content, of_query = ((each[..., None]).to(dtype) for each in (then <= groups, then < groups))
        yield number, window, (of_content, of_query)
