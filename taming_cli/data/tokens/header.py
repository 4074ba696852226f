"""The format and the header of token files: the codes of many pictures on a grid, in one HDF5 file.

    attributes        format, format_version, codec_sha256, codec_path, codebook_size, downsample_factor,
                      preprocess (JSON), created_by, plan_sha256 in files written by a job, and part (JSON) in files
                      that hold one part of a job
    /codes            (N, V, h, w)  uint16 when codebook_size <= 65536, else uint32
    /levels/top       (N, V, h/2, w/2)  the codes of the top level, where the codec has two levels and /codes are those
                                    of the bottom one; with an attribute codebook_size
    /names            (N,)          relative paths, utf-8, percent-encoded by `encode_name`
    /labels           (N,)          int32, an index into /label_names (sorted), or -1 for none
    /conditions/KIND  (N, V, h, w)  the codes of a condition map, with attributes codec_sha256 (of their codec, or
                                    "rule:NAME"), codebook_size and, for a codec, codec_path
    /skipped/...      names and reasons of the pictures that could not be read, if any

Columns of text have a fixed length, because HDF5 stores text of variable length without a checksum. Attributes have
variable length, which h5py returns as strings, and a checksum of our own (see `text`); earlier versions wrote
attributes of fixed length.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import h5py
import numpy as np

from taming_cli.config.parsing import parse_json
from taming_cli.config.shard import Shard
from taming_cli.config.size import Frame, Size
from taming_cli.data.tokens.storage import check_storage
from taming_cli.data.tokens.text import check_text, read_text, write_text
from taming_cli.errors import BadFileError

FORMAT = "taming-tokens"
FORMAT_VERSION = 1
TOP = "levels/top"
"""The dataset of the top level's codes."""
RULE = "rule:"
"""Prefix of a rule's name in place of a codec's hash."""


def encode_name(name: str) -> str:
    """Encode a file name as plain Unicode: '%', NUL and undecodable bytes become %XX."""
    return re.sub("[%\0\udc80-\udcff]", lambda match: f"%{ord(match[0]) & 0xFF:02X}", name)


def decode_name(text: str) -> str:
    """Decode `encode_name`; bytes from 0x80 on become surrogates, as for `os.fsencode`."""

    def character(match: re.Match[str]) -> str:
        byte = int(match[1], 16)
        return chr(byte if byte < 0x80 else 0xDC00 + byte)

    return re.sub("%([0-9A-Fa-f]{2})", character, text)


def code_dtype(codebook_size: int) -> np.dtype[Any]:
    """Return the dtype of codes 0 .. codebook_size - 1 in a token file."""
    return np.dtype(np.uint16 if codebook_size <= 65536 else np.uint32)


@dataclass(frozen=True, kw_only=True)
class ConditionHeader:
    """The header of one kind of condition: the hash of its codec, or its rule, and the codec's path, which does not
    count in comparisons. `factor` is that of `lowres` by a codec: pixels of the picture per pixel of the condition,
    along one side."""

    codec_sha256: str
    codebook_size: int
    factor: int = 0
    codec_path: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True)
class TokenPart:
    """The part of a job that a token file holds: number `index` (from 1) of `count`, of `total` items in all; `of` is
    the plan_sha256 of the whole job."""

    index: int
    count: int
    total: int
    of: str

    @property
    def items(self) -> int:
        """Number of items in this part."""
        return len(Shard(self.index, self.count).stretch(self.total))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, kw_only=True)
