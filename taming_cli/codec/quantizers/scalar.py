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
    `2 sigmoid(1.6 z) - 1`, which makes levels of a normal variable about equally frequent (Lin et al. 2026, iFSQ). It is
    then rounded. Entries are in [-1, 1].
    """

    counts: Tensor
    places: Tensor

    def __init__(self, levels: Sequence[int], bound: Literal["tanh", "sigmoid"] = "tanh") -> None:
        super().__init__()
        self.bound, self.size = bound, math.prod(levels)
        places = [math.prod(levels[:channel]) for channel in range(len(levels))]
        self.register_buffer("counts", torch.tensor(levels), persistent=False)
        self.register_buffer("places", torch.tensor(places), persistent=False)

    @property
    def codebook(self) -> Tensor:
        """The entries (K, D), fp32; the first channel changes fastest."""
        return self._entries(torch.arange(self.size, device=self.counts.device))

    def forward(self, z: Tensor) -> Quantized:
        """(B, D, h, w) -> Quantized, in fp32. `z_e` is bounded."""
        with exact(z.device):
            counts = self.counts[:, None, None]
            z_e = self._bounded(z.float(), counts)
            rounded = z_e.round()
            half = counts // 2
            codes = ((rounded.long() + half) * self.places[:, None, None]).sum(1)
            return Quantized(z_e / half, rounded / half, codes)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) in [0, K) -> entries (B, D, h, w) fp32."""
        return self._entries(codes).permute(0, 3, 1, 2)

    def _bounded(self, z: Tensor, counts: Tensor) -> Tensor:
        """Channels in the range of their levels: of L levels, from -L/2 to L/2 - 1 if L is even, else symmetric."""
        half = (counts - 1) * (1 + _SLACK) / 2
        offset = (1 - counts % 2) / 2
        at_zero = offset / half  # so that z = 0 is bounded to 0
        if self.bound == "tanh":
            return half * torch.tanh(z + torch.atanh(at_zero)) - offset
        shifted = z + torch.logit((at_zero + 1) / 2) / _SIGMOID
        return half * (2 * torch.sigmoid(_SIGMOID * shifted) - 1) - offset

    def _entries(self, codes: Tensor) -> Tensor:
        """Codes (...) -> entries (..., D)."""
        half = self.counts // 2
        return ((codes[..., None] // self.places) % self.counts - half) / half


class LFQ(nn.Module):
    """D = log2 K channels, of which a code has the signs: entries are -1 or 1 (Yu et al. 2023, section 3.1)."""

    places: Tensor

    def __init__(self, codebook_dim: int) -> None:
        super().__init__()
        self.register_buffer("places", 2 ** torch.arange(codebook_dim).flip(0), persistent=False)

    @property
    def codebook(self) -> Tensor:
        """The entries (K, D), fp32; the last channel changes fastest."""
        return self._entries(torch.arange(2 ** len(self.places), device=self.places.device))

    def forward(self, z: Tensor) -> Quantized:
        """(B, D, h, w) -> Quantized, in fp32."""
        with exact(z.device):
            z_e = z.float()
            positive = z_e > 0
            codes = (positive * self.places[:, None, None]).sum(1)
            return Quantized(z_e, 2.0 * positive - 1.0, codes)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) in [0, K) -> entries (B, D, h, w) fp32."""
        return self._entries(codes).permute(0, 3, 1, 2)

    def _entries(self, codes: Tensor) -> Tensor:
        """Codes (...) -> entries (..., D)."""
        return 2.0 * (codes[..., None] // self.places % 2) - 1.0
