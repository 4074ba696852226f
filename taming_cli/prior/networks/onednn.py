"""Linear layers on a CPU, with weights packed once into the layout of oneDNN.

torch itself packs them again for each product of a few rows, and sampling consists of such products: without that, a
step of sixteen windows takes half the time in bf16. In fp32, a product of one row takes two thirds of the time, and one
of eight rows half of it (`scripts/RESULTS.md`). The operators belong to torch's compiler and are not a public
interface. They are tried once; where they are missing or do not agree with `nn.Linear`, networks stay unpacked.
"""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from taming_cli.prior.networks.blocks import Attention, ModernBlock, PublishedBlock

Packable = TypeVar("Packable", bound=Any)
"""A network with `blocks` and a `head`."""
WIDE = 256
"""Smallest width of a network, in channels, that is packed in fp32: narrower ones are as fast without."""


class PackedLinear(nn.Module):
    """One `nn.Linear`, or several with the same input side by side, followed by `then` ("none" or "gelu"). For
    inference only: the weights are kept in packed form alone."""

    def __init__(self, *linears: nn.Linear, then: str = "none") -> None:
        super().__init__()
        self.then = then
        weight = torch.cat([linear.weight.detach() for linear in linears])
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
        self.bias = torch.cat(biases) if biases else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out of all)."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.then, [], "none")
        return y


class PackedAttention(Attention):
    """`Attention` that computes queries, keys and values as one product."""

    def __init__(self, attention: Attention) -> None:
        nn.Module.__init__(self)
        self.layer, self.n_head, self.weight_dropout = attention.layer, attention.n_head, attention.weight_dropout
        self.packed = PackedLinear(attention.query, attention.key, attention.value)
        self.proj = PackedLinear(attention.proj)  # type: ignore[assignment]
        self.query_norm, self.key_norm, self.drop = attention.query_norm, attention.key_norm, attention.drop

    def projections(self, x: Tensor) -> Sequence[Tensor]:  # noqa: D102 - as of Attention
        return self.packed(x).chunk(3, dim=-1)  # type: ignore[no-any-return]


def pack(gpt: Packable) -> Packable:
    """Pack the linear layers of a network's blocks, in place, where that pays: on a CPU, in bf16, and in fp32 from
    `WIDE` channels on. The network can no longer be trained."""
    weight = gpt.head.weight
    pays = weight.dtype == torch.bfloat16 or (weight.dtype == torch.float32 and weight.shape[1] >= WIDE)
    if pays and weight.device.type == "cpu" and _works(weight.dtype):
        for block in gpt.blocks:
            if not isinstance(block, PublishedBlock | ModernBlock):
                continue
            block.attn = PackedAttention(block.attn)
            if isinstance(block, ModernBlock):
                for name in ("gate", "up", "down"):
                    setattr(block.mlp, name, PackedLinear(getattr(block.mlp, name)))
            else:
                wider, _, narrower, _ = block.mlp
                block.mlp = nn.Sequential(PackedLinear(wider, then="gelu"), PackedLinear(narrower))
    return gpt


@functools.cache
def _works(dtype: torch.dtype) -> bool:
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        linear = nn.Linear(64, 96).to(dtype)
        x = torch.randn(3, 5, 64).to(dtype)
        error = 0.02 if dtype == torch.bfloat16 else 1e-4
        try:
            packed = PackedLinear(linear)(x)
        except (AttributeError, RuntimeError, TypeError):
            return False
        return packed.shape == (3, 5, 96) and torch.allclose(packed, linear(x), rtol=error, atol=error)
