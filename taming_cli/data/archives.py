"""Zip and tar files as folders of pictures: what is in them, and any member's bytes.

Archives are opened once per process, at the first read, and the last few stay open:

- zip, and tar without compression: any order of reading costs the same;
- compressed tar (gz, bz2, xz): the first read unpacks the whole archive into a nameless temporary file (in `$TMPDIR`),
  once per process. Large sets are better unpacked, or packed as plain tar, before.
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


class Member(NamedTuple):
    """A file in an archive."""

    stored_name: str
    offset: int
    """In a tar file: where its bytes start in the unpacked archive. In a zip file: 0."""
    length: int
    """Size in bytes."""
    start: bytes = b""
    """As many of its first bytes as `members` was asked for."""
    checksum: int | None = None
    """In a zip file: of its content."""


class Contents(NamedTuple):
    """The files of an archive that are not hidden."""

    members: dict[str, Member]
    """By name. Of members with the same name the last counts, as when unpacking."""
    replaced: list[tuple[str, Member]]
    """Those that another of the same name came after."""


def suffix(path: Path) -> str:
    """The part of the file name that says it is an archive, `""` if none does."""
    return next((each for each in _SUFFIXES if path.name.lower().endswith(each)), "")


def is_archive(path: Path) -> bool:
    """Whether there is a file with an archive's suffix."""
    return suffix(path) != "" and path.is_file()


def contents(path: Path, wanted: Callable[[str], int] = lambda name: 0) -> Contents:
    """The files in an archive; BadFileError if it is damaged.

    Names are made relative: none leads out of the folder it is put in. `wanted` says of each name how many of its first
    bytes to read.
    """
    found: dict[str, Member] = {}
    replaced: list[tuple[str, Member]] = []

    def visible(stored_name: str) -> str:
        parts = [part for part in stored_name.split("/") if part not in ("", ".", "..")]
        return "" if any(part.startswith(".") or part == "__MACOSX" for part in parts) else "/".join(parts)

    walk = _zip_members if suffix(path) == ".zip" else _tar_members
    try:
        for member in walk(path, lambda stored_name: wanted(visible(stored_name))):
            if name := visible(member.stored_name):
                if name in found:
                    replaced.append((name, found[name]))
                found[name] = member
    except Exception as error:  # OSError, and each kind of archive's own classes
        raise BadFileError(f"{path}: a damaged archive, or not of the kind that its name says: {error}") from error
    return Contents(found, replaced)


def read(path: Path, stored_name: str, offset: int, count: int) -> bytes:
    """The first `count` bytes of a member. Raises whatever the archive's own library raises where it is damaged."""
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
                    # One that is damaged, or packed in a way that Python lacks, leaves the others readable.
                    with contextlib.suppress(Exception), archive.open(info) as stream:
                        start = stream.read(count)
                yield Member(info.filename, 0, info.file_size, start, info.CRC)


def _tar_members(path: Path, wanted: Callable[[str], int]) -> Iterator[Member]:
    with _unpacking(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for info in archive:
            if info.isreg() and not info.issparse():
                count = wanted(info.name)
                content = archive.extractfile(info) if count else None
                yield Member(info.name, info.offset_data, info.size, content.read(count) if content else b"")


def _unpacking(path: Path) -> BinaryIO:
    """A tar file's bytes, decompressed on the way where its first bytes say that it is compressed."""
    with path.open("rb") as stream:
        magic = stream.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(path))
    if magic.startswith(b"BZh"):
        return cast(BinaryIO, bz2.open(path))
    if magic == b"\xfd7zXZ\0":
        return cast(BinaryIO, lzma.open(path))
    return path.open("rb")


# Both read unbuffered: dropping a buffered file moves its position, which a forked child has in common with its parent.


class _Zip:
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._archive = zipfile.ZipFile(cast(BinaryIO, self._file))  # has its own lock for threads

    def read(self, stored_name: str, offset: int, count: int) -> bytes:
        with self._archive.open(stored_name) as stream:
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
                shutil.copyfileobj(stream, unpacked, 1 << 20)
                unpacked.flush()
                self._file = os.fdopen(os.dup(unpacked.fileno()), "rb", buffering=0)

    def read(self, stored_name: str, offset: int, count: int) -> bytes:
        with self._turn:
            self._file.seek(offset)
            data = self._file.read(count)
        if len(data) < count:
            raise EOFError(f"the archive ends within {stored_name}, {count - len(data)} bytes early")
        return data

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


_opening = threading.Lock()  # so that threads which want the same archive do not each unpack it


@lru_cache(maxsize=16)
def _open(path: Path, process: int) -> _Zip | _Tar:
    """The open archive of this process: after a fork the child has another number, and opens its own."""
    return (_Zip if suffix(path) == ".zip" else _Tar)(path)
