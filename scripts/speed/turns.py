"""A stage of the work, done in several ways in turns (A B A B): medians, memory, ratios."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from taming_cli.runtime.cost import synchronize
from taming_cli.runtime.device import keep_freed_memory

Way = Callable[[], object]
PLAIN, OURS, PEER = "plain fp32", "taming", "authors"


@dataclass
class Stage:
    """`ways` of doing the same `units` of work. What a call does of it is `part`; the rest is by count."""

    name: str
    unit: str
    units: float
    ways: Mapping[str, Way]
    floor: float | None = None
    """Seconds below which no way can be: operations or bytes over what the machine does of them."""

    parts: Mapping[str, float] = field(default_factory=dict)
    """Calls that make up the whole, by way, where it is not one."""

    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def measure(self, repeats: int, device: torch.device) -> None:
        """Each way once to warm up, then all in turns."""
        found: dict[str, list[float]] = {name: [] for name in self.ways}
        for number in range(repeats + 1):
            for name, way in self.ways.items():
                keep_freed_memory(name == OURS)  # for the others as it is in any process
                before = _resident(device)
                began = time.perf_counter()
                way()
                synchronize(device)
                if number:
                    found[name].append(time.perf_counter() - began)
                self.memory[name] = max(self.memory.get(name, 0), _peak(device) - before)
        self.seconds = {name: statistics.median(times) * self.parts.get(name, 1.0) for name, times in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON: seconds for each unit."""
        each = {name: seconds / self.units for name, seconds in self.seconds.items()}
        ours = self.seconds[OURS]
        return {
            "stage": self.name,
            "unit": self.unit,
            "seconds": each,
            "times_faster_than": {name: seconds / ours for name, seconds in self.seconds.items() if name != OURS},
            "extra_memory_bytes": self.memory,
            "share_of_floor": None if self.floor is None else self.floor / ours,
        }


def _resident(device: torch.device) -> int:
    """Bytes held now; from here on `_peak` counts anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is then that of the whole process
        return 0
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), 0)
