"""Runs trials in forked processes, which are limited in time and memory, and replaced when they die, hang or grow."""

import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple

MIB = 2**20
LEAK = 256 * MIB
"""Bytes that a process may keep from its trials; then another one takes over."""
SPARE = 2048 * MIB
"""Address space beyond the limit of memory; a larger claim fails in the process, not on the machine."""
HANG = 10.0
"""Seconds after which a process that does not end its trial is killed."""
START = 60.0
"""Seconds for a process to start, with its first read of the intact files."""


class Limits(NamedTuple):
    """Seconds of computing for a trial, and bytes that it may use at most beyond the intact read."""

    seconds: float
    memory: int


class Ended(NamedTuple):
    """A trial that ended: its number, what was lost (empty: nothing), seconds, and bytes at its peak."""

    number: int
    loss: str
    seconds: float = 0.0
    memory: int = 0


def attempted(
    numbers: range, attempt: Callable[[int], str], intact: Callable[[], str], limits: Limits
) -> Iterator[Ended]:
    """Call `attempt(number)`, which returns what was lost, for each number, in processes that first call `intact`.

    An exception, a death by signal, an exit, a hang, too much memory, and a traceback or control characters on stderr
    are losses.
    """
    start = numbers.start
    while start < numbers.stop:
        for ended in _in_process(range(start, numbers.stop), attempt, intact, limits):
            start = ended.number + 1
            yield ended


def _in_process(
    numbers: range, attempt: Callable[[int], str], intact: Callable[[], str], limits: Limits
) -> Iterator[Ended]:
    """The trials of one process, at least one; after a loss of the process itself, the last is that."""
    with tempfile.TemporaryFile() as noise:
        yield from _noted(numbers, attempt, intact, limits, noise)


def _noted(
    numbers: range, attempt: Callable[[int], str], intact: Callable[[], str], limits: Limits, noise: IO[bytes]
) -> Iterator[Ended]:
    """The same, with the file that gets stderr."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if not process:
        os.close(reading)
        _be_process(numbers, attempt, intact, limits, writing, noise)
    os.close(writing)
    number, patience, death = numbers.start, START, ""
    rest = b""
    while True:
        if not select.select([reading], [], [], patience)[0]:
            os.kill(process, signal.SIGKILL)
            death = f"no end within {patience:.0f} s"
            break
        data = os.read(reading, 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            ended = Ended(*json.loads(line))
            if ended.number >= 0:
                number = ended.number + 1
                yield ended
            elif ended.loss:
                raise RuntimeError(f"the trials cannot begin: {ended.loss}")
        patience = max(limits.seconds, HANG)
    os.close(reading)
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    if death or code:
        death = death or (f"died of {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")
        said = os.pread(noise.fileno(), MIB, 0).decode(errors="replace").rpartition("terminate called")[2]
        yield Ended(number, f"{death}: {' '.join(said.split())[:500]}" if said.strip() else death)


def _be_process(
    numbers: range,
    attempt: Callable[[int], str],
    intact: Callable[[], str],
    limits: Limits,
    writing: int,
    noise: IO[bytes],
) -> None:
    """Be the process of some trials, and end."""
    code = 1
    try:
        with open(writing, "wb", buffering=0, closefd=False) as results:
            os.dup2(noise.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            intact()  # imports, caches
            usual = _measured(lambda _: intact(), 0, noise)
            results.write(_line(usual._replace(number=-1)))
            most = _status("VmSize") + usual.memory + limits.memory + SPARE
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            first = _status("VmRSS")
            for number in numbers:
                ended = _measured(attempt, number, noise)
                loss = ended.loss
                if not loss and ended.memory > usual.memory + limits.memory:
                    loss = f"{(ended.memory - usual.memory) // MIB} MiB more than the intact read"
                if not loss and ended.seconds > limits.seconds:
                    loss = f"{ended.seconds:.1f} s"
                results.write(_line(ended._replace(loss=loss)))
                if _status("VmRSS") > first + LEAK:
                    break
        code = 0
    except BaseException:
        os.write(writing, _line(Ended(-1, traceback.format_exc())))
    finally:
        os._exit(code)


def _measured(attempt: Callable[[int], str], number: int, noise: IO[bytes]) -> Ended:
    """Time and peak of memory of a trial."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began, quiet = _status("VmRSS"), time.process_time(), os.fstat(noise.fileno()).st_size
    try:
        loss = attempt(number)
    except BaseException as error:
        loss = f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({place(error.__traceback__)})"
    seconds = time.process_time() - began
    sys.stderr.flush()
    printed = os.pread(noise.fileno(), MIB, quiet).decode(errors="replace")
    if not loss and ("Traceback" in printed or not printed.replace("\n", "").isprintable()):
        loss = f"printed on stderr: {printed[:300]!r}"
    return Ended(number, loss, seconds, _status("VmHWM") - before)


def place(trace: TracebackType | None) -> str:
    """The innermost frames of a traceback, in one line."""
    frames = traceback.extract_tb(trace)[-3:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))


def _status(name: str) -> int:
    """A size of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _line(ended: Ended) -> bytes:
    return json.dumps(ended).encode() + b"\n"
