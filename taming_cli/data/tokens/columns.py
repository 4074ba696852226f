"""Write the columns of a token file: whole checksummed chunks, in an order that only the content decides."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from taming_cli.data.tokens.file import TokenFile
from taming_cli.data.tokens.header import TokenHeader, TokenPart, code_dtype, encode_name, write_header
from taming_cli.data.tokens.text import TextDisk, seal_text, write_text

CHUNK_BYTES = 32 * 1024

Skipped = tuple[str, str]
"""The name of an item that could not be read, and why."""

Pieces = Iterable[npt.NDArray[Any]]
"""A column's rows, in arrays of any length."""


@dataclass(frozen=True, kw_only=True)
class TokenContent:
    """All that stands in a token file; codes are (n, V, h, w), names and labels (n,), n adding up to `count`."""

    header: TokenHeader
    count: int
    codes: Pieces
    conditions: Mapping[str, Pieces]
    names: Pieces  # as `stored_text` makes them
    name_bytes: int  # of the longest
    labels: Pieces  # int32, into label_names
    label_names: Sequence[str]  # in the order of `sort_labels`
    skipped: Sequence[Skipped]
    plan_sha256: str | None
    part: TokenPart | None = None


def write_tokens(path: Path, content: TokenContent) -> None:
    """Write a token file at `path` and check what is said in its header; the caller publishes it.

    Raises `OSError` when the disk refuses.
    """
    header, count = content.header, content.count
    groups = ["conditions"] * bool(content.conditions) + ["skipped"] * bool(content.skipped)
    with TextDisk(path) as disk, _create_file(disk, groups) as file:

        def write(name: str, pieces: Pieces, count: int, row: tuple[int, ...], dtype: np.dtype[Any]) -> None:
            start = 0
            dataset = _create_column(file, name, count, row, dtype)
            for piece in pieces:
                assert piece.shape[1:] == row, f"{name}: a row of shape {piece.shape[1:]} where {row} belongs"
                # One column after the other: a chunk begun by one piece and ended by the next stays in HDF5's cache.
                dataset[start : start + len(piece)] = piece.astype(dtype)
                start += len(piece)
                disk.check()
            assert start == count, f"{name}: {start} rows where {count} belong"

        write("codes", content.codes, count, header.row, code_dtype(header.codebook_size))
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
    """Return the chunk for a dataset of shape (N, *row): whole rows up to 32 KiB; a bigger row is cut from its front.

    (V, h, w) too big for a chunk is cut into views, then into lines of the grid, then within a line.
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
    """Return a new HDF5 file with these groups, in the format of HDF5 1.10: the first with checksums on all metadata.

    h5py's own constructors give no way, in its older versions, to leave out times of creation, without which equal
    content gives equal bytes.
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
        maxshape=(None, *row),  # so that chunks are of one size even where the rows are few
        dtype=dtype,
        chunks=chunk_shape(row, dtype.itemsize),
        compression="gzip",
        shuffle=True,
        fletcher32=True,
        track_times=False,
    )


def stored_text(texts: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """Return texts as they stand in the file: (n,), encoded, at least one byte wide."""
    encoded = [encode_name(text).encode("utf-8") for text in texts]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Return each label once, sorted by what stands in the file."""
    return sorted(set(labels), key=encode_name)


def _text_dtype(length: int) -> np.dtype[Any]:
    dtype: np.dtype[Any] = h5py.string_dtype("utf-8", length)
    return dtype
