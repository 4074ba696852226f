"""Attention of a prior for any order: under teacher forcing over all tokens, and in sampling with a cache."""

import torch
from torch import Tensor

from taming_cli.config.prior import PriorConfig
from taming_cli.prior.networks.attention import masked_attention
from taming_cli.prior.networks.reach import Part, Places, bias, joined, parts


class GroupAttention:
    """Among the content of N cells and the queries of N cells, in this order."""

    def __init__(self, content: Places, queries: Places) -> None:
        self._content, self._queries = content, queries
        self._masks: tuple[Tensor, Tensor] | None = None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, heads, 2 N, head_size), three times -> once."""
        if self._masks is None or self._masks[0].dtype != q.dtype:
            everything = joined(self._content, self._queries)
            self._masks = bias(self._content, self._content, q.dtype), bias(self._queries, everything, q.dtype)
        n = q.shape[2] // 2
        content = masked_attention(q[:, :, :n], k[:, :, :n], v[:, :, :n], self._masks[0])
        return torch.cat((content, masked_attention(q[:, :, n:], k, v, self._masks[1])), dim=2)


class GroupCache:
    """Keys and values of the content of a grid's cells, for `batch` pictures that are drawn by one plan.

    A forward pass begins with `begin`; its layers then call `attend`; `keep` ends it. The keys and values of its
    queries lie behind the content, where the next pass overwrites them.
    """

    def __init__(
        self, config: PriorConfig, batch: int, size: tuple[int, int], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        height, self.width = size
        shape = (config.n_layer, batch, config.n_head, height * self.width, config.head_size)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0
        self._cached: Places | None = None
        self._fresh = 0
        self._parts: list[Part] = []

    def begin(self, content: Places, queries: Places) -> None:
        """Tokens that come next: the content of cells that were drawn, and queries."""
        self._cached = content if self._cached is None else joined(self._cached, content)
        self._fresh = content.rows.shape[0]
        self._parts = parts(joined(content, queries), joined(self._cached, queries), self.keys.dtype)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the keys and values of the content, and attend: (B, heads, T, head_size), three times -> once."""
        keys, values = self.keys[layer, : len(k)], self.values[layer, : len(k)]
        new = slice(self.length, self.length + k.shape[2])
        keys[:, :, new], values[:, :, new] = k, v
        return _attend(q, keys[:, :, : new.stop], values[:, :, : new.stop], self._parts)

    def keep(self) -> None:
        """Count the content of this pass; its queries are forgotten."""
        self.length += self._fresh


def _attend(q: Tensor, k: Tensor, v: Tensor, parts: list[Part]) -> Tensor:
    """`masked_attention` of each part, put together."""
    if parts[0].rows is None:
        return masked_attention(q, k, v, parts[0].mask)
    out = torch.empty_like(q)
    for part in parts:
        out[:, :, part.rows] = masked_attention(q[:, :, part.rows], k[:, :, part.keys], v[:, :, part.keys], part.mask)
    return out
