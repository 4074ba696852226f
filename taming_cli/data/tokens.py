"""The token file: the codes of many pictures on a grid, in one HDF5 file, checked on the way in and read lazily.

    attributes        format, format_version, codec_sha256, codec_path, codebook_size, downsample_factor,
                      preprocess (JSON), created_by, plan_sha256 where a job wrote the file, and part (JSON) where it
                      holds one part of what several jobs make
    /codes            (N, V, h, w)  uint16 when codebook_size <= 65536, else uint32
    /names            (N,)          relative paths, utf-8, percent-encoded by `encode_name`
    /labels           (N,)          int32, an index into /label_names (sorted), or -1 for none
    /conditions/KIND  (N, V, h, w)  the codes of a condition map, with attributes codec_sha256 (what made them: a codec,
                                    or "rule:NAME"), codebook_size and, of a codec, codec_path
    /skipped/...      names and reasons of the pictures that could not be read, where there were any

Columns of text are of fixed length: HDF5 keeps text of varying length where no checksum covers it. Attributes are of
varying length, as h5py gives back strings, and covered by a checksum of our own (see `token_text`); earlier versions
wrote them of fixed length.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from taming_cli.config.shard import Shard
from taming_cli.config.size import Frame, Size
from taming_cli.data.token_text import check_text, read_text, write_text
from taming_cli.errors import BadFileError, UsageError

FORMAT = "taming-tokens"
FORMAT_VERSION = 1
RULE = "rule:"
"""What stands before a rule's name where a codec's hash would be."""
BLOCK_BYTES = 1024 * 1024  # how much is read or written in one go where a whole file passes through

Rows = slice | Sequence[int] | npt.NDArray[np.integer[Any]]


def encode_name(name: str) -> str:
    """Write a file name, as Python holds it, as plain Unicode: '%', NUL and undecodable bytes become %XX."""
    return re.sub("[%\0\udc80-\udcff]", lambda found: f"%{ord(found[0]) & 0xFF:02X}", name)


def decode_name(text: str) -> str:
    """Undo `encode_name`; bytes from 0x80 on become the surrogates that `os.fsencode` turns back into them."""

    def character(found: re.Match[str]) -> str:
        byte = int(found[1], 16)
        return chr(byte if byte < 0x80 else 0xDC00 + byte)

    return re.sub("%([0-9A-Fa-f]{2})", character, text)


def code_dtype(codebook_size: int) -> np.dtype[Any]:
    """Return the smallest dtype a token file uses for codes 0 .. codebook_size - 1."""
    return np.dtype(np.uint16 if codebook_size <= 65536 else np.uint32)


@dataclass(frozen=True, kw_only=True)
class ConditionHeader:
    """What a token file says about the codes of one kind of condition: the hash of its codec, or the rule that made
    them; and where the codec lay, which is no part of what the codes are."""

    codec_sha256: str
    codebook_size: int
    codec_path: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True)
class TokenPart:
    """Which part of a whole a token file holds: number `index` (from 1) of `count`, of `total` items in all; `of` is
    the whole's plan_sha256."""

    index: int
    count: int
    total: int
    of: str

    @property
    def items(self) -> int:
        """How many are this part's."""
        return len(Shard(self.index, self.count).stretch(self.total))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, kw_only=True)
class TokenHeader:
    """What a token file says about all of its samples.

    `height` and `width` are those of the latent grid, in codes; `downsample_factor` is pixels per code along one
    side; `preprocess` is anything that JSON can hold, and is kept as JSON would give it back. Raises `BadFileError`.
    """

    codec_sha256: str
    codec_path: str
    codebook_size: int
    downsample_factor: int
    preprocess: Mapping[str, Any]
    created_by: str
    views: int
    height: int
    width: int
    conditions: Mapping[str, ConditionHeader] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("downsample_factor", "views", "height", "width"):
            if getattr(self, name) < 1:
                raise BadFileError(f"{name} is {getattr(self, name)}; a token file needs at least 1")
        sizes = {"codebook_size": self.codebook_size}
        sizes |= {f"codebook_size of {kind}": condition.codebook_size for kind, condition in self.conditions.items()}
        for name, size in sizes.items():
            if not 1 <= size <= 2**32:
                raise BadFileError(f"{name} is {size}; a token file holds 1 to 4294967296 codes")
        for kind in self.conditions:
            if not re.fullmatch("[A-Za-z0-9_-]+", kind):
                raise BadFileError(f"condition kind {kind!r} is not a word of letters, digits, '-' and '_'")
        object.__setattr__(self, "conditions", dict(sorted(self.conditions.items())))
        # Otherwise a tuple would be a list once read back, and a header would differ from itself.
        object.__setattr__(self, "preprocess", json.loads(json.dumps(dict(self.preprocess), allow_nan=False)))

    @property
    def row(self) -> tuple[int, int, int]:
        """The shape (V, h, w) of one sample."""
        return self.views, self.height, self.width

    @property
    def frame(self) -> Frame:
        """Where the pictures lie on the grid: `preprocess` says so of samples whose sides f does not divide, else they
        fill it."""
        return Frame.from_values(self.preprocess, self.downsample_factor, Size(self.width, self.height))


