"""The transformer blocks of the priors, in two forms.

`PublishedBlock` is minGPT's, as in the paper: LayerNorm, GELU, biases. `ModernBlock` has RMSNorm, SwiGLU, rotary
positions and query/key norm, without biases. In both, attention and feed-forward are pre-norm and each added to its
input.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.config.prior import PriorConfig
from taming_cli.prior.networks.attention import causal_attention
from taming_cli.prior.networks.cache import KVCache
from taming_cli.runtime.gradient_checkpointing import Recomputable


class Rotation(NamedTuple):
    """cos and sin of the rotary angles of some tokens, each (T, head_size / 2), or (B, 1, 1, head_size / 2).

    Queries rotate by the cell that is predicted, keys by the cell that they hold. So the cell above, the cell to the
    left, and the condition at the predicted cell are always at the same offset, across the end of a row too.
    """

    query: tuple[Tensor, Tensor]
    key: tuple[Tensor, Tensor]


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight (Zhang & Sennrich 2019), in the dtype of the weight: in fp32 under autocast."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return F.rms_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.eps)


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x) (Shazeer 2020), 8/3 as wide as its input: as many weights as a fourfold GELU layer."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        hidden = math.ceil(8 * width / 3 / 32) * 32
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.drop(self.down(F.silu(self.gate(x)) * self.up(x)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head causal self-attention, among the tokens of the input and, with a cache, those before them.

    `norm` builds the norms of queries and keys, given the size of a head. `weight_dropout` applies to attention
    weights.
    """

    def __init__(
        self,
        config: PriorConfig,
        layer: int,
        dropout: float,
        *,
        bias: bool,
        norm: Callable[[int], nn.Module] = nn.Identity,
        weight_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = config.n_embd
        self.layer, self.n_head, self.weight_dropout = layer, config.n_head, weight_dropout
        self.key = nn.Linear(width, width, bias=bias)
        self.query = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)
        self.proj = nn.Linear(width, width, bias=bias)
        self.query_norm, self.key_norm = norm(config.head_size), norm(config.head_size)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotation: Rotation | None, cache: KVCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        batch, length, width = x.shape
        q, k, v = (
            each.view(batch, length, self.n_head, -1).transpose(1, 2)  # (B, heads, T, head_size)
            for each in self.projections(x)
        )
        q, k = self.query_norm(q), self.key_norm(k)
        if rotation is not None:
            q, k = _rotate(q, rotation.query).to(v.dtype), _rotate(k, rotation.key).to(v.dtype)
        if cache is None:
            y = causal_attention(q, k, v, dropout=self.weight_dropout if self.training else 0.0)
        else:
            y = cache.attend(self.layer, q, k, v)
        return self.drop(self.proj(y.transpose(1, 2).reshape(batch, length, width)))  # type: ignore[no-any-return]

    def projections(self, x: Tensor) -> Sequence[Tensor]:
        """(B, T, C) -> queries, keys and values, each (B, T, C)."""
        return self.query(x), self.key(x), self.value(x)


class Block(Recomputable):
    """The base of both forms: pre-norm attention and feed-forward, each added to its input."""

    ln1: nn.Module
    ln2: nn.Module
    attn: Attention
    mlp: Any

    def forward(self, x: Tensor, rotation: Rotation | None, cache: KVCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln1(x), rotation, cache)
        return x + self.mlp(self.ln2(x))  # type: ignore[no-any-return]


class PublishedBlock(Block):
    """The block of the paper's network."""

    norm = nn.LayerNorm

    def __init__(self, config: PriorConfig, layer: int, dropout: float) -> None:
        super().__init__()
        width = config.n_embd
        self.ln1, self.ln2 = self.norm(width), self.norm(width)
        self.attn = Attention(config, layer, dropout, bias=True, weight_dropout=dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )


class ModernBlock(Block):
    """The block of the network that new priors have by default."""

    norm = RMSNorm

    def __init__(self, config: PriorConfig, layer: int, dropout: float) -> None:
        super().__init__()
        width = config.n_embd
        self.ln1, self.ln2 = self.norm(width), self.norm(width)
        self.attn = Attention(config, layer, dropout, bias=False, norm=self.norm)
        self.mlp = SwiGLU(width, dropout)


def _rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (i, i + head_size / 2) of (B, heads, T, head_size)."""
    (a, b), (cos, sin) = x.chunk(2, dim=-1), angles
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
