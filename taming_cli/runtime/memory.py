"""How much memory there is on this machine, and how much of it is free."""

import os
from pathlib import Path

import torch


def machine_memory(system: Path = Path("/proc/meminfo"), limits: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Bytes in all, and free of those, within the limit of the container where there is one."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    if system.exists():
        fields = dict(line.split(":", 1) for line in system.read_text().splitlines() if ":" in line)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    most, now = limits / "memory.max", limits / "memory.current"
    if most.exists() and now.exists() and (limit := most.read_text().strip()).isdecimal():
        total = min(total, int(limit))
        free = min(free, max(0, int(limit) - int(now.read_text())))
    return total, free


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device: a CUDA device's own, else the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return machine_memory()[1]
