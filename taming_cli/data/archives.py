"""Zip and tar files as folders of pictures: their members, and any member's bytes.

Archives are opened once per process, at the first read, and the most recent ones stay open:

- zip, and tar without compression: members are read in any order at the same cost;
- compressed tar (gz, bz2, xz): the first read unpacks the whole archive into a nameless temporary file (in `$TMPDIR`),
  once per process. Unpack large sets beforehand, or pack them as plain tar.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from taming_cli.errors import BadFileError

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


_PLAIN = 2**26
"""Bytes that compressed data of any size may unpack to."""
_MEMBER, _ARCHIVE = 25, 250
"""A larger member of a zip file, which is held in memory, may unpack to so many times its size, and a compressed tar
file, which is not, to so many times its own."""
_HEADER = 2**24
"""The largest read of a tar file at once, in bytes, which a header determines."""


class Member(NamedTuple):
    """A file in an archive."""

    stored_name: str
    offset: int
    """In a tar file: offset of its bytes in the unpacked archive. In a zip file: 0."""
    length: int
    """Size in bytes."""
    start: bytes = b""
    """As many of its first bytes as were requested from `contents`."""
    checksum: int | None = None
    """In a zip file: the CRC-32 of its content."""


class Contents(NamedTuple):
    """The visible files of an archive."""

    members: dict[str, Member]
    """By name. Of members with the same name the last counts, as when unpacking."""
    replaced: list[tuple[str, Member]]
    """Those that a later one of the same name replaces."""


def suffix(path: Path) -> str:
    """Return the archive suffix of a file name, `""` if it has none."""
    return next((each for each in _SUFFIXES if path.name.lower().endswith(each)), "")


def is_archive(path: Path) -> bool:
    """Return whether a path is a file with an archive's suffix."""
    return suffix(path) != "" and path.is_file()


def contents(path: Path, wanted: Callable[[str], int] = lambda name: 0) -> Contents:
    """List the files in an archive. Raises BadFileError if it is damaged.

    Names are made relative, so that none leads out of a folder. `wanted` returns, for a name, how many of its first
    bytes to read.
    """
    members: dict[str, Member] = {}
    replaced: list[tuple[str, Member]] = []

    def visible(stored_name: str) -> str:
        parts = [part for part in stored_name.split("/") if part not in ("", ".", "..")]
        return "" if any(part.startswith(".") or part == "__MACOSX" for part in parts) else "/".join(parts)

    walk = _zip_members if suffix(path) == ".zip" else _tar_members
    try:
        for member in walk(path, lambda stored_name: wanted(visible(stored_name))):
            if name := visible(member.stored_name):
                if name in members:
                    replaced.append((name, members[name]))
                members[name] = member
    except Exception as error:  # OSError, and exceptions of each archive library
        raise BadFileError(f"{path}: the archive is damaged, or its suffix is wrong: {error}") from error
    return Contents(members, replaced)


def read(path: Path, stored_name: str, offset: int, count: int) -> bytes:
    """Return the first `count` bytes of a member. Raises what the archive's library raises for damaged data."""
    with _opening:
        archive = _open(path, os.getpid())
    return archive.read(stored_name, offset, count)


def _zip_members(path: Path, wanted: Callable[[str], int]) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                start = b""
                encrypted = info.flag_bits & 1
                if not encrypted and (count := wanted(info.filename)):
                    # A member that is damaged, or compressed in a way unknown to Python, leaves the others readable.
                    with contextlib.suppress(Exception), archive.open(info) as stream:
                        start = stream.read(count)
                yield Member(info.filename, 0, info.file_size, start, info.CRC)


def _tar_members(path: Path, wanted: Callable[[str], int]) -> Iterator[Member]:
    with _unpacking(path) as stream, tarfile.open(fileobj=_Limited(stream, path), mode="r:") as archive:
        for info in archive:
            if info.isreg() and not info.issparse():
                count = wanted(info.name)
                content = archive.extractfile(info) if count else None
                yield Member(info.name, info.offset_data, info.size, content.read(count) if content else b"")


def _unpacking(path: Path) -> BinaryIO:
    """Open a tar file, decompressed if its first bytes are those of a compressed file."""
    with path.open("rb") as stream:
        magic = stream.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(path))
    if magic.startswith(b"BZh"):
        return cast(BinaryIO, bz2.open(path))
    if magic == b"\xfd7zXZ\0":
        return cast(BinaryIO, lzma.open(path))
    return path.open("rb")


class _Limited(io.RawIOBase):
    """A tar file being read: a compressed one may not unpack to much more than it is, and no header claims much."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._packed = not isinstance(stream, io.BufferedReader)
        self._most = max(_PLAIN, _ARCHIVE * path.stat().st_size)

    def read(self, count: int = -1) -> bytes:
        """Read `count` bytes."""
        if not 0 <= count <= _HEADER:
            raise ValueError(f"a header claims {count} bytes")
        data = self._stream.read(count)
        self._check(self._stream.tell())
        return data

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """Go to `place`, from the start."""
        assert whence == os.SEEK_SET, whence
        self._check(place)
        return self._stream.seek(place)

    def tell(self) -> int:
        """Return the number of bytes before the next one."""
        return self._stream.tell()

    def _check(self, place: int) -> None:
        if self._packed and place > self._most:
            raise ValueError(f"it unpacks to more than {_ARCHIVE} times its size; unpack it yourself")


# Both read unbuffered: closing a buffered file moves its position, which a forked child shares with its parent.


class _Zip:
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._archive = zipfile.ZipFile(cast(BinaryIO, self._file))  # has its own lock for threads

    def read(self, stored_name: str, offset: int, count: int) -> bytes:
        info = self._archive.getinfo(stored_name)
        if min(count, info.file_size) > max(_PLAIN, _MEMBER * info.compress_size):
            raise ValueError(
                f"it unpacks to {info.file_size} bytes, more than {_MEMBER} times its size; unpack the archive yourself"
            )
        with self._archive.open(info) as stream:
            return stream.read(count)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


class _Tar:
    def __init__(self, path: Path) -> None:
        self._turn = threading.Lock()
        stream = _unpacking(path)
        if isinstance(stream, io.BufferedReader):
            self._file = stream.detach()
        else:
            with stream, tempfile.TemporaryFile() as unpacked:
                shutil.copyfileobj(_Limited(stream, path), unpacked, 1 << 20)
                unpacked.flush()
                self._file = os.fdopen(os.dup(unpacked.fileno()), "rb", buffering=0)

    def read(self, stored_name: str, offset: int, count: int) -> bytes:
        with self._turn:
            rest = max(0, self._file.seek(0, os.SEEK_END) - offset)
            self._file.seek(offset)
            data = self._file.read(min(count, rest))  # a header may claim more than memory holds
        if len(data) < count:
            raise EOFError(f"the archive ends within {stored_name}, {count - len(data)} bytes early")
        return data

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


_opening = threading.Lock()  # so that threads do not unpack the same archive at once


@lru_cache(maxsize=16)
def _open(path: Path, process: int) -> _Zip | _Tar:
    """Return the open archive of this process; a forked child has another number, and opens its own."""
    return (_Zip if suffix(path) == ".zip" else _Tar)(path)
