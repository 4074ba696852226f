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

MOST_LEVELS = 16
"""Levels beyond which the reach of a cell does not grow: it is any picture then."""
SCORES = {"cpu": 2**18, "cuda": 2**22}
"""Attention scores of one head that are computed at once, although most may be masked, by type of device."""
BLOCK = 24
"""Rows and columns of the blocks of cells that attend together otherwise."""
ALL = (slice(None),)
CELLS = 96
"""Cells of a part in training on a CPU."""
ROUND = 32
"""The ends of such parts are multiples, so that matrix products have few shapes: each new one takes time to prepare."""


class Places(NamedTuple):
    """Where and when T tokens stand, int32, each (B, T) or (1, T): `rows` and `columns` of their cells; `reach` in
    cells; and `times`, 2 g for the content of group g and 2 g - 1 for its queries."""

    rows: Tensor
    columns: Tensor
    reach: Tensor
    times: Tensor

    def take(self, part: slice | Tensor) -> "Places":
        """Some of the tokens: a slice or indices."""
        return Places(*(of[:, part] for of in self))


def joined(one: Places, other: Places) -> Places:
    """The tokens of one, then those of the other."""
    return Places(*(torch.cat(pair, dim=-1) for pair in zip(one, other, strict=True)))


def sees(queries: Places, keys: Places) -> Tensor:
    """Whether each of T tokens sees each of L: (B, T, L) bool."""
    down = (queries.rows[:, :, None] - keys.rows[:, None]).abs()
    across = (queries.columns[:, :, None] - keys.columns[:, None]).abs()
    near = torch.maximum(down, across) <= keys.reach[:, None]
    then, now = keys.times[:, None], queries.times[:, :, None]
    before = (then < now) & (then % 2 == 0)
    return near & (before | (then == now))


def bias(queries: Places, keys: Places, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores, (B, T, L): 0 where a token sees another, else minus infinity."""
    seen = sees(queries, keys)
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -math.inf)


class Part(NamedTuple):
    """Attention of some of the queries, `rows`, to the `keys` that any of them sees, given by indices or slices, with
    the mask (B, T, L) or (1, T, L) among them."""

    rows: Tensor | slice
    keys: Tensor | tuple[slice, ...]
    mask: Tensor


def parts(queries: Places, keys: Places, dtype: torch.dtype) -> list[Part]:
    """Attention of pictures in one plan, in parts that each see few of the keys: one part for few tokens, else one for
    each block of cells."""
    if queries.rows.shape[1] * keys.rows.shape[1] <= SCORES.get(keys.rows.device.type, SCORES["cuda"]):
        return [Part(ALL[0], (slice(keys.rows.shape[1]),), bias(queries, keys, dtype))]
    block = (queries.rows[0] // BLOCK) * 2**16 + queries.columns[0] // BLOCK
    order = block.argsort(stable=True)
    counts = torch.unique_consecutive(block[order], return_counts=True)[1].tolist()
    found = []
    for rows in torch.split(order, counts):
        those = queries.take(rows)
        top, bottom = those.rows.min(), those.rows.max()
        left, right = those.columns.min(), those.columns.max()
        near = (keys.rows + keys.reach >= top) & (keys.rows - keys.reach <= bottom)
        near &= (keys.columns + keys.reach >= left) & (keys.columns - keys.reach <= right)
        seen = near[0].nonzero()[:, 0]
        found.append(Part(rows, seen, bias(those, keys.take(seen), dtype)))
    return found


def of_last(parts: list[Part], first: int) -> list[Part]:
    """The parts without the queries before `first`, from which the others are numbered."""
    if not first:
        return parts
    found = []
    for rows, keys, mask in parts:
        if isinstance(rows, Tensor):
            wanted = rows >= first
            found.append(Part(rows[wanted] - first, keys, mask[:, wanted]))
        elif rows.stop is None:  # one part for all
            found.append(Part(rows, keys, mask[:, first:]))
        elif rows.start >= first:
            found.append(Part(slice(rows.start - first, rows.stop - first), keys, mask))
    return [part for part in found if part.mask.shape[1]]


def parts_by_time(content: Places, queries: Places, dtype: torch.dtype) -> list[Part]:
    """Attention among the content and then the queries of N cells, which are sorted by their groups in each picture.

    In bf16 on a CPU, the parts are CELLS of the content or of the queries, which saves the products with most of what
    comes later. Otherwise there are two parts: torch's kernel gains nothing in fp32, and nothing should wait for values
    of a GPU. An estimate has no values.
    """
    everything, n = joined(content, queries), content.rows.shape[1]
    apart = dtype == torch.bfloat16 and content.rows.device.type == "cpu" and not hasattr(content.rows, "fake_mode")
    if not apart:
        of_content = Part(slice(0, n), (slice(0, n),), bias(content, content, dtype))
        return [of_content, Part(slice(n, 2 * n), ALL, bias(queries, everything, dtype))]
    found, groups = [], content.times // 2
    for start in range(0, n, CELLS):
        end = min(start + CELLS, n)
        cells, first, last = slice(start, end), groups[:, start, None], groups[:, end - 1, None]
        own = int((groups < first).sum(1).min()) // ROUND * ROUND, _ceil(int((groups <= last).sum(1).max()), n)
        known, asked = slice(0, own[1]), slice(n + own[0], n + own[1])
        found.append(Part(cells, (known,), bias(content.take(cells), content.take(known), dtype)))
        known = slice(0, end)
        seen = joined(everything.take(known), everything.take(asked))
        found.append(Part(slice(n + start, n + end), (known, asked), bias(queries.take(cells), seen, dtype)))
    return found


def _ceil(number: int, most: int) -> int:
    return min(-(-number // ROUND) * ROUND, most)
