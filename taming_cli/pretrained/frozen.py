"""A frozen network: evaluated, never trained."""

from typing import Self

from torch import nn


class Frozen(nn.Module):
    """A module that stays in evaluation mode and whose parameters take no gradient, whoever holds it.

    Subclasses call `freeze` at the end of their construction. The published trainer put its perceptual network into
    training mode, dropout and all; here `train()` of this module or of any parent changes nothing.
    """

    def freeze(self) -> Self:
        """Stop gradients to every parameter and put the whole tree into evaluation mode, for good."""
        self.requires_grad_(False)
        nn.Module.train(self, False)
        return self

    def train(self, mode: bool = True) -> Self:
        """Nothing: a frozen network does not train."""
        return self
