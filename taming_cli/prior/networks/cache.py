"""The key/value cache: the tokens that a new token attends to."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.config.prior import PriorConfig
from taming_cli.prior.networks.attention import causal_attention


class KVCache:
    """Keys and values of up to `batch` sequences of up to `length` tokens.

    Row b holds tokens 0 to lengths[b] - 1. Entries behind them are masked, and overwritten later. The lengths are kept
    on the host too, so that no step waits for the device. Where all rows have the same length there is no mask.

    A forward pass begins with `start`, `append` or `append_at`, which return the sequence indices of its new tokens.
    Its layers then call `attend`.
    """

    def __init__(self, config: PriorConfig, batch: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.length = config.sequence_length
        shape = (config.n_layer, batch, config.n_head, self.length, config.head_size)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)  # zeros: a NaN would spread, although masked
        self.lengths: list[int] = []
        self.device_lengths = torch.empty(0, dtype=torch.int64, device=device)
        self._index: slice | Tensor = slice(0)
        self._reach = 0

    def start(self, lengths: Sequence[int], tokens: int) -> slice:
        """Discard everything. Rows 0 to len(lengths) - 1 begin with `tokens` new tokens, of which row b keeps
        lengths[b]."""
        self.lengths = list(lengths)
        self.device_lengths = torch.tensor(self.lengths, device=self.keys.device)
        self._index = index = slice(0, tokens)
        return index

    def append(self, rows: int) -> slice | Tensor:
        """One new token for each of rows 0 to rows - 1; the other rows are finished. `grow` counts it afterwards."""
        longest = self.longest(rows)
        self._index = slice(longest, longest + 1) if self.even(rows) else self.device_lengths[:rows]
        self._reach = longest + 1
        return self._index

    def append_at(self, lengths: Tensor, reach: int) -> Tensor:
        """One new token for each row, behind `lengths` (B,) int64 tokens, all below `reach`. The lengths of the cache
        are neither used nor changed, and the operations do not depend on the values of `lengths`."""
        self._index, self._reach = lengths, reach
        return lengths

    def grow(self, rows: int) -> None:
        """Count one more token in rows 0 to rows - 1; the other rows are finished."""
        self.lengths = [length + 1 for length in self.lengths[:rows]]
        self.device_lengths = self.device_lengths[:rows] + 1

    def longest(self, rows: int) -> int:
        """Tokens in the longest of the first `rows` rows."""
        return max(self.lengths[:rows])

    def even(self, rows: int) -> bool:
        """Whether the first `rows` rows have the same length."""
        return min(self.lengths[:rows]) == self.longest(rows)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the keys and values of the new tokens, and let each attend to itself and to all tokens before it.

        Queries, keys and values (B, heads, T, head_size) -> (B, heads, T, head_size).
        """
        keys, values, index = self.keys[layer, : len(k)], self.values[layer, : len(k)], self._index
        if isinstance(index, Tensor):
            return self._attend_masked(keys, values, index, q, k, v)
        keys[:, :, index], values[:, :, index] = k, v
        if index.start == 0:
            return causal_attention(q, k, v)
        return F.scaled_dot_product_attention(q, keys[:, :, : index.stop], values[:, :, : index.stop])

    def _attend_masked(self, keys: Tensor, values: Tensor, lengths: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend to `reach` tokens of each row; those beyond its length are masked."""
        rows = torch.arange(len(k), device=k.device)
        keys[rows, :, lengths], values[rows, :, lengths] = k[:, :, 0].to(keys.dtype), v[:, :, 0].to(keys.dtype)
        mask = (torch.arange(self._reach, device=k.device) <= lengths[:, None])[:, None, None]  # (B, 1, 1, reach)
        return F.scaled_dot_product_attention(q, keys[:, :, : self._reach], values[:, :, : self._reach], attn_mask=mask)
