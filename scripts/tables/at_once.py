"""Runs tasks that run commands, several at once."""

import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from commands import ending_with_commands

K = TypeVar("K")
V = TypeVar("V")


def run_all(tasks: Mapping[K, Callable[[], V]], jobs: int, done: Callable[[K, V], None]) -> None:
    """Begin tasks in their order, `jobs` at once, each in a thread; a single job is done in this one. `done` is called
    in this thread with the result of each task, in the order in which they end.

    The first error of a task, or of `done`, is raised. Before that, the commands that run get a TERM, upon which they
    save and end, and no others begin. Ctrl-C and TERM of this program end the commands in the same way.
    """
    if jobs == 1:
        for key, task in tasks.items():
            done(key, task())
        return
    with ending_with_commands() as end, ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(task): key for key, task in tasks.items()}
        try:
            for future in as_completed(futures):
                done(futures[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end(signal.SIGTERM)
            raise
