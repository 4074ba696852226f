"""Which token sees which in a prior for any order.

A *content* token holds the code of a cell, a *query* token asks for one. Both belong to the group of their cell:

- content sees the content of its own group and of groups before;
- a query sees the content of groups before its own, and the queries of its own group;
- both see the token of a cell only within its reach, which doubles with each level of the cell: the first, sparse cells
  of a picture are seen from afar, so that each token sees about as many others at every level.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

SCORES = 2**22
"""Attention scores of one head up to which they are computed at once, although most may be masked."""
BLOCK = 32
"""Rows and columns of the blocks of cells that attend together otherwise."""


class Places(NamedTuple):
    """Where and when T tokens stand, int32: `rows` and `columns` (T,) of their cells; `reach` in cells, and `times`,
    2 g for the content of group g and 2 g - 1 for its queries, both (B, T) or (1, T)."""

    rows: Tensor
    columns: Tensor
    reach: Tensor
    times: Tensor

    def take(self, part: slice | Tensor) -> "Places":
        """Some of the tokens: a slice or indices."""
        return Places(self.rows[part], self.columns[part], self.reach[:, part], self.times[:, part])


def joined(one: Places, other: Places) -> Places:
    """The tokens of one, then those of the other."""
    return Places(*(torch.cat(pair, dim=-1) for pair in zip(one, other, strict=True)))


def sees(queries: Places, keys: Places) -> Tensor:
    """Whether each of T tokens sees each of L: (B, T, L) bool."""
    down = (queries.rows[:, None] - keys.rows).abs()
    across = (queries.columns[:, None] - keys.columns).abs()
    near = torch.maximum(down, across) <= keys.reach[:, None]
    then, now = keys.times[:, None], queries.times[:, :, None]
    before = (then < now) & (then % 2 == 0)
    return near & (before | (then == now))


def bias(queries: Places, keys: Places, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores, (B, T, L): 0 where a token sees another, else minus infinity."""
    seen = sees(queries, keys)
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -math.inf)


class Part(NamedTuple):
    """Some of the queries, by `rows`, the `keys` that any of them sees, both None for all, and the mask among them."""

    rows: Tensor | None
    keys: Tensor | None
    mask: Tensor


def parts(queries: Places, keys: Places, dtype: torch.dtype) -> list[Part]:
    """Attention in parts that each see few of the keys: one part for few tokens, else one for each block of cells."""
    if queries.rows.numel() * keys.rows.numel() <= SCORES:
        return [Part(None, None, bias(queries, keys, dtype))]
    block = (queries.rows // BLOCK) * 2**16 + queries.columns // BLOCK
    order = block.argsort(stable=True)
    counts = torch.unique_consecutive(block[order], return_counts=True)[1].tolist()
    found = []
    for rows in torch.split(order, counts):
        those = queries.take(rows)
        top, bottom = those.rows.min(), those.rows.max()
        left, right = those.columns.min(), those.columns.max()
        reach = keys.reach[0]
        near = (keys.rows + reach >= top) & (keys.rows - reach <= bottom)
        near &= (keys.columns + reach >= left) & (keys.columns - reach <= right)
        near = near.nonzero()[:, 0]
        found.append(Part(rows, near, bias(those, keys.take(near), dtype)))
    return found
