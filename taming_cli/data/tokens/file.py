"""Read token files: samples in any order, lazily and per process, and a check of the whole file."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from taming_cli.config.parsing import parse_json
from taming_cli.data.tokens.header import TOP, TokenHeader, TokenPart, code_dtype, decode_name, has_group, read_header
from taming_cli.data.tokens.text import read_text
from taming_cli.errors import BadFileError, UsageError

BLOCK_BYTES = 1024 * 1024  # read or written at a time where a whole file is processed

Rows = slice | Sequence[int] | npt.NDArray[np.integer[Any]]


class TokenFile:
    """A token file of N samples, each with V views of (h, w) codes. The header is checked at once; samples are read
    lazily.

    Only the path is pickled: each process opens the file at its first read, so an instance can be sent to other
    processes and used on both sides of a fork. Raises `BadFileError` for a file that is missing, damaged, truncated or
    of another kind, at construction or when the damaged part is read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: Any = None
        self._pid = -1
        with self._bad_file_errors("cannot be read as a token file"), _open(self.path) as file:
            try:
                self.header = read_header(file)
            except BadFileError as error:
                raise BadFileError(f"{self.path}: {error}") from None
            self._count: int = len(file["codes"])
            self.name_bytes: int = file["names"].dtype.itemsize
            self.label_names: tuple[str, ...] = _text(file["label_names"])
            planned = "plan_sha256" in file.attrs
            self.plan_sha256: str | None = read_text(file.attrs, "plan_sha256") if planned else None
            self.part = TokenPart(**parse_json(read_text(file.attrs, "part"))) if "part" in file.attrs else None
            skipped = file["skipped"] if has_group(file, "skipped") else {"names": [], "reasons": []}
            self.skipped: tuple[tuple[str, str], ...] = tuple(
                zip(_text(skipped["names"]), _text(skipped["reasons"]), strict=True)
            )
            labels = file["labels"][:]
        if len(labels) and not -1 <= labels.min() <= labels.max() < len(self.label_names):
            raise BadFileError(f"{self.path}: damaged: /labels exceeds the {len(self.label_names)} label names")
        labels.flags.writeable = False
        self.labels: npt.NDArray[np.int32] = labels
        """(N,) int32: an index into `label_names`, -1 for none."""

    def __len__(self) -> int:
        return self._count

    def codes(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Return (n, V, h, w) int64 codes of the samples at `rows`, in that order; repeats are allowed. With two levels
        of codes, these are the bottom level's."""
        return self._codes("codes", rows, self.header.codebook_size)

    def top(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Return (n, V, h/2, w/2) int64 codes of the top level. Raises `UsageError` for a file of one level."""
        if not self.header.top_codebook_size:
            raise UsageError(f"{self.path}: has one level of codes; two are needed here")
        return self._codes(TOP, rows, self.header.top_codebook_size)

    def condition(self, kind: str, rows: Rows) -> npt.NDArray[np.int64]:
        """Return (n, V, h, w) int64 condition codes. Raises `UsageError` for a kind that is not in the file."""
        if kind not in self.header.conditions:
            known = ", ".join(self.header.conditions) or "none"
            raise UsageError(f"{self.path}: has no condition {kind!r}; it has: {known}")
        return self._codes(f"conditions/{kind}", rows, self.header.conditions[kind].codebook_size)

    def names(self, rows: Rows = slice(None)) -> list[str]:
        """Return the names of the samples at `rows`, decoded, as for functions of `os`."""
        with self._bad_file_errors("damaged: names cannot be read"):
            return list(_text(self._read("names", rows)))

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type["TokenFile"], tuple[Path]]:
        return TokenFile, (self.path,)

    @contextmanager
    def _bad_file_errors(self, problem: str) -> Iterator[None]:
        """Turn exceptions of h5py and numpy for a damaged file into a BadFileError of one line."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            number = error.errno if isinstance(error, OSError) else None
            reason = os.strerror(number) if number else " ".join(str(error).split())
            raise BadFileError(f"{self.path}: {problem} ({reason})") from error

    def _codes(self, name: str, rows: Rows, codebook_size: int) -> npt.NDArray[np.int64]:
        codes = self._read(name, rows).astype(np.int64)
        if codes.size and codes.max() >= codebook_size:
            raise BadFileError(f"{self.path}: damaged: /{name} holds {codes.max()}, its codebook has {codebook_size}")
        return codes

    def _read(self, name: str, rows: Rows) -> npt.NDArray[Any]:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                with self._bad_file_errors(f"damaged: samples {start} to {stop - 1} of /{name} cannot be read"):
                    values: npt.NDArray[Any] = self._opened()[name][start : max(start, stop)]
                    return values
            rows = np.arange(start, stop, step)
        indices = np.asarray(rows, dtype=np.int64 if len(rows) == 0 else None)
        assert indices.ndim == 1, indices.shape
        assert np.issubdtype(indices.dtype, np.integer), indices.dtype
        if indices.size and not -len(self) <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"row {indices.min()} or {indices.max()} of {self.path}, which has {len(self)}")
        indices = np.where(indices < 0, indices + len(self), indices)
        # HDF5 reads single rows slowly, and inflates a whole chunk for each: visit every chunk once.
        with self._bad_file_errors(f"damaged: /{name} cannot be read"):
            dataset = self._opened()[name]
            rows_per_chunk = (dataset.chunks or (1,))[0]
            values = np.empty((len(indices), *dataset.shape[1:]), dataset.dtype)
            order = np.argsort(indices, kind="stable")
            chunks, begins = np.unique(indices[order] // rows_per_chunk, return_index=True)
            for chunk, places in zip(chunks, np.split(order, begins[1:]), strict=False):
                first = chunk * rows_per_chunk
                values[places] = dataset[first : first + rows_per_chunk][indices[places] - first]
        return values

    def _opened(self) -> Any:
        if self._pid != os.getpid():
            self.close()  # a forked handle shares its state with the parent's
        if self._file is None:
            self._file, self._pid = _open(self.path), os.getpid()
        return self._file


def _open(path: Path) -> Any:
    # Finished files never change, so readers need no lock, which some network file systems lack.
    return h5py.File(path, "r", locking=False)


def _text(stored: Any) -> tuple[str, ...]:
    return tuple(decode_name(text.decode("utf-8")) for text in stored[:])


def blocks(file: TokenFile) -> Iterator[slice]:
    """Return slices of the samples of `file`, each of about 1 MiB of codes."""
    sample_bytes = code_dtype(file.header.codebook_size).itemsize * int(np.prod(file.header.row))
    step = max(1, BLOCK_BYTES // sample_bytes)
    return (slice(start, min(start + step, len(file))) for start in range(0, len(file), step))


@dataclass(frozen=True, kw_only=True)
class TokenSummary:
    """The result of `verify`; `codes_used` is the number of distinct codes that occur, `top_codes_used` that of the top
    level, where there is one."""

    path: Path
    header: TokenHeader
    count: int
    labelled: int
    label_names: tuple[str, ...]
    codes_used: int
    top_codes_used: int
    skipped: int
    plan_sha256: str | None


def verify(path: str | os.PathLike[str]) -> TokenSummary:
    """Read every chunk of the token file at `path`, and check checksums and ranges. Raises `BadFileError`."""
    with TokenFile(path) as file:
        used = np.zeros(file.header.codebook_size, dtype=bool)
        top_used = np.zeros(file.header.top_codebook_size, dtype=bool)
        for block in blocks(file):
            used[file.codes(block)] = True
            if file.header.top_codebook_size:
                top_used[file.top(block)] = True
            file.names(block)
            for kind in file.header.conditions:
                file.condition(kind, block)
        return TokenSummary(
            path=file.path,
            header=file.header,
            count=len(file),
            labelled=int((file.labels >= 0).sum()),
            label_names=file.label_names,
            codes_used=int(used.sum()),
            top_codes_used=int(top_used.sum()),
            skipped=len(file.skipped),
            plan_sha256=file.plan_sha256,
        )
