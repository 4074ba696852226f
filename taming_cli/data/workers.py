"""Work done ahead of its use, in order, by threads or by processes that end with this one."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from taming_cli.errors import TamingError

T = TypeVar("T")
R = TypeVar("R")

Begin = Callable[[], Executor]
"""Starts threads or processes."""


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def threads(count: int) -> Begin:
    """Threads of this process."""
    return partial(ThreadPoolExecutor, count, thread_name_prefix="pictures")


def processes(count: int, first: Callable[..., None] | None = None, *arguments: Any) -> Begin:
    """Processes of their own, each of which calls `first(*arguments)` before anything else.

    Spawned: a fork of a process that has threads, or uses a GPU, may hang. Not torch's DataLoader: when one of its
    workers dies, it raises an error wherever the main thread then is, be it in the middle of saving.
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
    """`map`, with `ahead` calls under way in an executor.

    Closing it early waits for the calls that threads have begun, and ends processes in the midst of theirs. TamingError
    where a process was ended from outside.
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
            "a process that worked ahead was ended from outside, perhaps for lack of memory; use fewer --workers"
        ) from error
    finally:
        if not done and isinstance(executor, ProcessPoolExecutor):
            for process in list((executor._processes or {}).values()):  # Python 3.14 has `kill_workers` for this
                process.kill()
        executor.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Processes that are started meanwhile never hear of a Ctrl-C, not even before they can say that they ignore it;
    this one hears of it afterwards."""
    resource_tracker.ensure_running()  # which lets Ctrl-C through once it is there
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


def without_pillows_warnings() -> None:
    """In this process, from now on: Pillow warns of damaged metadata and of large pictures that it then reads. For a
    process of ours alone. There is no narrower way: `warnings.catch_warnings` is not safe while other threads decode.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _end_with_the_parent() -> None:
    """A parent that is killed ends no worker: they would wait for more to do for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
