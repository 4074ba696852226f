"""Write the columns of a token file: whole checksummed chunks, in an order that only the content decides."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from taming_cli.data.tokens import (
    TokenFile,
    TokenHeader,
    chunk_shape,
    code_dtype,
    encode_name,
    write_header,
    write_text,
)

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


def write_tokens(path: Path, content: TokenContent) -> None:
    """Write a token file at `path` and check what is said in its header; the caller publishes it.

    Raises `OSError` when the disk refuses.
    """
    header, count = content.header, content.count
    with _Disk(path, "w+") as disk, h5py.File(disk, "w", libver=("v110", "v110")) as file:

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
        file.close()
        disk.check()
    written = TokenFile(path)
    assert (len(written), len(written.skipped)) == (count, len(content.skipped)), path
    assert written.header == header, path


class _Disk(io.FileIO):
    """A file that HDF5 writes to, which seems to take all and keeps the disk's first refusal for `check` to raise.

    HDF5 itself cannot close a file whose last writes fail: on a full disk it prints pages of errors, then crashes.
    """

    refusal: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and self.refusal is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.refusal = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.refusal = self.refusal or error
            return size or 0

    def check(self) -> None:
        """Raise the refusal, if there was one."""
        if self.refusal is not None:
            raise self.refusal


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
        track_times=False,  # equal content is to give equal bytes
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
