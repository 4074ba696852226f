"""Frozen networks: evaluated, never trained."""

from typing import Self

from torch import nn

from taming_cli.runtime.weights import LocalWeights


class Frozen(nn.Module):
    """A module that stays in evaluation mode and whose parameters need no gradient.

    Subclasses call `freeze` at the end of `__init__`. The published trainer left its perceptual network in training
    mode, with dropout; here `train()` of this module or of a parent has no effect.
    """

    def freeze(self) -> Self:
        """Disable gradients and put the module and its children into evaluation mode, permanently."""
        self.requires_grad_(False)
        nn.Module.train(self, False)
        return self

    def train(self, mode: bool = True) -> Self:
        """Do nothing: a frozen network does not train."""
        return self


class StampedNetwork(Frozen):
    """A frozen network with weights from a file. `known`: they are published ones. Every result records `stamp`."""

    def __init__(self, name: str, file: LocalWeights, *, known: bool) -> None:
        super().__init__()
        self.name, self.sha256, self.known = name, file.sha256, known

    @property
    def stamp(self) -> dict[str, str | bool]:
        """The record of the network in results."""
        return {"name": self.name, "sha256": self.sha256, "known": self.known}
