"""A process that is stopped ends the others after a while; one that is slow, or stopped for a moment, does not."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from taming_cli.runtime.stopped import is_stopped, noticing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which processes are stopped")


@pytest.fixture
def other() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def stop(process: int) -> None:
    os.kill(process, signal.SIGSTOP)
    os.waitpid(process, os.WUNTRACED)


def test_a_stopped_process_is_named_and_ends_this_one(other: int, caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()
    with noticing({3: other}, "process 1 of 4", lambda _: ended.set(), longest=0.2, every=0.02):
        stop(other)
        assert is_stopped(other)
        assert ended.wait(20)
    (said,) = caplog.messages
    assert said.startswith("taming: process 1 of 4 stops: process 3 has been stopped (SIGSTOP) for 0 s. ")
    assert "\n" not in said


def test_one_that_runs_or_has_ended_or_goes_on_soon_does_not(other: int) -> None:
    ended = threading.Event()
    with noticing({1: other, 2: 2**22 + 1}, "process 0 of 3", lambda _: ended.set(), longest=30, every=0.02):
        stop(other)
        time.sleep(0.3)
        os.kill(other, signal.SIGCONT)
        time.sleep(0.1)
        assert not is_stopped(other)
    assert not ended.is_set()
