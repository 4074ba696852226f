"""Watches a command from outside: its memory, open files, threads and processor time, while its work goes on."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median, median_low
from typing import NamedTuple

EVERY = 0.2
"""Seconds between two looks."""
SLICES = 10
"""Parts of a tenth whose times are compared."""
MIB = 2**20


class Look(NamedTuple):
    """What a command and its processes have: the seconds of processor time so far, work done, bytes of memory, open
    files, threads."""

    time: float
    done: float
    memory: int
    files: int
    threads: int


class Stretch(NamedTuple):
    """A tenth of the work: the medians of its memory, open files and threads, and its seconds of processor time: ten
    times those of the third fastest of ten slices. Other programs on the machine, which come and go, make a slice
    slower, and never faster."""

    memory: float
    files: int
    threads: int
    seconds: float


def watched(arguments: Sequence[object], done: Callable[[], float], log: Path) -> list[Look]:
    """Run a command of the tool to its end; `done` is how much of its work is done."""
    looks: list[Look] = []
    command = [sys.executable, "-m", "taming_cli", *map(str, arguments)]
    with log.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
        while process.poll() is None:
            if (look := _look(process.pid, done())) is not None:
                looks.append(look)
            time.sleep(EVERY)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}: {log.read_text()[-500:]}")
    return looks


def stretch(looks: Sequence[Look], start: float, stop: float) -> Stretch:
    """The looks while the work done was from `start` to `stop`."""
    within = [look for look in looks if start <= look.done <= stop] or list(looks[-1:])
    working = [look for look in within if look.done < stop] or within  # without what follows the work, such as a merge
    times = [_time_of(looks, start + (stop - start) * number / SLICES) for number in range(SLICES + 1)]
    slices = sorted(after - before for before, after in pairwise(times))
    return Stretch(
        median(look.memory for look in within),
        median_low(look.files for look in working),
        median_low(look.threads for look in working),
        SLICES * slices[2],
    )


def _time_of(looks: Sequence[Look], done: float) -> float:
    """When so much was done, between the looks before and after."""
    after = next((number for number, look in enumerate(looks) if look.done >= done), len(looks) - 1)
    last = looks[after]
    first = next((look for look in reversed(looks[:after]) if look.done < last.done), last)
    # Work is seen in steps: the look before the last change is the beginning of this one.
    share = (done - first.done) / (last.done - first.done) if last.done > first.done else 1.0
    return first.time + min(1.0, share) * (last.time - first.time)


def _look(process: int, done: float) -> Look | None:
    """A look at a process and those below it; None if it ended meanwhile."""
    ticks = memory = files = threads = 0
    try:
        for each in _family(process):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{each}/status").read_text().splitlines())
            stat = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, stat[11:15]))  # of the process and of its children that have ended
            memory += int(status["VmRSS"].split()[0]) * 1024
            threads += int(status["Threads"])
            files += sum(1 for _ in Path(f"/proc/{each}/fd").iterdir())
    except (OSError, KeyError):
        return None
    return Look(ticks / os.sysconf("SC_CLK_TCK"), done, memory, files, threads)


def _family(process: int) -> list[int]:
    """A process and those below it."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(member for child in children for member in _family(int(child)))]