def write_header(file: h5py.File, header: TokenHeader) -> None:
    """Write what is not said by the datasets themselves; the partner of `read_header`."""
    write_text(file.attrs, "format", FORMAT)
    file.attrs["format_version"] = FORMAT_VERSION
    write_text(file.attrs, "codec_sha256", header.codec_sha256)
    write_text(file.attrs, "codec_path", encode_name(header.codec_path))
    file.attrs["codebook_size"] = header.codebook_size
    file.attrs["downsample_factor"] = header.downsample_factor
    write_text(file.attrs, "preprocess", json.dumps(header.preprocess, sort_keys=True))
    write_text(file.attrs, "created_by", header.created_by)
    for kind, condition in header.conditions.items():
        attributes = file[f"conditions/{kind}"].attrs
        write_text(attributes, "codec_sha256", condition.codec_sha256)
        attributes["codebook_size"] = condition.codebook_size
        write_text(attributes, "codec_path", encode_name(condition.codec_path))


def read_header(file: h5py.File) -> TokenHeader:
    """Read the header and check every dataset against it; raises `BadFileError` without the file's name."""
    check_text(file)
    if "format" not in file.attrs or read_text(file.attrs, "format") != FORMAT:
        raise BadFileError(f"not a token file (it has no attribute format = {FORMAT!r})")
    if file.attrs["format_version"] != FORMAT_VERSION:
        version = file.attrs["format_version"]
        raise BadFileError(f"token file of version {version}, this taming reads {FORMAT_VERSION}; update taming")
    codes = _dataset(file, "codes")
    if codes.ndim != 4:
        raise BadFileError(f"damaged: /codes has shape {codes.shape}, not (N, V, h, w)")
    count, views, height, width = codes.shape
    _dataset(file, "label_names")
    kinds = sorted(file["conditions"]) if _holds(file, "conditions") else []
    conditions = {}
    for kind in kinds:
        attributes = _dataset(file, f"conditions/{kind}").attrs
        conditions[kind] = ConditionHeader(
            codec_sha256=read_text(attributes, "codec_sha256"),
            codebook_size=int(attributes["codebook_size"]),
            codec_path=decode_name(read_text(attributes, "codec_path")) if "codec_path" in attributes else "",
        )
    header = TokenHeader(
        codec_sha256=read_text(file.attrs, "codec_sha256"),
        codec_path=decode_name(read_text(file.attrs, "codec_path")),
        codebook_size=int(file.attrs["codebook_size"]),
        downsample_factor=int(file.attrs["downsample_factor"]),
        preprocess=json.loads(read_text(file.attrs, "preprocess")),
        created_by=read_text(file.attrs, "created_by"),
        views=views,
        height=height,
        width=width,
        conditions=conditions,
    )
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        "codes": ((count, *header.row), code_dtype(header.codebook_size).str),
        "names": ((count,), "|S"),
        "labels": ((count,), np.dtype(np.int32).str),
    }
    for kind, condition in conditions.items():
        expected[f"conditions/{kind}"] = ((count, *header.row), code_dtype(condition.codebook_size).str)
    for name, (shape, kind) in expected.items():
        dataset = _dataset(file, name)
        if dataset.shape != shape or not dataset.dtype.newbyteorder("=").str.startswith(kind):
            raise BadFileError(f"damaged: /{name} is {dataset.dtype} of shape {dataset.shape}, not {kind} of {shape}")
    return header


def _holds(file: h5py.File, group: str) -> bool:
    return group in set(file)  # `group in file` would be False for a damaged one too


def _dataset(file: h5py.File, name: str) -> Any:
    if not isinstance(file.get(name), h5py.Dataset):
        raise BadFileError(f"damaged: it has no dataset /{name}")
    return file[name]


