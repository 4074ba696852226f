"""What a new token may look at: all before it, remembered."""

from collections.abc import Sequence

import torch
from torch import Tensor

from taming_cli.config.prior import PriorConfig
from taming_cli.prior.networks.attention import FEW, attend_before, attend_from_one

ROOM = 64
"""Tokens by which a cache grows."""


class KVCache:
    """Keys and values of up to `batch` sequences of up to `length` tokens.

    Row b holds tokens 0 to lengths[b] - 1; what lies behind is hidden by a mask and later overwritten. Lengths are kept
    on the host too, so that no step waits for the device; where all rows are equally long there is no mask at all.

    Room is allocated once; but where it `grows`, as for bf16 on a CPU, in steps of ROOM tokens: oneDNN multiplies a
    matrix where it lies only if nothing lies between its rows, and copies it otherwise.
    """

    def __init__(
        self, config: PriorConfig, batch: int, *, dtype: torch.dtype, device: torch.device, grows: bool | None = None
    ) -> None:
        self.length = config.prefix_length + config.cells - 1
        self.grows = (device.type == "cpu" and dtype == torch.bfloat16) if grows is None else grows
        first = min(ROOM, self.length) if self.grows else self.length
        shape = (config.n_layer, batch, config.n_head, first, config.head_size)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)  # zeros: a masked NaN would still spread
        self.lengths: list[int] = []
        self.device_lengths = torch.empty(0, dtype=torch.int64, device=device)
        self._seen: Tensor | None = None

    def start(self, lengths: Sequence[int]) -> None:
        """Forget everything; rows 0 to len(lengths) - 1 will hold so many tokens."""
        self.lengths = list(lengths)
        self.device_lengths = torch.tensor(self.lengths, device=self.keys.device)
        self._seen = None
        if self.grows:
            self._make_room(max(lengths), keep=0)

    def grow(self, rows: int) -> None:
        """Rows 0 to rows - 1 hold one token more; the others are finished."""
        self.lengths = [length + 1 for length in self.lengths[:rows]]
        self.device_lengths = self.device_lengths[:rows] + 1
        self._seen = None

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
        return attend_before(q, k, v)

    def extend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from one new token per row to it and all before, and keep it. (B, heads, 1, head_size)."""
        rows = len(k)
        longest = self.longest(rows)
        if self.grows and layer == 0:
            self._make_room(longest + 1, keep=longest)
        if not self.even(rows):
            reach = self.keys.shape[3] if self.grows else longest + 1
            return self.extend_at(layer, self.device_lengths[:rows], reach, q, k, v)
        keys, values = self.keys[layer, :rows], self.values[layer, :rows]  # (B, heads, length, head_size)
        keys[:, :, longest], values[:, :, longest] = k[:, :, 0], v[:, :, 0]
        if self.grows and rows * longest >= FEW:
            return attend_from_one(q, keys, values, self._seen_of(rows))
        seen = slice(0, longest + 1)
        return attend_from_one(q, keys[:, :, seen], values[:, :, seen])

    def extend_at(self, layer: int, lengths: Tensor, reach: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `extend`, for rows that hold `lengths` (B,) int64 tokens, all below `reach`: so many of each row are read,
        and those that are not there yet are masked. The same operations whatever the lengths are."""
        rows = torch.arange(len(k), device=k.device)
        keys, values = self.keys[layer, : len(k)], self.values[layer, : len(k)]
        keys[rows, :, lengths], values[rows, :, lengths] = k[:, :, 0].to(keys.dtype), v[:, :, 0].to(keys.dtype)
        mask = (torch.arange(reach, device=k.device) <= lengths[:, None])[:, None, None]  # (B, 1, 1, reach)
        return attend_from_one(q, keys[:, :, :reach], values[:, :, :reach], mask)

    def _seen_of(self, rows: int) -> Tensor:
        """Which tokens each row has with its new one, (B, 1, 1, length) bool: of a step, for all its layers."""
        if self._seen is None:
            places = torch.arange(self.keys.shape[3], device=self.keys.device)
            self._seen = (places <= self.device_lengths[:rows, None])[:, None, None]
        return self._seen

    def _make_room(self, tokens: int, keep: int) -> None:
        """Have room for as many tokens, and not much more; the first `keep` of each row stay."""
        length = min(-(-tokens // ROOM) * ROOM, self.length)
        there = self.keys.shape[3]
        if length == there or (keep and length < there):
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = torch.zeros((*old.shape[:3], length, old.shape[4]), dtype=old.dtype, device=old.device)
            new[:, :, :, :keep] = old[:, :, :, :keep]
            setattr(self, name, new)
