"""One command run by several processes at once, as torchrun starts them: which one this is, and what all found."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from taming_cli.errors import UsageError


@dataclass(frozen=True)
class World:
    """The processes of one command: this is number `rank` of `size`, counted from 0."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """What each process passes, in their order, to all; every process has to call it."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered


ALONE = World()
"""One process by itself."""


@contextmanager
def world() -> Iterator[World]:
    """The processes that torchrun started together with this one, or this one alone.

    They exchange results on the CPU (gloo). UsageError where the variables that torchrun sets make no sense.
    """
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield World()
        return
    rank = _number("RANK", 0)
    if not 0 <= rank < size:
        raise UsageError(f"RANK is {rank} of WORLD_SIZE {size}; start the processes by torchrun")
    for variable in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(variable):
            raise UsageError(f"WORLD_SIZE is {size}, but {variable} is not set; start the processes by torchrun")
    dist.init_process_group("gloo", rank=rank, world_size=size)
    try:
        yield World(rank, size)
    finally:
        dist.destroy_process_group()


def own_device(name: str) -> str:
    """`auto` or `cuda` as this one of several processes on a machine means it: each has a GPU of its own."""
    local = os.environ.get("LOCAL_RANK", "")
    several = _number("WORLD_SIZE", 1) > 1 and local.isdecimal()
    return f"cuda:{local}" if several and name in ("auto", "cuda") and torch.cuda.is_available() else name


def _number(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable, str(otherwise))
    if not text.isdecimal():
        raise UsageError(f"{variable} is {text!r}; torchrun sets it to a number")
    return int(text)
