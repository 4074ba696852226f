"""A transformer's products in bf16 on a CPU, with weights laid out once as oneDNN wants them.

torch lays them out anew for each product of a few rows, which is what sampling consists of: a step of sixteen windows
takes half the time without that. What is used is what torch's own compiler uses, which is no public interface: it is
tried once, and where it is missing or says something else than `nn.Linear`, nothing changes.
"""

import functools

import torch
from torch import Tensor, nn

from taming_cli.prior.gpt import GPT


class PackedLinear(nn.Module):
    """`nn.Linear` in bf16, for inference; its weight has no other form any more."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return y


def pack(gpt: GPT) -> GPT:
    """The same network, its blocks' products packed where that pays: bf16, on a CPU. It can no longer be trained."""
    weight = gpt.head.weight
    if weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and _works():
        for parent in list(gpt.blocks.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, PackedLinear(child))
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
