"""The transformer blocks of the priors, in two forms.

`PublishedBlock` is minGPT's, as in the paper: LayerNorm, GELU, biases. `ModernBlock` has RMSNorm, SwiGLU, rotary
positions and query/key norm, without biases. In both, attention and feed-forward are pre-norm and each added to its
input.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.config.prior import PriorConfig
from taming_cli.prior.networks.attention import causal_attention
from taming_cli.prior.networks.rotary import Rotation, rotate
from taming_cli.runtime.gradient_checkpointing import Recomputable


class Context(Protocol):
    """What the tokens of a pass attend to, besides causal attention among themselves."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, heads, T, head_size), three times -> once. There may be queries for the last tokens alone."""
        ...


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
    """Multi-head self-attention: causal among the tokens of the input, or as a context has it.

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

    def forward(self, x: Tensor, rotation: Rotation | None, context: Context | None, first: int = 0) -> Tensor:
        """(B, T, C) -> (B, T - first, C), the output of the tokens from `first` on; for these, a context is needed."""
        batch, _, width = x.shape
        q, k, v = self.projections(x)
        q, k, v = (
            each.view(batch, each.shape[1], self.n_head, -1).transpose(1, 2)  # (B, heads, T, head_size)
            for each in (q[:, first:], k, v)
        )
        q, k = self.query_norm(q), self.key_norm(k)
        if rotation is not None:
            cos, sin = (each[..., first:, :] for each in rotation.query)
            q, k = rotate(q, (cos, sin)).to(v.dtype), rotate(k, rotation.key).to(v.dtype)
        y = self.attend(q, k, v, context)
        return self.drop(self.proj(y.transpose(1, 2).reshape(batch, -1, width)))  # type: ignore[no-any-return]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, context: Context | None) -> Tensor:
        """(B, heads, T, head_size), three times -> once. This part is not compiled: see `compile_blocks`."""
        if context is None:
            return causal_attention(q, k, v, dropout=self.weight_dropout if self.training else 0.0)
        return context.attend(self.layer, q, k, v)

    def projections(self, x: Tensor) -> Sequence[Tensor]:
        """(B, T, C) -> queries, keys and values, each (B, T, C)."""
        return self.query(x), self.key(x), self.value(x)


class Block(Recomputable):
    """The base of both forms: pre-norm attention and feed-forward, each added to its input."""

    ln1: nn.Module
    ln2: nn.Module
    attn: Attention
    mlp: Any

    def forward(self, x: Tensor, rotation: Rotation | None, context: Context | None, first: int = 0) -> Tensor:
        """(B, T, C) -> (B, T - first, C), the output of the tokens from `first` on."""
        y = self.attn(self.ln1(x), rotation, context, first)
        x = x[:, first:] + y
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


def initialise(network: nn.Module, layers: int) -> None:
    """Normal(0, 0.02) and zero biases in linear layers and tables, as published. In modern blocks, layers that add to
    the residual stream have weights scaled by 1/sqrt(2 layers) (Radford et al. 2019)."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for block in network.modules():
        if isinstance(block, ModernBlock):
            for linear in (block.attn.proj, block.mlp.down):
                nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * layers))


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups for AdamW: only the weights of linear layers decay, as published."""
    decayed = {id(module.weight) for module in network.modules() if isinstance(module, nn.Linear)}
    return [
        {"params": [p for p in network.parameters() if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in network.parameters() if id(p) not in decayed], "weight_decay": 0.0},
    ]
