"""Files that are whole or not there, and one line about a disk that does not take them: which file, which disk, how
much was needed and how much is free."""

import contextlib
import errno
import io
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taming_cli.errors import DiskError, TamingError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors that say that there is no room."""
_TORCHS = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs|file write failed")
"""How torch says that a file did not take what was written, whatever the reason."""
_PROBE = 2**16
"""Bytes that are tried where a writer does not say why it failed."""
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF})
"""What file systems say that cannot sync a folder; its files are synced all the same."""


class RefusedError(OSError):
    """What the disk refused, of a file that would have taken `size` bytes."""

    def __init__(self, number: int, text: str, size: int) -> None:
        super().__init__(number, text)
        self.size = size


class Disk(io.FileIO):
    """A file that seems to take all, and keeps the disk's first refusal for `check` to raise.

    HDF5 cannot close a file whose last writes fail: on a full disk it prints pages of errors, then crashes. torch's
    writer loses the reason on the way. `needed` are the bytes that the whole file takes.
    """

    refusal: OSError | None = None
    needed: int = 0

    def write(self, data: Any) -> int:
        """Take all of it; returns its length."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        self.needed = max(self.needed, self.tell() + size)
        try:
            while len(rest) and self.refusal is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.refusal = error
        if len(rest):
            self.seek(len(rest), os.SEEK_CUR)
        return size

    def truncate(self, size: int | None = None) -> int:
        """Cut or lengthen the file; returns the size asked for."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.refusal = self.refusal or error
            return size or 0

    def sync(self) -> None:
        """Have it on the disk, where there was no refusal yet."""
        try:
            if self.refusal is None:
                os.fsync(self.fileno())
        except OSError as error:
            self.refusal = error

    def check(self) -> None:
        """Raise the refusal, if there was one."""
        if self.refusal is not None:
            raise self.refusal


def write_atomically(path: Path, write: Callable[[Path], object], *, size: int | None = None) -> None:
    """`write(temporary)` beside `path`, then fsync and rename: `path` is the old file or the whole new one.

    Raises DiskError where the disk does not take it; `size` is what the file takes, in bytes, where that is known.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with refusals(path, temporary, size=size):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(opened)


def write_stream(temporary: Path, write: Callable[[Disk], object]) -> None:
    """`write(stream)` for writers that lose the disk's reason on the way; OSError where there was one."""
    with Disk(temporary, "w") as disk:
        try:
            write(disk)
        finally:
            if disk.refusal is not None and disk.refusal.errno is not None:
                raise RefusedError(disk.refusal.errno, disk.refusal.strerror or "", disk.needed)


@contextmanager
def refusals(path: Path, temporary: Path | None = None, *, size: int | None = None) -> Iterator[None]:
    """While `path` is written, under the name `temporary`: where that fails, the latter is removed, and what the disk
    refused becomes a DiskError about the former. `size` is what the whole file takes, in bytes."""
    try:
        yield
    except BaseException as error:
        reason = _reason(error, path, temporary)
        written = _size(temporary) if temporary is not None else None
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        if reason is None:
            raise
        raise DiskError(said(path, reason, size=size, written=written)) from error


@contextmanager
def appending(path: Path) -> Iterator[None]:
    """While something is added to the end of a file: DiskError where that fails, and then the file is as before."""
    before = _size(path)
    try:
        with refusals(path):
            yield
    except DiskError:
        with contextlib.suppress(OSError):
            os.truncate(path, before or 0)
        raise


def said(path: Path, reason: OSError, *, size: int | None = None, written: int | None = None) -> str:
    """What a disk's refusal of a file is to a person, in one line."""
    why = os.strerror(reason.errno) if reason.errno else " ".join(str(reason).split())
    if reason.errno not in FULL:
        return f"{path}: cannot be written ({why}); write to another place, or remove what is in the way"
    size = reason.size if isinstance(reason, RefusedError) else size
    need = f"it needs {amount(size)}, and " if size else ""
    if written and not size:
        need = f"it needs more than {amount(written)}, and "
    return f"{path}: cannot be written ({why}): {need}{_room(path, reason)}; make room there, or write to another place"


def _room(path: Path, reason: OSError) -> str:
    """What is free on the disk of a file."""
    if reason.errno == errno.EFBIG:
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return "its disk has a limit for one file" if most < 0 else f"a file may have {amount(most)} here (ulimit -f)"
    here = next(folder for folder in path.resolve().parents if folder.exists())
    mount = next(folder for folder in (here, *here.parents) if folder.is_mount() or folder == folder.parent)
    disk = f"the disk at {mount}"
    try:
        usage, inodes = shutil.disk_usage(here), os.statvfs(here)
    except OSError:
        return disk
    if inodes.f_files and not inodes.f_favail:
        return f"{disk} has no room for a further file (inodes)"
    quota = " in all, beyond a quota" if reason.errno == errno.EDQUOT else ""
    return f"{disk} has {amount(usage.free)} free{quota}"


def amount(count: int | None) -> str:
    """Bytes as people read them: `512 bytes`, `3.0 KiB`, `1.2 GiB`."""
    size = float(count or 0)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1000 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def _reason(error: BaseException, path: Path, temporary: Path | None) -> OSError | None:
    """The disk's refusal behind an error: itself, or what the writer's library made something else of. None for what
    is no refusal of this file."""
    if not isinstance(error, Exception) or isinstance(error, TamingError | BrokenPipeError):
        return None
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError) and behind.errno is not None:
            return behind if _is_of(behind, path, temporary) else None
        behind = behind.__cause__ or behind.__context__
    if temporary is not None and temporary.exists():
        try:
            with temporary.open("ab", buffering=0) as stream:
                stream.write(bytes(_PROBE))
                os.fsync(stream.fileno())
        except OSError as refusal:
            return refusal
    return OSError(str(error)) if isinstance(error, OSError) or _TORCHS.search(str(error)) else None


def _is_of(error: OSError, path: Path, temporary: Path | None) -> bool:
    """Whether an error is of this file, and not of one that is read meanwhile."""
    if error.filename is None or isinstance(error.filename, int):
        return True
    named = Path(os.fsdecode(error.filename))
    return named in (path, temporary, *path.parents)


def _size(path: Path | None) -> int | None:
    try:
        return path.stat().st_size if path is not None else None
    except OSError:
        return None
