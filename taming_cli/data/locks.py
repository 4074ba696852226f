"""File locks that prevent a second process from writing to the same place."""

import errno
import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from taming_cli.data.disk import refusals
from taming_cli.errors import TamingError, UsageError

_log = logging.getLogger(__name__)
HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
"""Errors where another process holds the lock."""
NONE = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
"""Errors where the file system has no locks, as some network file systems do not."""
Flock = Callable[[int, int], object]


def lock(file: int, path: Path, function: Flock | None = None) -> bool:
    """Lock an open file, whose name is `path`, for this process; returns whether the file system has locks.

    `function` is `fcntl.flock` (the default), whose locks forked processes inherit, or `fcntl.lockf`, whose locks they
    do not. Where the file system has no locks, a warning is logged once per folder. Raises BlockingIOError where
    another process holds the lock, TamingError where locking fails for any other reason.
    """
    try:
        (function or fcntl.flock)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            raise BlockingIOError(error.errno, error.strerror) from error
        if error.errno in NONE:
            _warn(path.parent, error.strerror or str(error))
            return False
        raise TamingError(f"{path} cannot be locked ({error.strerror or error}); choose another place") from error
    return True


@contextmanager
def shared(folder: Path, settings: str) -> Iterator[None]:
    """A context in which this process and others of the same `settings` write into an existing folder, and none of
    other settings does. Raises UsageError where one does already."""
    path, own = folder / ".lock", hashlib.sha256(settings.encode()).hexdigest().encode()
    opened, locks = _opened(path, own)
    try:
        if locks and os.pread(opened, len(own), 0) != own:
            raise UsageError(
                f"{folder}: another process is writing files of other settings there; wait for it, or give another "
                "folder"
            )
        yield
    finally:
        if locks and _alone(opened, path):
            with suppress(OSError):
                path.unlink()
        os.close(opened)


def _opened(path: Path, own: bytes) -> tuple[int, bool]:
    """The lock file, locked together with other processes, and whether the file system has locks. A process that is
    alone writes `own` to it."""
    while True:
        with refusals(path):
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if _alone(opened, path):
                with refusals(path):
                    os.ftruncate(opened, 0)
                    written = os.pwrite(opened, own, 0)
                    os.pwrite(opened, own[written:], written)  # after a part, this fails with the reason
            fcntl.flock(opened, fcntl.LOCK_SH)  # the last reader removes the file, perhaps just now
            if path.stat().st_ino == os.fstat(opened).st_ino:
                return opened, True
        except FileNotFoundError:
            pass
        except (OSError, TamingError) as error:
            if isinstance(error, OSError) and error.errno in NONE:
                return opened, False
            with suppress(OSError):
                if os.fstat(opened).st_size < len(own) and _alone(opened, path):
                    path.unlink()
            os.close(opened)
            raise
        os.close(opened)


def _alone(opened: int, path: Path) -> bool:
    """Lock the file for this process alone, if no other has it open."""
    try:
        return lock(opened, path)
    except BlockingIOError:
        return False


@cache
def _warn(folder: Path, reason: str) -> None:
    _log.warning(
        "files in %s cannot be locked (%s): continuing without locks; do not start a second process there",
        folder,
        reason,
    )
