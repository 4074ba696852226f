"""Attention of a prior for any order: under teacher forcing over all tokens, and in sampling with a cache."""

import torch
from torch import Tensor

from taming_cli.config.prior import PriorConfig
from taming_cli.prior.networks.attention import masked_attention
from taming_cli.prior.networks.reach import Part, Places, joined, of_last, parts, parts_by_time


class GroupAttention:
    """Among the content of N cells and then the queries of N cells, sorted by their groups."""

    def __init__(self, content: Places, queries: Places) -> None:
        self._content, self._queries = content, queries
        self._parts: list[Part] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, heads, 2 N, head_size), three times -> once; q may be that of the queries alone."""
        if not self._parts or self._parts[0].mask.dtype != q.dtype:
            self._parts = parts_by_time(self._content, self._queries, q.dtype)
        return masked_attention(q, k, v, of_last(self._parts, k.shape[2] - q.shape[2]))


class GroupCache:
    """Codes, keys and values of the content of a grid's cells, for `batch` pictures that are drawn by one plan. It
    holds `capacity` tokens, by default one for each cell.

    `codes` (B, h w), int64, holds those of the cells that are `known` (h w,), bool.

    A forward pass begins with `begin`; its layers then call `attend`; `keep` ends it. The keys and values of its
    queries lie behind the content, where the next pass overwrites them.
    """

    def __init__(
        self,
        config: PriorConfig,
        batch: int,
        size: tuple[int, int],
        *,
        capacity: int | None = None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.size = size
        cells = size[0] * size[1]
        tokens = cells if capacity is None else capacity
        shape = (config.n_layer, batch, tokens, config.n_head, config.head_size)  # so that tokens are gathered fast
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.codes = torch.zeros(batch, cells, dtype=torch.int64, device=device)
        self.known = torch.zeros(cells, dtype=torch.bool, device=device)
        self.length = 0
        self._cached: Places | None = None
        self._fresh = 0
        self._parts: list[Part] = []

    def put(self, cells: Tensor, codes: Tensor) -> None:
        """Codes (B, F) of the cells (F,) that are known from now on."""
        self.codes[: len(codes), cells] = codes
        self.known[cells] = True

    def begin(self, content: Places, queries: Places) -> None:
        """Tokens that come next: the content of cells that were drawn, and queries."""
        self._cached = content if self._cached is None else joined(self._cached, content)
        self._fresh = content.rows.shape[1]
        self._parts = parts(joined(content, queries), joined(self._cached, queries), self.keys.dtype)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the keys and values, and attend: (B, heads, T, head_size), three times -> once; q may be that of the
        queries alone."""
        keys, values = self.keys[layer, : len(k)], self.values[layer, : len(k)]
        new = slice(self.length, self.length + k.shape[2])
        keys[:, new], values[:, new] = k.transpose(1, 2), v.transpose(1, 2)
        asked = of_last(self._parts, k.shape[2] - q.shape[2])
        return masked_attention(q, keys.transpose(1, 2), values.transpose(1, 2), asked)

    def keep(self) -> None:
        """Count the content of this pass; its queries are forgotten."""
        self.length += self._fresh
