"""A codebook that is learned as a whole: SimVQ (Zhu et al. 2024)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from taming_cli.codec.quantizers.nearest import Quantizer


class LinearCodebook:
    """A codebook E = B W with a fixed basis B (K, D), its initial entries, and a learned map W (D, D). The gradient of
    one entry moves all of them, so that none stays behind unused.

    The quantizer has the product as its entries, so that its file is that of any other codebook. The gradient of W is
    B^T times that of E.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer = quantizer
        entries = quantizer.embedding.weight
        self.basis = entries.detach().clone()
        self.map = nn.Parameter(torch.eye(entries.shape[1], device=entries.device))

    @torch.no_grad()
    def take_gradient(self) -> None:
        """Give the gradient of the entries to the map."""
        entries = self.quantizer.embedding.weight
        self.map.grad = None if entries.grad is None else self.basis.t() @ entries.grad
        entries.grad = None

    @torch.no_grad()
    def update_entries(self) -> None:
        """Compute the entries from the map."""
        self.quantizer.embedding.weight.copy_(self.basis @ self.map)

    def state_dict(self) -> dict[str, Tensor]:
        """The basis and the map, for an exact resume."""
        return {"basis": self.basis, "map": self.map.detach()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.basis.copy_(state["basis"])
        self.map.copy_(state["map"])
