"""Codebooks that are a fixed grid: finite scalar quantization (FSQ) and lookup-free quantization (LFQ). Nothing in them
is learned, and nothing is searched: each channel is rounded by itself."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from taming_cli.codec.quantizers.quantized import Quantized
from taming_cli.runtime.fp32 import exact

_SLACK = 1e-3
"""By that share the bound lies beyond the outermost levels, so that these can be reached."""
_SIGMOID = 1.6
"""The slope at which a bounded normal variable is nearly uniform."""


class FSQ(nn.Module):
    """D channels with a few `levels` each, K = their product (Mentzer et al. 2023, section 3.1).

    A channel is bounded to the range of its levels by a hyperbolic tangent, or, with `bound` "sigmoid", by
    `2 sigmoid(1.6 z) - 1`, which makes a normal variable nearly uniform (Lin et al. 2026, iFSQ).
    Then it is rounded. Entries are in [-1, 1].
    """

    def __init__(self, levels: Sequence[int], bound: Literal["tanh", "sigmoid"] = "tanh") -> None:
        super().__init__()
        self.levels, self.bound = tuple(levels), bound

    @property
    def codebook(self) -> Tensor:
        """The entries (K, D), fp32, on the CPU; the first channel changes fastest."""
        return self._entries(torch.arange(math.prod(self.levels), device="cpu"))

    def forward(self, z: Tensor) -> Quantized:
        """(B, D, h, w) -> Quantized, in fp32. `z_e` is bounded."""
        with exact(z.device):
            bounded = [self._bounded(z_c, count) for z_c, count in zip(z.float().unbind(1), self.levels, strict=True)]
            z_e, z_q, codes, place = [], [], torch.zeros_like(bounded[0], dtype=torch.int64), 1
            for channel, count in zip(bounded, self.levels, strict=True):
                half, rounded = count // 2, channel.round()
                z_e.append(channel / half)
                z_q.append(rounded / half)
                codes = codes + place * (rounded.long() + half)
                place *= count
            return Quantized(torch.stack(z_e, 1), torch.stack(z_q, 1), codes)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) in [0, K) -> entries (B, D, h, w) fp32."""
        return self._entries(codes).permute(0, 3, 1, 2)

    def _bounded(self, z: Tensor, count: int) -> Tensor:
        """A channel in the range of its levels: of L levels, from -L/2 to L/2 - 1 if L is even, else symmetric. 0 stays
        0."""
        half, offset = (count - 1) * (1 + _SLACK) / 2, 0.5 * (count % 2 == 0)
        if self.bound == "tanh":
            return half * torch.tanh(z + math.atanh(offset / half)) - offset
        shift = 2 * math.atanh(offset / half) / _SIGMOID  # 2 sigmoid(x) - 1 is tanh(x / 2)
        return half * (2 * torch.sigmoid(_SIGMOID * (z + shift)) - 1) - offset

    def _entries(self, codes: Tensor) -> Tensor:
        """Codes (...) -> entries (..., D)."""
        entries = []
        for count in self.levels:
            entries.append((codes % count - count // 2) / (count // 2))
            codes = codes // count
        return torch.stack(entries, -1)


class LFQ(nn.Module):
    """D = log2 K channels, of which a code has the signs: entries are -1 or 1 (Yu et al. 2023, section 3.1)."""

    def __init__(self, codebook_dim: int) -> None:
        super().__init__()
        self.dim = codebook_dim

    @property
    def codebook(self) -> Tensor:
        """The entries (K, D), fp32, on the CPU; the last channel changes fastest."""
        return self._entries(torch.arange(2**self.dim, device="cpu"))

    def forward(self, z: Tensor) -> Quantized:
        """(B, D, h, w) -> Quantized, in fp32."""
        with exact(z.device):
            z_e = z.float()
            positive = z_e > 0
            codes = (positive.permute(0, 2, 3, 1) * self._places(z.device)).sum(-1)
            return Quantized(z_e, 2.0 * positive - 1.0, codes)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) in [0, K) -> entries (B, D, h, w) fp32."""
        return self._entries(codes).permute(0, 3, 1, 2)

    def _places(self, device: torch.device) -> Tensor:
        """The value of each channel's bit, (D,)."""
        return 2 ** torch.arange(self.dim - 1, -1, -1, device=device)

    def _entries(self, codes: Tensor) -> Tensor:
        """Codes (...) -> entries (..., D)."""
        return 2.0 * (codes[..., None] // self._places(codes.device) % 2) - 1.0
