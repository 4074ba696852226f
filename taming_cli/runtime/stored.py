"""Tensors that have not been read from their file yet."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Stored(NamedTuple):
    """A tensor in a file; `load()` reads it into memory, contiguous and on the CPU."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]
