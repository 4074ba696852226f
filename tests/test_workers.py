"""Work ahead of its use: in order, and ended when it is no longer wanted or one of its processes is gone."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from taming_cli.data.workers import Begin, in_order, processes, threads
from taming_cli.errors import TamingError


def slower_at_first(number: int) -> int:
    time.sleep(0.2 / (1 + number))
    return number * number


def sleeps(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def dies(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("begin", [threads(3), processes(2)])
def test_results_come_in_order(begin: Begin) -> None:
    assert list(in_order(begin, slower_at_first, range(7), ahead=3)) == [n * n for n in range(7)]


def test_processes_are_ended_in_the_midst_of_their_work(tmp_path: Path) -> None:
    began = time.monotonic()
    with closing(in_order(processes(1), slower_at_first, range(9), ahead=1)) as results:
        next(results)
    with pytest.raises(KeyboardInterrupt):
        next(in_order(processes(2), sleeps, _until(lambda: len(list(tmp_path.iterdir())) == 2, tmp_path), ahead=5))
    assert time.monotonic() - began < 30
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


def _until(ready: Callable[[], bool], folder: Path):
    """The folder twice, and then what Ctrl-C raises, once both are at work."""
    yield from (folder, folder)
    while not ready():
        time.sleep(0.05)
    raise KeyboardInterrupt


def test_a_process_that_is_gone_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TamingError, match="killed from outside, perhaps for lack of memory; use fewer --workers"):
        list(in_order(processes(1), dies, range(5), ahead=2))
