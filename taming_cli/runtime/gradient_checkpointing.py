"""Gradient checkpointing (Chen et al. 2016): what a block keeps for the way back is made once more there instead."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputable(nn.Module):
    """A block that, where `recompute` is set, keeps its inputs alone in training: same values, same gradients."""

    recompute = False

    def __call__(self, *inputs: Any) -> Any:
        """As of nn.Module."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(super().__call__, *inputs, use_reentrant=False)
        return super().__call__(*inputs)


def recompute(network: nn.Module) -> None:
    """Have every block of a network do so."""
    for module in network.modules():
        if isinstance(module, Recomputable):
            module.recompute = True
