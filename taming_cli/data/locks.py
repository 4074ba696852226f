"""A lock on a file, which keeps a second process out of what the first one writes."""

import errno
import fcntl
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

from taming_cli.errors import TamingError

_log = logging.getLogger(__name__)
HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
"""What the system says where another process has the lock."""
NONE = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
"""What it says where the file system has no locks, as some network file systems."""
Flock = Callable[[int, int], object]


def lock(file: int, path: Path, how: Flock | None = None) -> bool:
    """Lock an open file for this process alone, whose name is `path`; whether that was possible.

    `how` is `fcntl.flock`, which forked processes inherit, or `fcntl.lockf`, which they do not. Where the file system
    has no locks, that is said once for each folder, and nothing is locked. Raises BlockingIOError where another process
    has the lock, TamingError where locking failed for any other reason.
    """
    try:
        (how or fcntl.flock)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            raise BlockingIOError(error.errno, error.strerror) from error
        if error.errno in NONE:
            _say(path.parent, error.strerror or str(error))
            return False
        raise TamingError(f"{path} cannot be locked ({error.strerror or error}); write to another place") from error
    return True


@cache
def _say(folder: Path, why: str) -> None:
    _log.warning(
        "files in %s cannot be locked (%s): going on without, and nothing keeps a second process out; start only one "
        "there",
        folder,
        why,
    )
