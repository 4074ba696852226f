"""How the columns of a token file are stored, checked before anything is read: no value is in another file, and no
size is beyond what the file can hold."""

import math
from collections.abc import Iterator
from typing import Any

import h5py

from taming_cli.errors import BadFileError

_COLUMNS = ("codes", "names", "labels", "label_names")
_GROUPS = ("conditions", "levels", "skipped")
_DEFLATE = 1100
"""Deflate packs at most 1,032 bytes into one."""
_ROWS = 16
"""Largest number of rows per byte of the file: each has a name of its own, and codes."""
_CHUNK, _TEXT = 2**26, 2**16
"""Largest chunk, and longest text of a column, in bytes; HDF5 reads both as a whole."""
_CODES = 2**24
"""Largest number of codes in a row."""


def check_storage(file: h5py.File) -> None:
    """Raise BadFileError, without the file's name, for a column that refers to another place, holds no values, or
    declares or unpacks to more than any token file."""
    most = _ROWS * file.id.get_filesize()
    for name, column in _columns(file):
        if column.is_virtual or column.external:
            raise BadFileError(f"refused: the values of /{name} are in another file; copy them into this one")
        if column.nbytes > _DEFLATE * column.id.get_storage_size():
            raise BadFileError(f"damaged: /{name} declares {column.nbytes} bytes, but does not hold them")
        row, chunk = math.prod(column.shape[1:]), math.prod(column.chunks or (0,)) * column.dtype.itemsize
        if len(column.shape) and column.shape[0] > most:
            raise BadFileError(f"damaged: /{name} has {column.shape[0]} rows, more than the file can hold")
        if row > _CODES or chunk > _CHUNK or column.dtype.itemsize > _TEXT:
            raise BadFileError(f"damaged: /{name} has rows, texts or chunks larger than those of any token file")


def _columns(file: h5py.File) -> Iterator[tuple[str, Any]]:
    """Yield the names and datasets that a token file may have; nothing else of the file is read."""
    for name in (*_COLUMNS, *_GROUPS):
        found = _own(file, name)
        if isinstance(found, h5py.Dataset):
            yield name, found
        elif isinstance(found, h5py.Group):
            for below in found:
                if isinstance(column := _own(found, below), h5py.Dataset):
                    yield f"{name}/{below}", column


def _own(group: Any, name: str) -> Any:
    """An object of a group, None where it is missing. A link could lead to another file."""
    link = group.get(name, getlink=True)
    if link is not None and not isinstance(link, h5py.HardLink):
        place = f"{group.name.rstrip('/')}/{name}"
        raise BadFileError(f"refused: {place} is a link to another place; copy its values into this file")
    return group.get(name)
