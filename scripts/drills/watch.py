"""Watches a command from outside: its memory, open files, threads and processor time, while its work goes on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

EVERY = 0.2
"""Seconds between two looks."""
MIB = 2**20
COMMAND = (sys.executable, "-m", "taming_cli")


class Look(NamedTuple):
    """What a command and its processes have: seconds of processor time so far, work done, bytes of memory, open files,
    threads."""

    time: float
    done: float
    memory: int
    files: int
    threads: int


class Stretch(NamedTuple):
    """A part of the work: the median of its memory, the least number of open files and threads, since some are open
    for a moment, and its processor time in seconds."""

    memory: float
    files: int
    threads: int
    time: float


class Command:
    """A command of the tool that runs by turns, and is looked at after each. It has a single thread, since threads that
    wait for others in a loop take processor time. `done` is how much of its work is done."""

    def __init__(self, arguments: Sequence[object], done: Callable[[], float], log: Path) -> None:
        self.looks: list[Look] = []
        self._words = [*COMMAND, *map(str, arguments)]
        self._done, self._log = done, log
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("wb") as stream:
            self._process = subprocess.Popen(self._words, stdout=stream, stderr=stream, env=alone)

    def turn(self) -> bool:
        """Let it run for `EVERY` seconds, and look at it. -> Whether it still runs."""
        self._send(signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EVERY)
        self._send(signal.SIGSTOP)
        if code := self._process.poll():
            raise RuntimeError(f"{' '.join(self._words)}: exit code {code}: {self._log.read_text()[-500:]}")
        if code == 0 or (look := _look(self._process.pid, self._done())) is None:
            return code is None
        self.looks.append(look)
        return True

    def turns_until(self, done: float) -> None:
        """Let it run until so much of its work is done, or it ends."""
        while self.turn() and (not self.looks or self.looks[-1].done < done):
            pass

    def kill(self) -> None:
        """End it with all its processes."""
        self._send(signal.SIGKILL)
        self._process.wait()

    def _send(self, sign: signal.Signals) -> None:
        with suppress(OSError):  # one of them has ended
            for each in _family(self._process.pid):
                os.kill(each, sign)


def watched(command: Command, other: Callable[[], Command], total: float) -> tuple[Sequence[Look], Sequence[Look]]:
    """Run a command to its end. -> The looks at it, and at another one that has the same work before it.

    The speed of a machine changes by a tenth and more within seconds, and not alike for all computations. So the last
    tenth of the work is compared with the second tenth of the `other`, which runs then, in turns with it.
    """
    begun = [command]
    try:
        command.turns_until(0.9 * total)
        begun.append(fresh := other())
        fresh.turns_until(0.1 * total)
        while command.turn():
            fresh.turn()
    finally:  # a command that is stopped between its turns would stay
        for each in begun:
            each.kill()
    return command.looks, fresh.looks


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
