"""Atomic writes, and one-line errors for a disk that refuses a file. They name the file, the disk, the space that the
file needs, and the free space."""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import resource
import secrets
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from taming_cli.errors import DiskError, TamingError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a full disk, quota or file size limit."""
_HANDLES = frozenset({errno.EMFILE, errno.ENFILE})
TEMPORARY = ".*.tmp"
"""Names of files that `write_atomically` has not finished."""
_OWNED = re.compile(r"\.([0-9a-f]{8})-([0-9]+)-[0-9a-f]{8}\.tmp")
"""Such a name: the machine and the process that writes the file, and a random number."""
_clearing = threading.Lock()
_TORCHS = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs|file write failed")
"""torch's messages for a failed write, regardless of the reason."""
_PROBE = 2**16
"""Bytes written as a test where a library does not report why its write failed."""
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF})
"""Errors of file systems that cannot sync a folder; its files are synced nevertheless."""


class RefusedError(OSError):
    """A refused write; the whole file takes `size` bytes."""

    def __init__(self, number: int, text: str, size: int) -> None:
        super().__init__(number, text)
        self.size = size


class Disk(io.FileIO):
    """A file whose writes never fail; the first error is kept, and `check` raises it.

    HDF5 cannot close a file whose last writes fail: on a full disk it prints pages of errors, then crashes. torch's
    writer loses the reason. `needed` is the size of the whole file in bytes.
    """

    refusal: OSError | None = None
    needed: int = 0

    def write(self, data: Any) -> int:
        """Accept all bytes; returns their number."""
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
        """Truncate or extend the file; returns the requested size."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.refusal = self.refusal or error
            return size or 0

    def sync(self) -> None:
        """Flush the file to the disk, unless a write was refused."""
        try:
            if self.refusal is None:
                os.fsync(self.fileno())
        except OSError as error:
            self.refusal = error

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self.refusal is not None:
            raise self.refusal


def write_atomically(
    path: Path, write: Callable[[Path], object], *, size: int | None = None, durable: bool = True
) -> None:
    """Call `write(temporary)` and rename the file to `path`, which is always the old file or the complete new one.

    The folder is created if it is missing, and temporary files of killed processes are removed from it. After a power
    failure the file is complete or absent as well; one that is `durable` is there once this returns, any other one once
    its folder is synced. Raises DiskError where the disk refuses the file; `size` is what the file takes, in bytes,
    where that is known.
    """
    owned = f".{machine()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"  # a long name would not fit with an addition
    temporary = path.with_name(owned)
    with refusals(path, temporary, size=size):
        make_folder(path.parent)
        with _clearing:
            _clear(path.parent.absolute(), os.getpid())
        write(temporary)
        if durable:
            publish(temporary, path)
        else:
            _sync(temporary)
            temporary.replace(path)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents where they are missing, so that they are there after a power failure."""
    if folder.is_dir():
        return
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


@cache
def _clear(folder: Path, own: int) -> None:
    """Remove the temporary files that killed processes of this machine have left in a folder, when process `own` first
    writes there. Those of other machines stay: whether their processes run is not known here."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _OWNED.fullmatch(entry.name)
            if match and match[1] == machine() and (int(match[2]) == own or not _runs(int(match[2]))):
                Path(entry.path).unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


@cache
def machine() -> str:
    """A name for the machine since its start, and for the container: those within which process numbers are unique."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=4).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically. It is ASCII, since a file name may hold bytes that are not UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(value, indent=2) + "\n"))


def publish(temporary: Path, path: Path) -> None:
    """Rename a written file to `path` so that it is complete under that name even after a power failure."""
    _sync(temporary)
    temporary.replace(path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Flush a file to the disk, such as one that is appended to, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        _sync(path)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the file system supports it."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_stream(temporary: Path, write: Callable[[Disk], object]) -> None:
    """Call `write(stream)`, for libraries that lose the disk's error; raises RefusedError where there was one."""
    with Disk(temporary, "w") as disk:
        try:
            write(disk)
        finally:
            if disk.refusal is not None and disk.refusal.errno is not None:
                raise RefusedError(disk.refusal.errno, disk.refusal.strerror or "", disk.needed)


@contextmanager
def refusals(path: Path, temporary: Path | None = None, *, size: int | None = None) -> Iterator[None]:
    """A context in which `path` is written under the name `temporary`: it turns errors of the disk into a DiskError
    about `path`.

    The temporary file is removed after any error. `size` is the size of the whole file in bytes.
    """
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
        raise DiskError(refusal_message(path, reason, size=size, written=written)) from error


def no_handle(error: BaseException) -> bool:
    """Whether a process may open no further file. Such an error says nothing about the file, so it is passed on."""
    return isinstance(error, OSError) and error.errno in _HANDLES


@contextmanager
def appending(path: Path) -> Iterator[None]:
    """A context in which data is appended to a file: it turns errors of the disk into a DiskError, and restores the
    file."""
    before = _size(path)
    try:
        with refusals(path):
            yield
    except DiskError:
        with contextlib.suppress(OSError):
            os.truncate(path, before or 0)
        raise


def refusal_message(path: Path, reason: OSError, *, size: int | None = None, written: int | None = None) -> str:
    """Describe in one line why the disk refused a file."""
    text = os.strerror(reason.errno) if reason.errno else " ".join(str(reason).split())
    if reason.errno not in FULL:
        return f"{path}: cannot be written ({text}); choose another place, or remove what is in the way"
    size = reason.size if isinstance(reason, RefusedError) else size
    need = f"it needs {amount(size)}, and " if size else ""
    if written and not size:
        need = f"it needs more than {amount(written)}, and "
    return f"{path}: cannot be written ({text}): {need}{_room(path, reason)}; free some space, or choose another place"


def _room(path: Path, reason: OSError) -> str:
    """Describe the free space on the disk of a file."""
    if reason.errno == errno.EFBIG:
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return "its disk has a limit for one file" if most < 0 else f"a file may have {amount(most)} here (ulimit -f)"
    existing = next(folder for folder in path.resolve().parents if folder.exists())
    mount = next(folder for folder in (existing, *existing.parents) if folder.is_mount() or folder == folder.parent)
    disk = f"the disk at {mount}"
    try:
        usage, inodes = shutil.disk_usage(existing), os.statvfs(existing)
    except OSError:
        return disk
    if inodes.f_files and not inodes.f_favail:
        return f"{disk} has no room for a further file (inodes)"
    quota = " in all, beyond a quota" if reason.errno == errno.EDQUOT else ""
    return f"{disk} has {amount(usage.free)} free{quota}"


def amount(count: int | None) -> str:
    """Format a number of bytes: `512 bytes`, `3.0 KiB`, `1.2 GiB`."""
    size = float(count or 0)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1000 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def _reason(error: BaseException, path: Path, temporary: Path | None) -> OSError | None:
    """Return the disk's error behind `error`, which a library may have replaced; None if this file has none."""
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
    """Return whether an error is about this file, and not about one that is being read."""
    if error.filename is None or isinstance(error.filename, int):
        return True
    named = Path(os.fsdecode(error.filename))
    return named in (path, temporary, *path.parents)


def _size(path: Path | None) -> int | None:
    try:
        return path.stat().st_size if path is not None else None
    except OSError:
        return None
