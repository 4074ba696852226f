"""Training windows from token files, as a pure function of the files, the seed and the position in the training.

A position counts the windows of a whole training from 0. `batch_order` says which sample it is; its view, crop and
dropped conditions are drawn for the position alone. So a resumed training sees the same windows.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from taming_cli.config.fields import one_of
from taming_cli.config.levels import SCALE, TOP_CONDITION, Level
from taming_cli.config.prior import ConditionSpec, PriorConfig, PriorTrainConfig
from taming_cli.config.size import Size
from taming_cli.data.tokens.columns import sort_labels
from taming_cli.data.tokens.file import TokenFile
from taming_cli.data.tokens.header import TokenHeader, code_dtype
from taming_cli.data.tokens.levels import open_level
from taming_cli.errors import UsageError
from taming_cli.prior.any_order.plan import FEWEST_STEPS, group_plan
from taming_cli.prior.any_order.training_groups import training_groups
from taming_cli.prior.batch_order import Buckets, Grid, Rows, batch_rows, crop_size
from taming_cli.prior.layout import NOT_GIVEN
from taming_cli.prior.noise import WORD, Stream, below, uniform, words
from taming_cli.prior.predictions import TokenBatch
from taming_cli.prior.raster.order import in_order
from taming_cli.runtime.run.data import Data, Fingerprints, content_hashes, name_hashes

MEMORY = 2**30
"""Token files of at most this many bytes are kept in memory; larger ones are read on demand."""

NONE = "none"
"""The value of `cond` for a prior without conditions."""


class Windows(NamedTuple):
    """`codes` (n, a, b) int64 and, by kind, codes of conditions (n, length) or (n, a, b), NOT_GIVEN where missing."""

    codes: Tensor
    conditions: dict[str, Tensor]


class TokenSet:
    """The samples of one or more token files of one codec, numbered consecutively in the order of the files, or one
    `level` of their codes.

    `kinds` are the conditions to use: by default all that the files have, or none if it is NONE alone. Raises
    UsageError where the files do not belong together, BadFileError where one cannot be read.
    """

    def __init__(self, paths: Sequence[Path], kinds: Sequence[str] = (), level: Level = "single") -> None:
        if not paths:
            raise UsageError("no token file was given; name one or more")
        self.files = [open_level(path, level) for path in paths]
        self.header = self.files[0].header
        for file in self.files[1:]:
            _refuse_other(self.files[0].path, self.header, file.path, file.header)
        self.starts = np.cumsum([0, *(len(file) for file in self.files)])
        if not len(self):
            raise UsageError(f"{paths[0]} holds no pictures; tokenize some first")
        if len(self.files) == 1:
            self.label_names = self.files[0].label_names
        else:
            self.label_names = tuple(sort_labels(name for file in self.files for name in file.label_names))
        self.kinds = self._kinds(kinds)
        self.conditions = {kind: header for kind, header in self.header.conditions.items() if kind in self.kinds}
        """The grid conditions in use."""
        self._labels = np.concatenate([self._renumbered(file) for file in self.files])
        self._buckets: tuple[Rows, Buckets] | None = None
        self._kept: dict[tuple[int, str], npt.NDArray[Any]] = {}
        if sum(_bytes(file) for file in self.files) <= MEMORY:
            for number, file in enumerate(self.files):
                self._kept[number, "codes"] = file.codes(slice(None)).astype(code_dtype(self.header.codebook_size))
                for kind, condition in self.conditions.items():
                    codes = file.condition(kind, slice(None)).astype(code_dtype(condition.codebook_size))
                    self._kept[number, kind] = codes

    def __len__(self) -> int:
        return int(self.starts[-1])

    def label_counts(self) -> list[int]:
        """The number of samples of each of `label_names`."""
        labels = self._labels[self._labels != NOT_GIVEN]
        return [int(count) for count in np.bincount(labels, minlength=len(self.label_names))]

    @property
    def all_labelled(self) -> bool:
        """Whether every sample has a label."""
        return bool((self._labels != NOT_GIVEN).all())

    @property
    def smallest(self) -> Size:
        """The largest grid that fits into the grids of all files."""
        headers = [file.header for file in self.files]
        return Size(min(header.width for header in headers), min(header.height for header in headers))

    @property
    def largest(self) -> Size:
        """The smallest grid into which the grids of all files fit."""
        headers = [file.header for file in self.files]
        return Size(max(header.width for header in headers), max(header.height for header in headers))

    def buckets(self, rows: Rows) -> Buckets:
        """Samples by the sizes of their grids, from the smallest to the largest."""
        if self._buckets is None or self._buckets[0] is not rows:
            grids = [(file.header.height, file.header.width) for file in self.files]
            sizes = tuple(sorted(set(grids), key=lambda grid: (grid[0] * grid[1], grid)))
            numbers = np.array([sizes.index(grid) for grid in grids])[self._owner(rows)]
            found = [(size, rows[numbers == number]) for number, size in enumerate(sizes)]
            found = [(size, own) for size, own in found if len(own)]
            self._buckets = rows, Buckets(tuple(size for size, _ in found), tuple(own for _, own in found))
        return self._buckets[1]

    def specs(self) -> tuple[ConditionSpec, ...]:
        """The conditions in use: the class, if any sample has a label, then the grids."""
        classes = [ConditionSpec(kind="class", vocabulary=len(self.label_names))] if "class" in self.kinds else []
        grids = [
            ConditionSpec(
                kind=kind,
                vocabulary=condition.codebook_size,
                form="grid",
                scale=SCALE if kind == TOP_CONDITION else 1,
            )
            for kind, condition in self.conditions.items()
        ]
        return (*classes, *grids)

    def _kinds(self, requested: Sequence[str]) -> tuple[str, ...]:
        """The conditions to use, of those that the files have."""
        available = (*(["class"] if self.label_names else []), *self.header.conditions)
        needed = {TOP_CONDITION} & set(available)
        if tuple(requested) == (NONE,):
            return tuple(needed)
        for kind in requested:
            if kind not in available:
                has = one_of((*available, NONE), kind) if available else "it has none"
                raise UsageError(f"{self.files[0].path} has no condition {kind!r}; {has}")
        return tuple(kind for kind in available if kind in needed or kind in requested or not requested)

    def split(self, held: float) -> tuple[Rows, Rows]:
        """The numbers of training and of held-out samples, the latter in the order of the hashes of their names.

        Whether a sample is held out depends on its name alone, so adding pictures does not move the others. With two or
        more different names, at least one is held out and one is not; otherwise none is held out.
        """
        names = [name for file in self.files for name in file.names()]
        keys = np.array([_key(name) for name in names], dtype=np.uint64)
        distinct = np.unique(keys)
        limit = int((distinct < int(held * 2**64)).sum())
        limit = min(max(limit, 1), len(distinct) - 1)
        is_held = np.isin(keys, distinct[:limit])
        order = np.argsort(keys, kind="stable")
        return np.flatnonzero(~is_held), order[is_held[order]]

    def sha256(self) -> str:
        """A hash of codec, names and labels, by which a resumed training recognises its data."""
        digest = hashlib.sha256(f"{self.header.codec_sha256} {self.label_names}".encode())
        for file in self.files:
            for name in file.names():
                digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(self._labels.tobytes())
        return digest.hexdigest()

    def listing(self) -> Fingerprints:
        """64 bits of each sample's name, and 64 bits of its label, codes and maps, or of its label alone for files too
        large to be kept in memory."""
        names = name_hashes(name for file in self.files for name in file.names())
        return Fingerprints(names, content_hashes(self._contents()))

    def _contents(self) -> Iterator[bytes]:
        for number, (file, start) in enumerate(zip(self.files, self.starts, strict=False)):
            kept = [self._kept[number, kind] for kind in ("codes", *self.conditions)] if self._kept else []
            shape = repr(file.header.row).encode()
            for row, label in enumerate(self._labels[start : start + len(file)].tolist()):
                name = self.label_names[label].encode("utf-8", "surrogateescape") if label != NOT_GIVEN else b""
                yield b"\0".join([shape, name, *(codes[row].tobytes() for codes in kept)])

    def made_by(self) -> str:
        """The origin of the codes, as text: their codecs and labels and, for files too large to be kept in memory, all
        that the codes follow from."""
        header = self.header
        maps = [(kind, condition.codec_sha256, condition.codebook_size) for kind, condition in self.conditions.items()]
        origin: list[Any] = [header.codec_sha256, header.codebook_size, self.label_names, maps]
        if not self._kept:
            origin += [(dict(file.header.preprocess), file.plan_sha256) for file in self.files]
        return repr(origin)

    def windows(self, rows: Rows, draws: Tensor, prior: PriorConfig, size: Grid) -> Windows:
        """The samples `rows` (n,), cropped to `size` (h, w), with the prior's conditions as far as the files have them.
        `draws` (n, 3) are random words that select view, row and column.
        """
        (height, width), kinds = size, [spec.kind for spec in prior.conditions]
        out = torch.empty(len(rows), height, width, dtype=torch.int64)
        grids = {kind: torch.empty_like(out) for kind in self.conditions if kind in kinds}
        owner = self._owner(rows)
        for number in np.unique(owner):
            places = np.flatnonzero(owner == number)
            header, local = self.files[number].header, rows[places] - self.starts[number]
            view, top, left = (
                below(limit, draws[places, n]).numpy()[:, None, None]
                for n, limit in enumerate((header.views, header.height - height + 1, header.width - width + 1))
            )
            if TOP_CONDITION in grids:  # so that a window begins with a whole cell of the top level
                top, left = top // SCALE * SCALE, left // SCALE * SCALE
            place = (
                np.arange(len(places))[:, None, None],
                view,
                top + np.arange(height)[:, None],
                left + np.arange(width),
            )
            out[places] = torch.from_numpy(self._codes(int(number), "codes", local)[place].astype(np.int64))
            for kind, grid in grids.items():
                grid[places] = torch.from_numpy(self._codes(int(number), kind, local)[place].astype(np.int64))
        conditions = dict(grids)
        if "class" in self.kinds and "class" in kinds:
            conditions["class"] = torch.from_numpy(self._labels[rows][:, None])
        return Windows(out, conditions)

    def _owner(self, rows: Rows) -> Rows:
        """The number of the file of each sample."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def _codes(self, number: int, kind: str, local: Rows) -> npt.NDArray[Any]:
        if self._kept:
            return self._kept[number, kind][local]
        file = self.files[number]
        return file.codes(local) if kind == "codes" else file.condition(kind, local)

    def _renumbered(self, file: TokenFile) -> npt.NDArray[np.int64]:
        """The labels of a file as indices into `label_names`; -1 stays."""
        place = {name: number for number, name in enumerate(self.label_names)}
        table = np.array([*(place[name] for name in file.label_names), NOT_GIVEN])
        return table[file.labels].astype(np.int64)  # -1 selects the last entry of the table