class TokenHeader:
    """The properties of all samples of a token file.

    `height` and `width` are the sides of the latent grid, in codes; `downsample_factor` is pixels per code along one
    side; `preprocess` is any JSON object. With two levels of codes, these are of the bottom level, and
    `top_codebook_size` is the number of codes of the top level; otherwise that is 0. Raises `BadFileError` for invalid
    values.
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
    top_codebook_size: int = 0
    conditions: Mapping[str, ConditionHeader] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("downsample_factor", "views", "height", "width"):
            if getattr(self, name) < 1:
                raise BadFileError(f"{name} is {getattr(self, name)}; a token file needs at least 1")
        sizes = {"codebook_size": self.codebook_size}
        if self.top_codebook_size:
            sizes["codebook_size of the top level"] = self.top_codebook_size
            if self.height % 2 or self.width % 2:
                grid = f"{self.width} x {self.height}"
                raise BadFileError(f"the grid is {grid}; with two levels of codes, its sides must be even")
        sizes |= {f"codebook_size of {kind}": condition.codebook_size for kind, condition in self.conditions.items()}
        for name, size in sizes.items():
            if not 1 <= size <= 2**32:
                raise BadFileError(f"{name} is {size}; a token file holds 1 to 4294967296 codes")
        for kind in self.conditions:
            if not re.fullmatch("[A-Za-z0-9_-]+", kind):
                raise BadFileError(f"condition kind {kind!r} is not a word of letters, digits, '-' and '_'")
        object.__setattr__(self, "conditions", dict(sorted(self.conditions.items())))
        # A tuple would be read back as a list, and the header would differ from itself.
        object.__setattr__(self, "preprocess", json.loads(json.dumps(dict(self.preprocess), allow_nan=False)))

    def to_values(self) -> dict[str, Any]:
        """The fields as plain containers; those of one level have no value for the top level, as before there were
        two."""
        values = asdict(self)
        if not self.top_codebook_size:
            del values["top_codebook_size"]
        return values

    @property
    def row(self) -> tuple[int, int, int]:
        """The shape (V, h, w) of one sample."""
        return self.views, self.height, self.width

    @property
    def top_row(self) -> tuple[int, int, int]:
        """The shape (V, h/2, w/2) of one sample of the top level, where there is one."""
        return self.views, self.height // 2, self.width // 2

    @property
    def frame(self) -> Frame:
        """The part of the grid that pictures fill: all of it, unless `preprocess` states another."""
        return Frame.from_values(self.preprocess, self.downsample_factor, Size(self.width, self.height))


def write_header(file: h5py.File, header: TokenHeader) -> None:
    """Write the header's attributes; the inverse of `read_header`."""
    write_text(file.attrs, "format", FORMAT)
    file.attrs["format_version"] = FORMAT_VERSION
    write_text(file.attrs, "codec_sha256", header.codec_sha256)
    write_text(file.attrs, "codec_path", encode_name(header.codec_path))
    file.attrs["codebook_size"] = header.codebook_size
    file.attrs["downsample_factor"] = header.downsample_factor
    write_text(file.attrs, "preprocess", json.dumps(header.preprocess, sort_keys=True))
    write_text(file.attrs, "created_by", header.created_by)
    if header.top_codebook_size:
        file[TOP].attrs["codebook_size"] = header.top_codebook_size
    for kind, condition in header.conditions.items():
        attributes = file[f"conditions/{kind}"].attrs
        write_text(attributes, "codec_sha256", condition.codec_sha256)
        attributes["codebook_size"] = condition.codebook_size
        write_text(attributes, "codec_path", encode_name(condition.codec_path))
        if condition.factor:
            attributes["factor"] = condition.factor


def read_header(file: h5py.File) -> TokenHeader:
    """Read the header and check every dataset against it. Raises `BadFileError` without the file's name."""
    check_storage(file)
    check_text(file)
    if "format" not in file.attrs or read_text(file.attrs, "format") != FORMAT:
        raise BadFileError(f"not a token file (it has no attribute format = {FORMAT!r})")
    if file.attrs["format_version"] != FORMAT_VERSION:
        version = file.attrs["format_version"]
        raise BadFileError(
            f"token file of version {version}, but this version of taming reads {FORMAT_VERSION}; update taming"
        )
    codes = _dataset(file, "codes")
    if codes.ndim != 4:
        raise BadFileError(f"damaged: /codes has shape {codes.shape}, not (N, V, h, w)")
    count, views, height, width = codes.shape
    _dataset(file, "label_names")
    kinds = sorted(file["conditions"]) if has_group(file, "conditions") else []
    conditions = {}
    for kind in kinds:
        attributes = _dataset(file, f"conditions/{kind}").attrs
        conditions[kind] = ConditionHeader(
            codec_sha256=read_text(attributes, "codec_sha256"),
            codebook_size=int(attributes["codebook_size"]),
            codec_path=decode_name(read_text(attributes, "codec_path")) if "codec_path" in attributes else "",
            factor=int(attributes.get("factor", 0)),
        )
    header = TokenHeader(
        codec_sha256=read_text(file.attrs, "codec_sha256"),
        codec_path=decode_name(read_text(file.attrs, "codec_path")),
        codebook_size=int(file.attrs["codebook_size"]),
        downsample_factor=int(file.attrs["downsample_factor"]),
        preprocess=parse_json(read_text(file.attrs, "preprocess")),
        created_by=read_text(file.attrs, "created_by"),
        views=views,
        height=height,
        width=width,
        top_codebook_size=int(_dataset(file, TOP).attrs["codebook_size"]) if has_group(file, "levels") else 0,
        conditions=conditions,
    )
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        "codes": ((count, *header.row), code_dtype(header.codebook_size).str),
        "names": ((count,), "|S"),
        "labels": ((count,), np.dtype(np.int32).str),
    }
    if header.top_codebook_size:
        expected[TOP] = ((count, *header.top_row), code_dtype(header.top_codebook_size).str)
    for kind, condition in conditions.items():
        expected[f"conditions/{kind}"] = ((count, *header.row), code_dtype(condition.codebook_size).str)
    for name, (shape, kind) in expected.items():
        dataset = _dataset(file, name)
        if dataset.shape != shape or not dataset.dtype.newbyteorder("=").str.startswith(kind):
            raise BadFileError(f"damaged: /{name} is {dataset.dtype} of shape {dataset.shape}, not {kind} of {shape}")
    return header


def has_group(file: h5py.File, group: str) -> bool:
    """Return whether the file has this group."""
    return group in set(file)  # `group in file` would be False for a damaged one too


def _dataset(file: h5py.File, name: str) -> Any:
    if not isinstance(file.get(name), h5py.Dataset):
        raise BadFileError(f"damaged: it has no dataset /{name}")
    return file[name]
