"""Processes of `taming` for the drills: forks of this process, which has torch and the package imported.

A trial takes tenths of a second instead of seconds, and a kill meets work, not imports. Shards of `tokenize` and
chunks of `sample` are made small, so that a few pictures have several of them.
"""

import fcntl
import importlib
import mmap
import os
import shutil
import signal
import struct
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT))  # before any other package that is called tests

from tests.fork_server import become, preload  # noqa: E402

SHARD, CHUNK, STOPPED = 8, 2, 6.0
"""Pictures of a shard and of a chunk, and seconds for which one of several processes may be stopped; by default 256, 64
and 30."""
_PIPE = 2**20
"""Bytes that a command can print before anyone reads."""
Prepare = Callable[[], object]
"""Called in the new process, before the command."""


class Ended(NamedTuple):
    """A process that has ended: its exit code, or the signal's number below 0, and what it printed."""

    code: int
    out: str
    err: str


class Process:
    """A running command."""

    def __init__(self, pid: int, out: int, err: int) -> None:
        self.pid, self._out, self._err = pid, out, err
        self._ended: Ended | None = None

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._collect(os.WNOHANG) is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.running():
            os.kill(self.pid, number)

    def wait(self, seconds: float = 300) -> Ended:
        """Wait for its end. It is killed after `seconds`, which is reported as -SIGALRM."""
        end = time.monotonic() + seconds
        while (ended := self._collect(os.WNOHANG)) is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                self._collect(0)
                assert self._ended is not None
                self._ended = self._ended._replace(code=-signal.SIGALRM)
            time.sleep(0.002)
        return ended

    def _collect(self, options: int) -> Ended | None:
        if self._ended is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                texts = [_rest(pipe).decode(errors="replace") for pipe in (self._out, self._err)]
                self._ended = Ended(os.waitstatus_to_exitcode(status), *texts)
        return self._ended


def _rest(pipe: int) -> bytes:
    """Read what is in a pipe, even if a process that was started from the command still holds its other end."""
    os.set_blocking(pipe, False)
    text = b""
    with suppress(BlockingIOError):
        while part := os.read(pipe, _PIPE):
            text += part
    os.close(pipe)
    return text


@cache
def _preloaded() -> None:
    preload()
    for name in ("zoneinfo", "encodings.cp437"):  # another user may not be able to read the interpreter's folder
        importlib.import_module(name)
    sys.modules["taming_cli.codec.tokenize"].SHARD_IMAGES = SHARD  # type: ignore[attr-defined]
    sys.modules["taming_cli.sampling.draw"].CHUNK = CHUNK  # type: ignore[attr-defined]
    sys.modules["taming_cli.runtime.stopped"].LONGEST = STOPPED  # type: ignore[attr-defined]


def start(
    arguments: Sequence[object],
    folder: Path,
    prepare: Prepare | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    executable: str = sys.executable,
) -> Process:
    """Start `taming` with these arguments in `folder`."""
    _preloaded()
    request = {
        "arguments": ["taming_cli", *map(str, arguments)],
        "cwd": str(folder),
        "environment": {**os.environ, **(environment or {})},
        "executable": executable,
        "umask": 0o022,
    }
    (out, own_out), (err, own_err) = os.pipe(), os.pipe()  # a limit on file sizes does not count here
    for pipe in (own_out, own_err):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
    pid = os.fork()
    if pid == 0:
        try:
            weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # temporary folders are the parent's
            for number, stream in enumerate((os.open(os.devnull, os.O_RDONLY), own_out, own_err)):
                os.dup2(stream, number)
                os.close(stream)
            if prepare is not None:
                prepare()
            become(request, [])
        finally:
            os._exit(99)
    os.close(own_out)
    os.close(own_err)
    return Process(pid, out, err)


def run(arguments: Sequence[object], folder: Path, prepare: Prepare | None = None) -> Ended:
    """Run `taming` with these arguments in `folder`, to its end."""
    return start(arguments, folder, prepare).wait()


def call(function: Callable[[], object]) -> None:
    """Call a function in a fork, which may then start threads. An error in it is one here."""
    _preloaded()
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0, function


class Watch:
    """Counts a process's operations on files below `folder` (creating, renaming, removing, syncing, locking, ...).

    With `nth`, the process kills itself with SIGKILL just before the nth. With `record`, a copy of each file is kept
    there when it gets its final name. Passed to `start` as `prepare`.
    """

    EVENTS = frozenset(
        f"os.{name}" for name in ("rename", "remove", "mkdir", "rmdir", "link", "truncate", "open", "fsync")
    ) | {"open", "fcntl.flock", "fcntl.lockf"}

    def __init__(self, folder: Path, *, nth: int = 0, record: Path | None = None) -> None:
        self._folder, self._nth, self._record = str(folder), nth, record
        self._count = mmap.mmap(-1, 8)  # shared with the fork

    @property
    def count(self) -> int:
        """The operations so far."""
        number: int = struct.unpack("q", self._count[:8])[0]
        return number

    def __call__(self) -> None:
        """Watch this process from now on."""
        own = os.getpid()
        sync = os.fsync
        busy = False

        def hook(event: str, values: tuple[Any, ...]) -> None:
            nonlocal busy
            if event not in self.EVENTS or busy or os.getpid() != own or not self._is_ours(event, values):
                return
            number = self.count + 1
            self._count[:8] = struct.pack("q", number)
            if number == self._nth:
                os.kill(own, signal.SIGKILL)
            if self._record is not None and event in ("os.rename", "os.link"):
                busy = True
                self._keep(self._record, Path(os.fsdecode(values[0])), os.fsdecode(values[1]), number)
                busy = False

        def fsync(fd: Any) -> None:
            sys.audit("os.fsync", fd)
            sync(fd)

        os.fsync = fsync
        sys.addaudithook(hook)

    def _is_ours(self, event: str, values: tuple[Any, ...]) -> bool:
        if event == "os.fsync" or event.startswith("fcntl"):
            return True
        if isinstance(values[0], int):
            return False
        path = os.fsdecode(values[0])
        if path.startswith("/") and not path.startswith(self._folder):
            return False
        return event != "open" or bool(values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    def _keep(self, record: Path, source: Path, target: str, number: int) -> None:
        copy = record / f"{number:06d}"
        copy.mkdir(parents=True)
        shutil.copy(source, copy / "content")
        (copy / "name").write_text(str(Path(target).absolute().relative_to(self._folder)))
