"""Compile parts of a network with torch.compile."""

import os
import shutil
from collections.abc import Iterable

import torch
from torch import nn

from taming_cli.errors import UsageError

COMPILERS = ("c++", "g++", "clang++", "cl")


def compile_blocks(network: nn.Module) -> None:
    """Compile each module of `network.blocks`, in place, at its first call; all of them share what is compiled.

    The method `attn.attend` of each runs as it is. It reads the number of its layer, for which there would be a
    compilation each, and its masks have other shapes in each step. UsageError without a C++ compiler.
    """
    if not any(map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))):
        raise UsageError("--compile needs a C++ compiler, and none is found: install one, or set CXX to its path")
    blocks = network.blocks
    assert isinstance(blocks, Iterable)
    for block in blocks:
        if hasattr(block, "attn"):
            block.attn.attend = torch.compiler.disable(block.attn.attend)  # type: ignore[no-untyped-call]
        block.compile()
