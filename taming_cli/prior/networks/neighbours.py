"""What a token of a prior for any order knows at once about the known codes around its cell.

Attention has to learn which positions are near. This layer has weights for each offset, so it need not: from scratch,
the prior learns several times faster with it (`scripts/RESULTS.md`). Short convolutions before attention do the same
for text (Allen-Zhu 2025); here, each token leaves out the cells that it must not see.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from taming_cli.prior.networks.blocks import RMSNorm
from taming_cli.prior.networks.reach import MOST_LEVELS

RADIUS = 2
"""Cells in each direction that are neighbours."""
OFFSETS = tuple(
    (down, across)
    for down in range(-RADIUS, RADIUS + 1)
    for across in range(-RADIUS, RADIUS + 1)
    if (down, across) != (0, 0)
)
RING = tuple((down, across) for down, across in OFFSETS if max(abs(down), abs(across)) == 1)
"""Directions of the far neighbours. Those of a cell of level l are 2 ** l cells away, as are the cells drawn before it.
Cells of level 0 have none."""
NEVER = 2**40
"""The group of cells outside the grid."""
VALUES = 2**22
"""Values of the embeddings of neighbours that are in memory at once in sampling."""


class Around(NamedTuple):
    """The neighbours of T cells, OFFSETS and then RING, each (T, N) or (B, T, N): the numbers of their cells, and
    whether these exist."""

    cells: Tensor
    exist: Tensor


def around(cells: Tensor, levels: Tensor, size: tuple[int, int]) -> Around:
    """The neighbours of cells of a grid of `size` (h, w), whose numbers and levels are (T,) or (B, T)."""
    height, width = size
    near, ring = (torch.tensor(of, device=cells.device) for of in (OFFSETS, RING))
    far = ring << levels.clamp(max=MOST_LEVELS)[..., None, None]  # (..., T, 8, 2)
    offsets = torch.cat((near.expand(*far.shape[:-2], -1, -1), far), dim=-2)
    rows, columns = (cells // width)[..., None] + offsets[..., 0], (cells % width)[..., None] + offsets[..., 1]
    exist = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    exist[..., len(OFFSETS) :] &= levels[..., None] > 0
    return Around(rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1), exist)


class Neighbours(nn.Module):
    """What is added to the token of a cell: the embeddings of its known neighbours, each channel with a weight for each
    offset, summed; and a feed-forward layer of this sum and of `features` numbers for each neighbour.

    The weights begin as a Gaussian of the distance, the same in each channel: a new network predicts codes whose
    embeddings are similar to those of the cells around. Without features, as in the first files, there are no far
    neighbours either.
    """

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        near, ring = (torch.tensor([math.exp(-(d**2 + a**2) / 2) for d, a in of])[:, None] for of in (OFFSETS, RING))
        self.weight = nn.Parameter(near.repeat(1, width))
        self.skip = nn.Parameter(torch.ones(width))
        self.register_load_state_dict_pre_hook(_without_skip)  # type: ignore[no-untyped-call]
        self.norm = RMSNorm(width)
        self.up = nn.Linear(width, width, bias=False)
        self.down = nn.Linear(width, width, bias=False)
        self.features = features
        if features:
            count = len(OFFSETS) + len(RING)
            self.far = nn.Parameter(ring.repeat(1, width))
            self.code_norm = RMSNorm(width)
            self.code = nn.Linear(width, features, bias=False)
            self.mix = nn.Linear(count * features, width, bias=False)
            self.present = nn.Linear(count, width)

    def forward(self, codes: Tensor, table: Tensor, groups: Tensor, levels: Tensor) -> Tensor:
        """Under teacher forcing: codes (B, h, w), the table (K, C) that embeds them, and groups and levels, (B, h, w)
        or (1, h, w) -> what is added to the content of each cell, which knows the groups up to its own, and to its
        query, which knows those before: (B, 2, h w, C)."""
        embedded = F.embedding(codes, table).to(self.weight.dtype)
        y: Tensor = _Sum.apply(embedded, self.weight, groups).flatten(2, 3)
        if not self.features:
            return self._feed(y)
        batch, height, width = codes.shape
        cells = torch.arange(height * width, device=codes.device)[None]
        near = around(cells, levels.flatten(1), (height, width))
        index = near.cells.expand(batch, -1, -1)
        of_group, own = groups.flatten(1).expand(batch, -1), groups.flatten(1)[:, :, None]
        then = of_group.gather(1, index.flatten(1)).view_as(index)
        known = torch.stack((then <= own, then < own), dim=1) & near.exist[:, None]  # (B, 2, h w, neighbours)
        y = y + self._far(embedded.flatten(1, 2), near.cells, known, levels.flatten(1), (height, width))
        there = codes.flatten(1).gather(1, index.flatten(1)).view_as(index)
        return self._feed(y, self._mixed(there[:, None], self._features(table), known))

    def at(
        self, cells: Tensor, levels: Tensor, codes: Tensor, known: Tensor, table: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """In sampling: what is added to the tokens of `cells` (T,), whose levels are `levels` (T,), on a grid of `size`
        (h, w): (B, T, C). `codes` (B, h w) hold those of the cells that are `known` (h w,); `table` embeds them."""
        weight = torch.cat((self.weight, self.far)) if self.features else self.weight
        near = around(cells, levels, size)
        places, exist = near.cells[:, : len(weight)], near.exist[:, : len(weight)]
        count = max(1, VALUES // (len(codes) * weight.numel()))
        features = self._features(table) if self.features else None
        found = []
        for part, there in zip(torch.split(places, count), torch.split(exist, count), strict=True):
            of, seen = codes[:, part], known[part] & there
            y = (F.embedding(of, table) * (weight * seen[:, :, None])).sum(2)
            found.append(self._feed(y, None if features is None else self._mixed(of, features, seen)))
        return torch.cat(found, dim=1)

    def initialise(self, std: float) -> None:
        """New weights, of which those of the output have this standard deviation. Features and hidden values of a new
        layer have a variance of about 1."""
        nn.init.normal_(self.down.weight, std=std)
        if self.features:
            for linear in (self.code, self.mix):
                nn.init.normal_(linear.weight, std=linear.in_features**-0.5)

    def _far(self, embedded: Tensor, places: Tensor, known: Tensor, levels: Tensor, size: tuple[int, int]) -> Tensor:
        """The weighted sums of far neighbours, of which at most one cell of four has any: (B, 2, h w, C)."""
        batch, cells, width = embedded.shape
        most = -(-size[0] // 2) * -(-size[1] // 2)
        sparse = (levels > 0).int().argsort(dim=1, descending=True, stable=True)[:, :most]  # (B or 1, most)
        near = len(OFFSETS)
        first = torch.arange(batch, device=embedded.device)[:, None, None] * cells
        where = sparse[:, :, None].expand(-1, -1, len(RING))
        there = places[:, :, near:].gather(1, where) + first
        far = F.embedding(there, embedded.reshape(-1, width)) * self.far  # (B, most, ring, C)
        seen = known[..., near:].gather(2, where[:, None].expand(batch, 2, -1, -1))
        sums = torch.einsum("brnk, bnkc -> brnc", seen.to(far.dtype), far)
        index = sparse[:, None, :, None].expand(batch, 2, -1, width)
        return sums.new_zeros(batch, 2, cells, width).scatter_add(2, index, sums)

    def _features(self, table: Tensor) -> Tensor:
        """The features of each code, (K, features)."""
        return self.code(self.code_norm(table))  # type: ignore[no-any-return]

    def _mixed(self, codes: Tensor, features: Tensor, known: Tensor) -> Tensor:
        """What the neighbours' codes (..., T, N) add to hidden values where they are `known`: (..., T, C)."""
        x = F.embedding(codes, features) * known[..., None]
        return self.mix(x.flatten(-2)) + self.present(known.to(x.dtype))  # type: ignore[no-any-return]

    def _feed(self, y: Tensor, more: Tensor | None = None) -> Tensor:
        hidden = self.up(self.norm(y))
        hidden = hidden if more is None else hidden + more
        return self.skip * y + self.down(F.silu(hidden))  # type: ignore[no-any-return]


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
