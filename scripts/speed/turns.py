"""A stage of the work, done in several ways in turns (A B A B), each in a process of its own: medians, memory, ratios.

In one process the ways would share an allocator, and ours changes it: the others are then faster or slower than in any
program of their own.
"""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from taming_cli.runtime.allocator import keep_freed_memory
from taming_cli.runtime.cost import synchronize

Way = Callable[[], object]
PLAIN, OURS, PEER = "plain fp32", "taming", "authors"
PARTS = "parts alone"
"""The work's parts one after the other, each with the whole machine: the floor of what does them at once."""


class Taken(NamedTuple):
    """Of one call: seconds, and the bytes that it took on top of what was there."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class Stage:
    """`ways` of doing the same `units` of work, each made when it is wanted: models, weights, what to do.

    What a call does of it is a part; `calls` make up the whole, where it is not one. `floor` says the seconds below
    which no way can be: operations or bytes over what the machine does of them.
    """

    name: str
    unit: str
    units: float
    ways: Mapping[str, Callable[[], Way]]
    floor: Callable[[], float] | None = None
    calls: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Timed:
    """What was measured of a stage: `seconds` for the whole, by way."""

    stage: Stage
    seconds: Mapping[str, float]
    memory: Mapping[str, int]
    floor: float | None

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON: seconds for each unit."""
        ours = self.seconds[OURS]
        return {
            "stage": self.stage.name,
            "unit": self.stage.unit,
            "seconds": {name: seconds / self.stage.units for name, seconds in self.seconds.items()},
            "times_faster_than": {name: seconds / ours for name, seconds in self.seconds.items() if name != OURS},
            "extra_memory_bytes": dict(self.memory),
            "share_of_floor": None if self.floor is None else self.floor / ours,
        }


Stages = Callable[[], Iterator[Stage]]
"""Makes stages, the same ones with the same weights in every process: a function that `multiprocessing` can send."""


def timed(stages: Stages, repeats: int, device: torch.device) -> list[Timed]:
    """Each stage, ours in turns with one other way after the other: all of them at once may not fit into memory."""
    named = list(stages())
    ways = [name for name in dict.fromkeys(way for stage in named for way in stage.ways) if name != OURS]
    taken: list[dict[str, list[Taken]]] = [{} for _ in named]
    for pair in [[way, OURS] for way in ways] or [[OURS]]:
        with ExitStack() as stack:
            workers = {name: stack.enter_context(_worker(stages, name, device)) for name in pair}
            for number, stage in enumerate(named):
                for _ in range(repeats + 1):
                    for name in pair:
                        taken[number].setdefault(name, []).append(workers[name].ask(number))
                print(f"{stage.name}: {' and '.join(pair)} timed", file=sys.stderr)
    return [_timed(stage, found, repeats) for stage, found in zip(named, taken, strict=True)]


def _timed(stage: Stage, taken: Mapping[str, Sequence[Taken]], repeats: int) -> Timed:
    """The first of each `repeats + 1` calls was to warm up."""
    seconds = {
        name: [each.seconds for number, each in enumerate(calls) if number % (repeats + 1)]
        for name, calls in taken.items()
    }
    medians = {name: statistics.median(values) * stage.calls.get(name, 1) for name, values in seconds.items()}
    return Timed(
        stage,
        medians,
        {name: max(each.memory for each in calls) for name, calls in taken.items()},
        medians.get(PARTS) if stage.floor is None else stage.floor(),
    )


class _Worker:
    def __init__(self, process: multiprocessing.process.BaseProcess, connection: Connection) -> None:
        self._process, self._connection = process, connection

    def ask(self, number: int) -> Taken:
        """Have it do its way of a stage, once."""
        try:
            self._connection.send(number)
            answer = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise SystemExit("bench: a measured process ended; what it said stands above") from None
        assert isinstance(answer, Taken)
        return answer


@contextmanager
def _worker(stages: Stages, way: str, device: torch.device) -> Iterator[_Worker]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, stages, way, device), daemon=True)
    process.start()
    theirs.close()
    try:
        yield _Worker(process, ours)
    finally:
        ours.close()
        process.join()


def _serve(connection: Connection, stages: Stages, way: str, device: torch.device) -> None:
    """One way of all stages, as it is asked for, in their order."""
    if way in (OURS, PARTS):
        keep_freed_memory()  # as the executable does
    made: Way | None = None
    at = -1
    made_stages = stages()
    while True:
        try:
            wanted = connection.recv()
        except EOFError:
            return
        while at < wanted:
            made = None
            stage, at = next(made_stages), at + 1
            made = stage.ways[way]() if at == wanted else None
        assert made is not None
        before = _resident(device)
        began = time.perf_counter()
        made()
        synchronize(device)
        connection.send(Taken(time.perf_counter() - began, _peak(device) - before))


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
