"""glibc's allocator, as the executable wants it. A library leaves its host's alone: here nothing happens until
`keep_freed_memory` was called, which `taming` does as it starts."""

import contextlib
import ctypes
from collections.abc import Iterator

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of mallopt(3)
_of_this_process: list[ctypes.CDLL] = []
"""The C library, once this process's allocator is ours to set."""


def keep_freed_memory() -> None:
    """Have glibc keep what was freed, up to 2 GiB, rather than give it back and ask for it anew.

    torch asks for each activation by itself, and the system clears every page of what it gives: a third of the time of
    a large codec on two cores. Blocks above 256 MiB still come and go. Elsewhere than with glibc, nothing happens.
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
    if not library.mallopt(_MMAP_THRESHOLD, 2**28):  # before glibc 2.35 it may not be so high
        library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    library.mallopt(_TOP_PAD, 2**26)


@contextlib.contextmanager
def freed_memory_given_back() -> Iterator[None]:
    """Meanwhile what is freed goes back to the system at once, as glibc has it by itself: the parts of a large picture
    come in many sizes, and what one leaves would not do for the next."""
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
