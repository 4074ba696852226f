"""Notices that another process of the same command is stopped (SIGSTOP): the others would wait for it for an hour."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)
LONGEST = 30.0
"""Seconds for which a process may be stopped. One that is slow, or waits for a disk, is not stopped."""
_EVERY = 1.0


@contextmanager
def noticing(
    processes: Mapping[int, int],
    name: str,
    end: Callable[[int], object] = os._exit,
    longest: float | None = None,
    every: float = _EVERY,
) -> Iterator[None]:
    """A context in which a thread ends this process, `name`, once another one of this machine has been stopped for too
    long. `processes` maps the ranks of the others to their process numbers.

    The main thread cannot do so: it waits inside a collective operation. Where all of them were stopped together, as by
    Ctrl-Z, the time starts again. `longest` is LONGEST by default.
    """
    patience = LONGEST if longest is None else longest
    over = threading.Event()

    def watch() -> None:
        since: dict[int, float] = {}
        last = time.monotonic()
        while not over.wait(every):
            now = time.monotonic()
            if now - last > 5 * every:  # this one was stopped too
                since.clear()
            last = now
            for rank, process in processes.items():
                if not is_stopped(process):
                    since.pop(rank, None)
                elif now - since.setdefault(rank, now) >= patience:
                    _log.error(
                        f"taming: {name} stops: process {rank} has been stopped (SIGSTOP) for {patience:.0f} s. The "
                        "last save is complete; continue with --resume"
                    )
                    end(1)
                    return

    thread = threading.Thread(target=watch, name="stopped", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def is_stopped(process: int) -> bool:
    """Whether a process of this machine is stopped; False where the system does not tell."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].startswith("T")
    except OSError:
        return False
