"""Tensors whose values are still in a file."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Stored(NamedTuple):
    """A tensor in a file; `load()` reads it into memory, contiguous and on the CPU."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]
