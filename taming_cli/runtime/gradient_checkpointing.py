"""Gradient checkpointing (Chen et al. 2016): activations are recomputed in the backward pass instead of being kept."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputable(nn.Module):
    """A block that keeps only its inputs in training where `recompute` is set; values and gradients are the same."""

    recompute = False

    def __call__(self, *inputs: Any) -> Any:
        """As `nn.Module.__call__`."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(super().__call__, *inputs, use_reentrant=False)
        return super().__call__(*inputs)


def recompute(network: nn.Module) -> None:
    """Set `recompute` on every block of a network."""
    for module in network.modules():
        if isinstance(module, Recomputable):
            module.recompute = True