def train_batch(
    tokens: TokenSet, rows: Rows, prior: PriorConfig, train: PriorTrainConfig, position: int, count: int | None = None
) -> TokenBatch:
    """The windows at positions `position` to `position + count - 1` of a training on the samples `rows`; `count` is by
    default the batch size. For a prior for any order, they lie in one batch."""
    count = train.batch_size if count is None else count
    any_order = prior.arch == "any-order"
    buckets = (
        tokens.buckets(rows) if any_order else Buckets(((tokens.smallest.height, tokens.smallest.width),), (rows,))
    )
    chosen, grid = batch_rows(buckets, train, position, count)
    size = crop_size(grid, prior, train.seed, position // train.batch_size)
    positions = torch.arange(position, position + count)
    major, minor = positions >> 32, positions & WORD
    windows = tokens.windows(chosen, words(train.seed, Stream.CROP, major, minor, 3), prior, size)
    targets, conditions = in_order(prior, windows.codes), windows.conditions
    if train.condition_dropout:
        draws = uniform(train.seed, Stream.CONDITION, major, minor, 1 + len(conditions))
        every = draws[:, 0] < train.condition_dropout
        for place, (kind, codes) in enumerate(sorted(conditions.items()), 1):
            drop = every | (draws[:, place] < train.condition_dropout) if len(conditions) > 1 else every
            conditions[kind] = codes.masked_fill(drop.view(-1, *[1] * (codes.ndim - 1)), NOT_GIVEN)
    inputs = targets
    if train.pkeep < 1:
        keep = uniform(train.seed, Stream.KEEP, major, minor, targets.shape[1]) < train.pkeep
        other = below(prior.codebook_size, words(train.seed, Stream.REPLACE, major, minor, targets.shape[1]))
        inputs = torch.where(keep, targets, other)
    if not any_order:
        return TokenBatch(targets, inputs, conditions)
    drawn = [training_groups(*size, train.seed, p) for p in positions.tolist()]
    groups, levels = (torch.from_numpy(np.stack(of)) for of in zip(*((p.groups, p.levels) for p in drawn), strict=True))
    return TokenBatch(targets, inputs, conditions, groups, levels)


def validation_batch(windows: Windows, prior: PriorConfig) -> TokenBatch:
    """Windows as a batch whose loss is their negative log-likelihood by the chain rule: cell by cell, in raster order,
    or in the order of a plan."""
    targets = in_order(prior, windows.codes)
    if prior.arch != "any-order":
        return TokenBatch(targets, targets, windows.conditions)
    height, width = windows.codes.shape[1:]
    plan = group_plan(height, width, max(height * width, FEWEST_STEPS))
    groups, levels = (torch.from_numpy(of).expand(len(targets), -1, -1) for of in (plan.groups, plan.levels))
    return TokenBatch(targets, targets, windows.conditions, groups, levels)


def fixed_windows(tokens: TokenSet, rows: Rows, prior: PriorConfig) -> Windows:
    """One window of view 0 of each sample, at a position that follows from its number, regardless of the seed. It has
    the size of the prior's window, or of the smallest grid where that is smaller."""
    number = torch.from_numpy(rows)
    draws = words(0, Stream.CROP, torch.full_like(number, WORD), number, 3)
    draws[:, 0] = 0
    size = min(prior.window.height, tokens.smallest.height), min(prior.window.width, tokens.smallest.width)
    return tokens.windows(rows, draws, prior, size)


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def _bytes(file: TokenFile) -> int:
    header = file.header
    sizes = [header.codebook_size, *(condition.codebook_size for condition in header.conditions.values())]
    return len(file) * header.views * header.height * header.width * sum(code_dtype(size).itemsize for size in sizes)


def _refuse_other(first: Path, one: TokenHeader, path: Path, other: TokenHeader) -> None:
    if other.codec_sha256 != one.codec_sha256:
        raise UsageError(
            f"{path} was made with another codec ({other.codec_sha256[:12]}) than {first} ({one.codec_sha256[:12]}); "
            "tokenize both with the same codec; see: taming guide troubleshooting"
        )
    if other.conditions != one.conditions:
        raise UsageError(
            f"{path} has the conditions {', '.join(other.conditions) or 'none'}, {first} has "
            f"{', '.join(one.conditions) or 'none'}, or their codecs differ; use files with the same conditions"
        )


def data_of(tokens: TokenSet, train: PriorTrainConfig, inputs: Sequence[str]) -> Data:
    """The data by which a run recognises its tokens. Names count, since they determine which samples are held out."""
    place = " ".join(inputs)
    return Data(
        noun="tokens",
        listings={"inputs": tokens.listing()},
        places={"inputs": place, "codec or vocabulary": place},
        about={"data": {"sha256": tokens.sha256()}},
        by={"cond": list(train.cond)},
        named=True,
        hashes={"codec or vocabulary": tokens.made_by()},
        init=train.init,
    )
