"""Ordered prefetching by threads, or by processes that end with this one."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from taming_cli.data.pillow import without_pillows_warnings
from taming_cli.errors import TamingError

T = TypeVar("T")
R = TypeVar("R")

Begin = Callable[[], Executor]
"""Starts threads or processes."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def threads(count: int) -> Begin:
    """Return an executor factory for threads of this process."""
    return partial(ThreadPoolExecutor, count, thread_name_prefix="pictures")


def processes(count: int, first: Callable[..., None] | None = None, *arguments: Any) -> Begin:
    """Return an executor factory for processes, each of which calls `first(*arguments)` at its start.

    They are spawned, since a fork of a process that has threads or uses a GPU may hang. torch's DataLoader is not used:
    when one of its workers dies, it raises an error in the main thread at any point, even in the middle of a save.
    """
    return partial(
        ProcessPoolExecutor,
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(first, arguments),
    )


def in_order(
    begin: Begin, function: Callable[[T], R], arguments: Iterable[T], *, ahead: int
) -> Generator[R, None, None]:
    """Yield the results of `map(function, arguments)` in order, with `ahead` calls submitted to an executor.

    Closing the generator early waits for the running calls of threads, and kills processes. Raises TamingError where a
    process was killed from outside.
    """
    remaining = iter(arguments)
    executor = begin()
    done = False
    try:
        with _ctrl_c_later():
            pending = deque(executor.submit(function, argument) for argument in itertools.islice(remaining, ahead))
        while pending:
            first = pending.popleft()
            pending.extend(executor.submit(function, argument) for argument in itertools.islice(remaining, 1))
            yield first.result()
        done = True
    except BrokenProcessPool as error:
        raise TamingError(
            "a worker process was killed from outside, perhaps for lack of memory; use fewer --workers"
        ) from error
    finally:
        if not done and isinstance(executor, ProcessPoolExecutor):
            for process in list((executor._processes or {}).values()):  # Python 3.14 has `kill_workers` for this
                process.kill()
        executor.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Delay Ctrl-C in this process, and hide it from processes started here until they ignore it themselves."""
    resource_tracker.ensure_running()  # starting it later would unblock Ctrl-C here
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(first: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # Ctrl-C goes to every process at the terminal: the parent saves its work first, and then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    without_pillows_warnings()
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    if first is not None:
        first(*arguments)


def _end_with_the_parent() -> None:
    """End this worker when its parent ends; workers of a killed parent would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
