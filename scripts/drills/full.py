"""A disk that is full, a folder that is read-only, a quota, no file handles: one clear line, and nothing lost.

The disk is a tmpfs of its own, which fills at a random size. A limit on the size of one file (RLIMIT_FSIZE) stands for
a quota, since it refuses a write in the same way (EFBIG for EDQUOT). A read-only folder is a file system that is
mounted so, or another user's folder; it may hold what a killed run has left. A command that did all its work is no
trial: it is drawn again.
"""

import ctypes
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from forked import Ended, Prepare, Watch
from forked import run as run_command
from jobs import jobs
from outcome import Outcome
from whole import Reference, one_line, undisturbed

TIMES = 50
QUICK = 2
AMPLE = 2**26
"""Bytes of a file system that no command fills."""
PAGE = 4096
NOBODY = 65534
_NEW_MOUNTS, _PRIVATE, _READ_ONLY, _REMOUNT = 0x20000, 0x44000, 1, 32

Attempt = Callable[[Reference, Path, random.Random], tuple[str, str]]
"""Begins a command in a folder where it will be refused; returns what was done and what was lost."""


class _Again(Exception):  # noqa: N818
    """Nothing was broken: no trial."""


def run(times: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """One row per kind of refusal; its trials go through the commands in turn."""
    folder.chmod(0o755)  # another user reads it too
    reason = _cannot_mount()
    references = [undisturbed(name) for name in jobs()]
    for row, attempt in ROWS.items():
        rng = random.Random(f"{seed} {row}")
        if reason and attempt in _MOUNTING:
            yield Outcome(row, "all", skipped=reason)
            continue
        for number in range(times):
            reference = references[number % len(references)]
            outcome = None
            while outcome is None:
                for _ in range(20):
                    outcome = outcome or _tried(row, attempt, reference, folder / "trial", rng)
                reference = rng.choice(references)  # some commands are hardly ever refused: import opens few files
            yield outcome


def _tried(row: str, attempt: Attempt, reference: Reference, trial: Path, rng: random.Random) -> Outcome | None:
    trial.mkdir()
    if attempt in _MOUNTING:
        _mount(trial, AMPLE)
    try:
        moment, loss = attempt(reference, trial, rng)
    except _Again:
        return None
    finally:
        if attempt in _MOUNTING:
            _call("umount2", os.fsencode(trial), 2)
        shutil.rmtree(trial)
    return Outcome(row, f"{reference.job.name}: {moment}", loss)


def _disk(reference: Reference, trial: Path, rng: random.Random) -> tuple[str, str]:
    _begin(reference, trial)
    needed = 2 * sum(-(-size // PAGE) * PAGE for size in reference.sizes.values())
    room = rng.randrange(0, needed, PAGE)
    status = os.statvfs(trial)
    used = (status.f_blocks - status.f_bfree) * status.f_frsize
    _mount(trial, used + room, _REMOUNT)
    ended = run_command(reference.job.line, trial)
    loss = _refused(reference, trial, ended, "No space left on device")
    _mount(trial, AMPLE, _REMOUNT)
    return f"{room // 1024} KiB free", loss or reference.again(trial)


def _read_only(reference: Reference, trial: Path, rng: random.Random) -> tuple[str, str]:
    _begin(reference, trial)
    before = "in a new folder"
    if rng.random() < 0.7:
        watch = Watch(trial, nth=rng.randint(1, reference.operations))
        if run_command(reference.job.line, trial, watch).code != -signal.SIGKILL:
            raise _Again
        before = f"after a kill before operation {watch.count}"
    if rng.random() < 0.5:
        _mount(trial, AMPLE, _REMOUNT | _READ_ONLY)
        ended = run_command(reference.job.line, trial)
        _mount(trial, AMPLE, _REMOUNT)
        loss = _refused(reference, trial, ended, "Read-only file system", cleans=False)
        return f"mounted read-only {before}", loss or reference.again(trial)
    trial.chmod(0o755)
    ended = run_command(reference.job.line, trial, _become_nobody)
    loss = _refused(reference, trial, ended, "Permission denied", cleans=False)
    return f"another user's folder {before}", loss or reference.again(trial)


def _file_size(reference: Reference, trial: Path, rng: random.Random) -> tuple[str, str]:
    most = rng.randrange(1, max(2, *reference.sizes.values()))
    moment, why = f"{most} bytes for one file", "File too large"
    return moment, _limited(reference, trial, partial(_limit, resource.RLIMIT_FSIZE, most), why)


def _handles(reference: Reference, trial: Path, rng: random.Random) -> tuple[str, str]:
    free = rng.randrange(1, 10)
    return f"{free} free file handles", _limited(reference, trial, partial(_few_handles, free), "Too many open files")


def _limited(reference: Reference, trial: Path, prepare: Prepare, why: str) -> str:
    _begin(reference, trial)
    ended = run_command(reference.job.line, trial, prepare)
    return _refused(reference, trial, ended, why) or reference.again(trial)


ROWS: dict[str, Attempt] = {
    "full disk": _disk,
    "read-only folder": _read_only,
    "file size limit": _file_size,
    "no file handles": _handles,
}
_MOUNTING = (_disk, _read_only)


def _begin(reference: Reference, trial: Path) -> None:
    if reference.job.begin is not None:
        reference.job.begin(trial)


def _refused(reference: Reference, trial: Path, ended: Ended, why: str, *, cleans: bool = True) -> str:
    """Describe what is wrong after a refusal: the line has to name a file of the command and the cause, files have to
    be whole, and a process that was not killed has to remove its temporary files."""
    if ended.code == 0 or (reference.job.refuses and "exists" in ended.err):
        raise _Again
    if loss := one_line(ended, why):
        return loss
    names = {part for name in reference.contents for part in Path(name).parts}
    named = ended.err.partition("taming: ")[2].partition(": ")[0]
    limit = "ulimit -n" in ended.err  # of a pipe, which has no name
    if "/" not in named and named.removesuffix(".parts") not in names and not limit:
        return f"the line names no file: {ended.err}"
    if loss := reference.damage(trial):
        return loss
    left = [path for path in trial.rglob("*.tmp") if cleans]
    return f"{left[0].relative_to(trial)} is left behind by a process that was not killed" if left else ""


def _limit(kind: int, most: int) -> None:
    resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def _few_handles(free: int) -> None:
    """Leave this process so many file handles, after those that it has."""
    taken = {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208
    numbers = [number for number in range(3, 1000) if number not in taken]
    _limit(resource.RLIMIT_NOFILE, numbers[free - 1] + 1)


def _become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _cannot_mount() -> str:
    """Give this process mounts of its own, which end with it; returns why that is not possible."""
    try:
        _call("unshare", _NEW_MOUNTS)
        _call("mount", b"none", b"/", None, _PRIVATE, None)
    except OSError as error:
        return f"no file system can be mounted: {error.strerror}"
    return ""


def _mount(folder: Path, size: int, flags: int = 0) -> None:
    _call("mount", b"none", os.fsencode(folder), b"tmpfs", flags, f"size={size}".encode())


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
