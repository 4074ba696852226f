"""The key/value cache: the tokens that a new token attends to."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from taming_cli.config.prior import PriorConfig
from taming_cli.prior.networks.attention import cached_attention, causal_attention


class KVCache:
    """Keys and values of up to `batch` sequences of up to `length` tokens.

    Row b holds tokens 0 to lengths[b] - 1. Entries behind them are masked, and overwritten later. The lengths are kept
    on the host too, so that no step waits for the device. Single tokens of rows of the same length need no mask.

    A forward pass begins with `start`, `append` or `append_at`, which return the sequence indices of its new tokens.
    Its layers then call `attend`.
    """

    def __init__(self, config: PriorConfig, batch: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.length = config.sequence_length
        shape = (config.n_layer, batch, config.n_head, self.length + 1, config.head_size)  # the last is never read
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)  # zeros: a NaN would spread, although masked
        self.lengths: list[int] = []
        self.device_lengths = torch.empty(0, dtype=torch.int64, device=device)
        self._index: slice | Tensor = slice(0)
        self._reach = 0
        self._mask: Tensor | None = None

    def start(self, lengths: Sequence[int], tokens: int) -> slice:
        """Discard everything. Rows 0 to len(lengths) - 1 begin with `tokens` new tokens, of which row b keeps
        lengths[b]."""
        self.lengths = list(lengths)
        self.device_lengths = torch.tensor(self.lengths, device=self.keys.device)
        self._index = index = slice(0, tokens)
        return index

    def append(self, rows: int, tokens: int = 1) -> slice | Tensor:
        """`tokens` new tokens for each of rows 0 to rows - 1; the other rows are finished. `grow` or `keep` counts them
        afterwards. The results of tokens beyond the end of a sequence are to be discarded."""
        end = self.longest(rows) + tokens
        if not self.even(rows) or end > self.length:
            return self.append_at(self.device_lengths[:rows], tokens, min(end, self.length))
        self._index, self._reach, self._mask = slice(end - tokens, end), end, None
        if tokens > 1:
            self._mask = self._hidden(torch.arange(end - tokens, end, device=self.keys.device))
        return self._index

    def append_at(self, lengths: Tensor, tokens: int, reach: int) -> Tensor:
        """`tokens` new tokens for each row, behind `lengths` (B,) int64, which attend to the first `reach` at most. The
        lengths of the cache are neither used nor changed, and the operations do not depend on the values of
        `lengths`."""
        behind = torch.arange(tokens, device=lengths.device)
        self._index, self._reach = (lengths[:, None] + behind).clamp(max=self.length), reach
        self._mask = self._hidden(self._index)[:, None]
        return self._index

    def grow(self, rows: int) -> None:
        """Count one more token in rows 0 to rows - 1; the other rows are finished."""
        self.lengths = [length + 1 for length in self.lengths[:rows]]
        self.device_lengths = self.device_lengths[:rows] + 1

    def keep(self, kept: Sequence[int]) -> None:
        """Count the first `kept[b]` of the tokens that were last appended to row b; the other rows are finished."""
        self.lengths = [length + more for length, more in zip(self.lengths, kept, strict=False)]
        self.device_lengths = torch.tensor(self.lengths, device=self.keys.device)

    def longest(self, rows: int) -> int:
        """Tokens in the longest of the first `rows` rows."""
        return max(self.lengths[:rows])

    def even(self, rows: int) -> bool:
        """Whether the first `rows` rows have the same length."""
        return min(self.lengths[:rows]) == self.longest(rows)

    def _hidden(self, index: Tensor) -> Tensor:
        """The mask of the tokens at an index (..., T), (..., T, reach): minus infinity for the tokens behind each, and
        0 for the others."""
        hidden = torch.arange(self._reach, device=index.device) > index[..., None]
        return torch.zeros(hidden.shape, dtype=self.keys.dtype, device=index.device).masked_fill_(hidden, -math.inf)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the keys and values of the new tokens, and let each attend to itself and to all tokens before it.

        Queries, keys and values (B, heads, T, head_size) -> (B, heads, T, head_size).
        """
        keys, values, index = self.keys[layer, : len(k)], self.values[layer, : len(k)], self._index
        if isinstance(index, slice):
            keys[:, :, index], values[:, :, index] = k, v
            if index.start == 0:
                return causal_attention(q, k, v)
        else:
            rows = torch.arange(len(k), device=k.device)[:, None]
            keys[rows, :, index] = k.transpose(1, 2).to(keys.dtype)
            values[rows, :, index] = v.transpose(1, 2).to(keys.dtype)
        keys, values = keys[:, :, : self._reach], values[:, :, : self._reach]
        return cached_attention(q, keys, values, self._mask)
