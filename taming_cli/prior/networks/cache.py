"""The key/value cache: what a new token attends to."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.config.prior import PriorConfig
from taming_cli.prior.networks.attention import causal_attention


class KVCache:
    """Keys and values of up to `batch` sequences of up to `length` tokens.

    Row b holds tokens 0 to lengths[b] - 1. What lies behind them is masked, and later overwritten. Lengths are kept on
    the host too, so that no step waits for the device; where all rows are equally long there is no mask at all.
    """

    def __init__(self, config: PriorConfig, batch: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.length = config.prefix_length + config.cells - 1
        shape = (config.n_layer, batch, config.n_head, self.length, config.head_size)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)  # zeros: a masked NaN would still spread
        self.lengths: list[int] = []
        self.device_lengths = torch.empty(0, dtype=torch.int64, device=device)

    def start(self, lengths: Sequence[int]) -> None:
        """Forget everything; rows 0 to len(lengths) - 1 will hold so many tokens."""
        self.lengths = list(lengths)
        self.device_lengths = torch.tensor(self.lengths, device=self.keys.device)

    def grow(self, rows: int) -> None:
        """Rows 0 to rows - 1 hold one token more; the others are finished."""
        self.lengths = [length + 1 for length in self.lengths[:rows]]
        self.device_lengths = self.device_lengths[:rows] + 1

    def longest(self, rows: int) -> int:
        """Tokens in the longest of the first `rows` rows."""
        return max(self.lengths[:rows])

    def even(self, rows: int) -> bool:
        """Whether the first `rows` rows are equally long."""
        return min(self.lengths[:rows]) == self.longest(rows)

    def fill(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend within the first tokens of each row, and keep them. (B, heads, T, head_size), thrice -> once."""
        rows, length = k.shape[0], k.shape[2]
        self.keys[layer, :rows, :, :length] = k
        self.values[layer, :rows, :, :length] = v
        return causal_attention(q, k, v)

    def extend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from one new token per row to it and all before, and keep it. (B, heads, 1, head_size)."""
        rows = len(k)
        longest = self.longest(rows)
        if not self.even(rows):
            return self.extend_at(layer, self.device_lengths[:rows], longest + 1, q, k, v)
        keys, values = self.keys[layer, :rows, :, : longest + 1], self.values[layer, :rows, :, : longest + 1]
        keys[:, :, longest], values[:, :, longest] = k[:, :, 0], v[:, :, 0]
        return F.scaled_dot_product_attention(q, keys, values)

    def extend_at(self, layer: int, lengths: Tensor, reach: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `extend`, for rows that hold `lengths` (B,) int64 tokens, all below `reach`: so many of each row are read,
        and those that are not there yet are masked. The same operations whatever the lengths are."""
        rows = torch.arange(len(k), device=k.device)
        keys, values = self.keys[layer, : len(k)], self.values[layer, : len(k)]
        keys[rows, :, lengths], values[rows, :, lengths] = k[:, :, 0].to(keys.dtype), v[:, :, 0].to(keys.dtype)
        mask = (torch.arange(reach, device=k.device) <= lengths[:, None])[:, None, None]  # (B, 1, 1, reach)
        return F.scaled_dot_product_attention(q, keys[:, :, :reach], values[:, :, :reach], attn_mask=mask)
