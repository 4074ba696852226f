"""Writes token files in complete, checksummed chunks, in an order that depends only on the content."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from taming_cli.data.tokens.file import TokenFile
from taming_cli.data.tokens.header import TOP, TokenHeader, TokenPart, code_dtype, encode_name, write_header
from taming_cli.data.tokens.text import TextDisk, seal_text, write_text

CHUNK_BYTES = 32 * 1024

Skipped = tuple[str, str]
"""The name of an unreadable item, and the reason."""

Pieces = Iterable[npt.NDArray[Any]]
"""The rows of a column, in arrays of any length."""


@dataclass(frozen=True, kw_only=True)
class TokenContent:
    """The content of a token file; codes are (n, V, h, w), those of the top level (n, V, h/2, w/2), names and labels
    (n,), in pieces whose n add up to `count`."""

    header: TokenHeader
    count: int
    codes: Pieces
    conditions: Mapping[str, Pieces]
    names: Pieces  # as of `stored_text`
    name_bytes: int  # of the longest
    labels: Pieces  # int32, into label_names
    label_names: Sequence[str]  # in the order of `sort_labels`
    skipped: Sequence[Skipped]
    plan_sha256: str | None
    part: TokenPart | None = None
    top: Pieces = ()  # where the header has two levels


def write_tokens(path: Path, content: TokenContent) -> None:
    """Write a token file at `path`, and check its header; the caller publishes it.

    Raises `OSError` where the disk refuses a write.
    """
    header, count = content.header, content.count
    used = {"conditions": content.conditions, "levels": header.top_codebook_size, "skipped": content.skipped}
    groups = [name for name, needed in used.items() if needed]
    with TextDisk(path) as disk, _create_file(disk, groups) as file:

        def write(name: str, pieces: Pieces, count: int, row: tuple[int, ...], dtype: np.dtype[Any]) -> None:
            start = 0
            dataset = _create_column(file, name, count, row, dtype)
            for piece in pieces:
                assert piece.shape[1:] == row, f"{name}: a row of shape {piece.shape[1:]} where {row} is expected"
                # One column at a time: a chunk of two pieces stays in HDF5's cache.
                dataset[start : start + len(piece)] = piece.astype(dtype)
                start += len(piece)
                disk.check()
            assert start == count, f"{name}: {start} rows where {count} are expected"

        write("codes", content.codes, count, header.row, code_dtype(header.codebook_size))
        if header.top_codebook_size:
            write(TOP, content.top, count, header.top_row, code_dtype(header.top_codebook_size))
        for kind, codes in content.conditions.items():
            write(f"conditions/{kind}", codes, count, header.row, code_dtype(header.conditions[kind].codebook_size))
        write("names", content.names, count, (), _text_dtype(content.name_bytes))
        write("labels", content.labels, count, (), np.dtype(np.int32))
        texts = {"label_names": stored_text(content.label_names)}
        if content.skipped:
            texts["skipped/names"] = stored_text([name for name, _ in content.skipped])
            texts["skipped/reasons"] = stored_text([reason for _, reason in content.skipped])
        for name, text in texts.items():
            write(name, [text], len(text), (), _text_dtype(text.dtype.itemsize))
        write_header(file, header)
        if content.plan_sha256 is not None:
            write_text(file.attrs, "plan_sha256", content.plan_sha256)
        if content.part is not None:
            write_text(file.attrs, "part", json.dumps(asdict(content.part)))
        seal_text(file, disk)
        file.close()
        disk.check()
    written = TokenFile(path)
    assert (len(written), len(written.skipped)) == (count, len(content.skipped)), path
    assert written.header == header, path


def chunk_shape(row: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the chunk shape of a dataset (N, *row): whole rows up to 32 KiB; a larger row is split at its first axis.

    (V, h, w) too large for a chunk is split into views, then into rows of the grid, then within a row.
    """
    shape = [1] * (len(row) + 1)
    room = max(1, CHUNK_BYTES // itemsize)
    for axis in range(len(row), 0, -1):
        shape[axis] = min(row[axis - 1], room)
        room //= shape[axis]
        if shape[axis] < row[axis - 1]:
            return tuple(shape)
    shape[0] = max(1, room)
    return tuple(shape)


def _create_file(disk: TextDisk, groups: Sequence[str]) -> h5py.File:
    """Create an HDF5 file with these groups, in the format of HDF5 1.10, the first with checksums on all metadata.

    Times of creation are left out, so that equal content gives equal bytes; constructors of older h5py cannot do so.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, disk)
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    file = h5py.File(h5py.h5f.create(b"tokens", h5py.h5f.ACC_TRUNC, creation, access))
    for group in groups:
        creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
        creation.set_obj_track_times(False)
        h5py.h5g.create(file.id, group.encode(), gcpl=creation)
    return file


def _create_column(file: h5py.File, name: str, count: int, row: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    return file.create_dataset(
        name,
        shape=(count, *row),
        maxshape=(None, *row),  # keeps the size of chunks for few rows
        dtype=dtype,
        chunks=chunk_shape(row, dtype.itemsize),
        compression="gzip",
        shuffle=True,
        fletcher32=True,
        track_times=False,
    )


def stored_text(texts: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """Return texts as stored in the file: (n,), encoded, at least one byte wide."""
    encoded = [encode_name(text).encode("utf-8") for text in texts]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Return each label once, sorted by its stored form."""
    return sorted(set(labels), key=encode_name)


def _text_dtype(length: int) -> np.dtype[Any]:
    dtype: np.dtype[Any] = h5py.string_dtype("utf-8", length)
    return dtype
