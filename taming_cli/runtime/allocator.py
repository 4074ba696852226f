"""Settings of glibc's allocator, for the executable only: nothing is changed until `keep_freed_memory` is called, which
`taming` does at its start. The library does not change the allocator of its host program."""

import contextlib
import ctypes
from collections.abc import Iterator

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of mallopt(3)
_of_this_process: list[ctypes.CDLL] = []
"""The C library, once `keep_freed_memory` was called in this process."""


def keep_freed_memory() -> None:
    """Make glibc keep up to 2 GiB of freed memory instead of returning it to the system.

    torch allocates each activation separately, and the system clears every page that it provides, which takes a third
    of the time of a large codec on two cores. Blocks above 256 MiB are still returned. Without glibc this does nothing.
    """
    if not _of_this_process:
        try:
            library = ctypes.CDLL(None)
            assert library.mallopt
            assert library.malloc_trim
        except (AttributeError, OSError, TypeError):
            return
        _of_this_process.append(library)
    (library,) = _of_this_process
    if not library.mallopt(_MMAP_THRESHOLD, 2**28):  # glibc before 2.35 does not accept so high a value
        library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    library.mallopt(_TOP_PAD, 2**26)


@contextlib.contextmanager
def returning_freed_memory() -> Iterator[None]:
    """A context in which freed memory is returned to the system at once, as by glibc's defaults. The parts of a large
    picture have many sizes, so memory freed by one part rarely fits the next."""
    if not _of_this_process:
        yield
        return
    (library,) = _of_this_process
    for name, value in ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**26), (_TOP_PAD, 2**17)):
        library.mallopt(name, value)
    library.malloc_trim(0)
    try:
        yield
    finally:
        keep_freed_memory()
