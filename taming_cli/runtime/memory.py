"""The free memory, and the part of it that encoding and decoding a picture may use."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from taming_cli.errors import UsageError

GIB = 2**30
BUDGET = 3 * GIB
"""Default bytes for the activations of an encode: a constant, so that codes are the same on every machine. Also the
limit for decoding several pictures at once."""
SHARE = 0.5
"""Default fraction of the free memory for decoding a picture."""
LEAST = GIB // 4
"""Smallest default number of bytes for decoding a picture."""


class Room(NamedTuple):
    """Bytes for the activations of a codec in fp32, beside its weights and the picture: for `encode`, whose result
    hardly depends on it, and for `decode`, which is exact for pictures that fit."""

    encode: int = BUDGET
    decode: int = BUDGET


USUAL = Room()
"""The default regardless of the free memory."""


def room(device: torch.device, memory: float | None = None) -> Room:
    """The memory for pictures on a device: `memory` GiB if given; otherwise half of the free memory for decoding, and
    the constant BUDGET for encoding. UsageError where `memory` is not positive."""
    if memory is not None:
        if not memory > 0:
            raise UsageError(f"memory is {memory:g} GiB; give more than 0")
        return Room(int(memory * GIB), int(memory * GIB))
    return Room(BUDGET, max(LEAST, int(SHARE * free_bytes(device))))


def free_bytes(device: torch.device) -> int:
    """Bytes of a device's memory that this process can use, including what torch has reserved and does not use."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return memory_bytes()[1]


def memory_bytes(system: Path = Path("/proc/meminfo"), limits: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Total and free bytes of the machine's memory, within the limits of the control groups of this process. File
    caches that can be dropped count as free."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    if system.exists():
        fields = dict(line.split(":", 1) for line in system.read_text().splitlines() if ":" in line)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    for limit, used in _limits(limits):
        total, free = min(total, limit), min(free, max(0, limit - used))
    return total, free


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, use) in bytes of each control group, version 2 or 1, that limits this process."""
    own = {"": "/"}
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own |= dict.fromkeys(controllers.split(","), path)
    except (OSError, ValueError):
        pass
    versions = (
        (root, own[""], "memory.max", "memory.current", "inactive_file"),
        (
            root / "memory",
            own.get("memory", "/"),
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    )
    for top, path, limit_name, used_name, idle in versions:
        place = top / path.lstrip("/")
        for folder in (place, *(each for each in place.parents if each.is_relative_to(top))):
            try:
                limit, used = ((folder / name).read_text().strip() for name in (limit_name, used_name))
            except OSError:
                continue
            if limit.isdecimal():
                yield int(limit), max(0, int(used) - _stat(folder / "memory.stat", idle))


def _stat(path: Path, name: str) -> int:
    """A value of a group's statistics; 0 where it is missing."""
    try:
        lines = (line.split() for line in path.read_text().splitlines())
        return next((int(fields[1]) for fields in lines if fields[:1] == [name]), 0)
    except (OSError, ValueError, IndexError):
        return 0
