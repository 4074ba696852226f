"""Compile parts of a network with torch.compile."""

import os
import shutil
from collections.abc import Iterable

from torch import nn

from taming_cli.errors import UsageError

COMPILERS = ("c++", "g++", "clang++", "cl")


def compile_blocks(network: nn.Module) -> None:
    """Compile each module of `network.blocks`, in place, at its first call. UsageError without a C++ compiler."""
    if not any(map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))):
        raise UsageError("--compile needs a C++ compiler, and none is found: install one, or set CXX to its path")
    blocks = network.blocks
    assert isinstance(blocks, Iterable)
    for block in blocks:
        block.compile()
