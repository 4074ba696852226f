"""File locks that prevent a second process from writing to the same place."""

import errno
import fcntl
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

from taming_cli.errors import TamingError

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


@cache
def _warn(folder: Path, reason: str) -> None:
    _log.warning(
        "files in %s cannot be locked (%s): continuing without locks; do not start a second process there",
        folder,
        reason,
    )