class TokenFile:
    """A token file, checked when made and then read piece by piece; N samples of V views of (h, w) codes.

    Only the path travels to another process: each one opens the file for itself at its first read, so an instance
    can be pickled and used on both sides of a fork. Raises `BadFileError` for a file that is missing, damaged,
    truncated or of another kind, when it is made or when the damaged part is read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: Any = None
        self._pid = -1
        with self._blame("cannot be read as a token file"), _open(self.path) as file:
            try:
                self.header = read_header(file)
            except BadFileError as error:
                raise BadFileError(f"{self.path}: {error}") from None
            self._count: int = len(file["codes"])
            self.name_bytes: int = file["names"].dtype.itemsize
            self.label_names: tuple[str, ...] = _text(file["label_names"])
            planned = "plan_sha256" in file.attrs
            self.plan_sha256: str | None = read_text(file.attrs, "plan_sha256") if planned else None
            self.part = TokenPart(**json.loads(read_text(file.attrs, "part"))) if "part" in file.attrs else None
            skipped = file["skipped"] if _holds(file, "skipped") else {"names": [], "reasons": []}
            self.skipped: tuple[tuple[str, str], ...] = tuple(
                zip(_text(skipped["names"]), _text(skipped["reasons"]), strict=True)
            )
            labels = file["labels"][:]
        if len(labels) and not -1 <= labels.min() <= labels.max() < len(self.label_names):
            raise BadFileError(f"{self.path}: damaged: /labels goes beyond the {len(self.label_names)} label names")
        labels.flags.writeable = False
        self.labels: npt.NDArray[np.int32] = labels
        """(N,) int32: an index into `label_names`, -1 for none."""

    def __len__(self) -> int:
        return self._count

    def codes(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Return (n, V, h, w) int64 codes of the samples at `rows`, in that order; repeats are allowed."""
        return self._codes("codes", rows, self.header.codebook_size)

    def condition(self, kind: str, rows: Rows) -> npt.NDArray[np.int64]:
        """Return (n, V, h, w) int64 condition codes; raises `UsageError` for a kind that the file does not have."""
        if kind not in self.header.conditions:
            known = ", ".join(self.header.conditions) or "none"
            raise UsageError(f"{self.path}: holds no condition {kind!r}; it has: {known}")
        return self._codes(f"conditions/{kind}", rows, self.header.conditions[kind].codebook_size)

    def names(self, rows: Rows = slice(None)) -> list[str]:
        """Return the names of the samples at `rows`, decoded: as `os` functions take them."""
        with self._blame("damaged: names cannot be read"):
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
    def _blame(self, problem: str) -> Iterator[None]:
        """Turn what h5py and numpy raise on a damaged file into one line."""
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
                with self._blame(f"damaged: samples {start} to {stop - 1} of /{name} cannot be read"):
                    values: npt.NDArray[Any] = self._opened()[name][start : max(start, stop)]
                    return values
            rows = np.arange(start, stop, step)
        wanted = np.asarray(rows, dtype=np.int64 if len(rows) == 0 else None)
        assert wanted.ndim == 1, wanted.shape
        assert np.issubdtype(wanted.dtype, np.integer), wanted.dtype
        if wanted.size and not -len(self) <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"row {wanted.min()} or {wanted.max()} of {self.path}, which has {len(self)}")
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        # HDF5 is slow at picking single rows, and inflates a whole chunk for each: visit every chunk once instead.
        with self._blame(f"damaged: /{name} cannot be read"):
            dataset = self._opened()[name]
            rows_per_chunk = (dataset.chunks or (1,))[0]
            values = np.empty((len(wanted), *dataset.shape[1:]), dataset.dtype)
            order = np.argsort(wanted, kind="stable")
            chunks, begins = np.unique(wanted[order] // rows_per_chunk, return_index=True)
            for chunk, places in zip(chunks, np.split(order, begins[1:]), strict=False):
                first = chunk * rows_per_chunk
                values[places] = dataset[first : first + rows_per_chunk][wanted[places] - first]
        return values

    def _opened(self) -> Any:
        if self._pid != os.getpid():
            self.close()  # a handle that came through a fork shares its state with the parent's
        if self._file is None:
            self._file, self._pid = _open(self.path), os.getpid()
        return self._file


def _open(path: Path) -> Any:
    # Finished files never change, so a reader needs no lock, which some network file systems cannot give.
    return h5py.File(path, "r", locking=False)


def _text(stored: Any) -> tuple[str, ...]:
    return tuple(decode_name(text.decode("utf-8")) for text in stored[:])


def blocks(file: TokenFile) -> Iterator[slice]:
    """Cut the samples of `file` into slices of about 1 MiB of codes each."""
    sample_bytes = code_dtype(file.header.codebook_size).itemsize * int(np.prod(file.header.row))
    step = max(1, BLOCK_BYTES // sample_bytes)
    return (slice(start, min(start + step, len(file))) for start in range(0, len(file), step))


@dataclass(frozen=True, kw_only=True)
class TokenSummary:
    """What `verify` counted; `codes_used` is the number of different codes that occur."""

    path: Path
    header: TokenHeader
    count: int
    labelled: int
    label_names: tuple[str, ...]
    codes_used: int
    skipped: int
    plan_sha256: str | None


def verify(path: str | os.PathLike[str]) -> TokenSummary:
    """Read every chunk of the token file at `path`, checking checksums and ranges; raises `BadFileError`."""
    with TokenFile(path) as file:
        used = np.zeros(file.header.codebook_size, dtype=bool)
        for block in blocks(file):
            used[file.codes(block)] = True
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
            skipped=len(file.skipped),
            plan_sha256=file.plan_sha256,
        )
