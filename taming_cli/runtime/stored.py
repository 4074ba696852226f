"""Tensors that are still in their file."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Stored(NamedTuple):
    """A tensor that is still in a file; `load()` brings it into memory, on the CPU and contiguous."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]
