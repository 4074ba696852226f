"""Watches a command from outside: its memory, open files, threads and processor time, while its work goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

EVERY = 0.2
"""Seconds between two looks."""
PACED = 5
"""Looks between two measurements of the machine's pace."""
MIB = 2**20


class Look(NamedTuple):
    """What a command and its processes have: the processor time so far, in computations of `_pace`, work done, bytes of
    memory, open files, threads."""

    time: float
    done: float
    memory: int
    files: int
    threads: int


class Stretch(NamedTuple):
    """A tenth of the work: the median of its memory, the least number of open files and threads, since some are open
    for a moment, and its processor time, in computations of `_pace`."""

    memory: float
    files: int
    threads: int
    time: float


def watched(arguments: Sequence[object], done: Callable[[], float], log: Path) -> list[Look]:
    """Run a command of the tool to its end; `done` is how much of its work is done.

    The speed of a machine changes by a tenth and more within seconds. So the command is stopped every second, while a
    fixed computation is timed, and its processor time is divided by that of the computation. It has a single thread,
    since threads that wait for others in a loop take processor time.
    """
    looks: list[Look] = []
    command = [sys.executable, "-m", "taming_cli", *map(str, arguments)]
    before, total, pace = 0.0, 0.0, _pace()
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream, env=alone) as process:
        for number in count():
            if process.poll() is not None:
                break
            if (look := _look(process.pid, done())) is not None:
                total, before = total + (look.time - before) / pace, look.time
                looks.append(look._replace(time=total))
            if number % PACED == 0:
                pace = _paced(process.pid)
            time.sleep(EVERY)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}: {log.read_text()[-500:]}")
    return looks


def _paced(process: int) -> float:
    """The pace of the machine while a process and those below it are stopped."""
    try:
        family = _family(process)
        for each in family:
            os.kill(each, signal.SIGSTOP)
    except OSError:  # one of them has ended
        family = []
    pace = _pace()
    for each in family:
        with suppress(OSError):
            os.kill(each, signal.SIGCONT)
    return pace


def _pace() -> float:
    """Seconds of processor time that a fixed computation takes now: a loop, and products of small matrices."""
    matrix = np.full((128, 128), 1 / 128, dtype=np.float32)
    began = time.process_time()
    sum(number & 7 for number in range(300_000))
    for _ in range(150):
        matrix = matrix @ matrix
    return time.process_time() - began


def stretch(looks: Sequence[Look], start: float, stop: float) -> Stretch:
    """The looks while the work done was from `start` to `stop`."""
    within = [look for look in looks if start <= look.done <= stop] or list(looks[-1:])
    working = [look for look in within if look.done < stop] or within  # without what follows the work, such as a merge
    return Stretch(
        median(look.memory for look in within),
        min(look.files for look in working),
        min(look.threads for look in working),
        _time_of(looks, stop) - _time_of(looks, start),
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
