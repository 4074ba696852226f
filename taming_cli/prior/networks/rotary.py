"""Rotary positions in two dimensions (Su et al. 2021): half of a head's channels rotate by row, half by column."""

from typing import NamedTuple

import torch
from torch import Tensor

BASE = 100.0  # grids are tens of cells wide: with the 10,000 of text, most channels would hardly rotate


class Rotation(NamedTuple):
    """cos and sin of the rotary angles of some tokens, each (T, head_size / 2), or (B, 1, T, head_size / 2).

    In the raster prior, queries rotate by the cell that is predicted, keys by the cell that they hold. So the cell
    above, the cell to the left, and the condition at the predicted cell are always at the same offset, across the end
    of a row too.
    """

    query: tuple[Tensor, Tensor]
    key: tuple[Tensor, Tensor]


def angles(positions: Tensor, head_size: int) -> Tensor:
    """Rows and columns (..., L, 2) -> cos and sin, (..., L, head_size)."""
    pairs = head_size // 4
    speed = BASE ** -(torch.arange(pairs, device=positions.device) / pairs)  # (head_size / 4,)
    angle = (positions[..., None] * speed).flatten(-2)  # (..., L, head_size / 2)
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (i, i + head_size / 2) of (B, heads, T, head_size)."""
    (a, b), (cos, sin) = x.chunk(2, dim=-1), angles
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
