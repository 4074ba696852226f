"""A transformer's products in bf16 on a CPU, with weights laid out once as oneDNN wants them.

torch lays them out anew for each product of a few rows, which is what sampling consists of: a step of sixteen windows
takes half the time without that. What is used is what torch's own compiler uses, which is no public interface: it is
tried once, and where it is missing or says something else than `nn.Linear`, nothing changes.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taming_cli.prior.networks.gpt import GPT, Attention, Block


class PackedLinear(nn.Module):
    """One `nn.Linear` in bf16, or several of the same input side by side, and what is done `then` ("none" or "gelu"),
    for inference; their weights have no other form any more."""

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
    """`Attention` whose queries, keys and values are one product."""

    def __init__(self, attention: Attention) -> None:
        nn.Module.__init__(self)
        self.n_head = attention.n_head
        self.packed = PackedLinear(attention.query, attention.key, attention.value)
        self.proj = PackedLinear(attention.proj)  # type: ignore[assignment]
        self.query_norm, self.key_norm, self.drop = attention.query_norm, attention.key_norm, attention.drop

    def projections(self, x: Tensor) -> Sequence[Tensor]:  # noqa: D102 - as of Attention
        return self.packed(x).chunk(3, dim=-1)  # type: ignore[no-any-return]


def pack(gpt: GPT) -> GPT:
    """The same network, its blocks' products packed where that pays: bf16, on a CPU. It can no longer be trained."""
    weight = gpt.head.weight
    if weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and _works():
        for block in gpt.blocks:
            assert isinstance(block, Block)
            block.attn = PackedAttention(block.attn)
            if isinstance(block.mlp, nn.Sequential):
                wider, _, narrower, _ = block.mlp
                assert isinstance(wider, nn.Linear)
                assert isinstance(narrower, nn.Linear)
                block.mlp = nn.Sequential(PackedLinear(wider, then="gelu"), PackedLinear(narrower))
            else:
                for name in ("gate", "up", "down"):
                    setattr(block.mlp, name, PackedLinear(getattr(block.mlp, name)))
    return gpt


@functools.cache
def _works() -> bool:
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        linear = nn.Linear(64, 96).to(torch.bfloat16)
        x = torch.randn(3, 5, 64).to(torch.bfloat16)
        try:
            found = PackedLinear(linear)(x)
        except (AttributeError, RuntimeError, TypeError):
            return False
        return found.shape == (3, 5, 96) and torch.allclose(found.float(), linear(x).float(), rtol=0.02, atol=0.02)
