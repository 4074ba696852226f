"""Loads pictures as batches of tensors, with prefetching.

For training, a batch is a pure function of items, seed and position: position p, counted in samples over the whole run,
is index `p mod N` of the permutation of epoch `p div N`, with a crop drawn for p alone. So the samples depend neither
on batch size or workers, nor on where a run was stopped and resumed. For evaluation every picture is loaded once, in
order. Pictures are uint8 (B, 3, H, W); condition maps have the type of their content (see `contents`).
"""

import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor

from taming_cli.config.size import Size
from taming_cli.data.contents import Content, Pictures
from taming_cli.data.images import Crop, centre_crop, random_resized_crop, whole
from taming_cli.data.sources import Item
from taming_cli.data.workers import in_order, processes, threads
from taming_cli.errors import BadImageError

T = TypeVar("T")
R = TypeVar("R")

_ORDER, _CROP = 1, 2  # separate streams of random numbers under one seed; `codec.perturb` has the third
_PICTURES = Pictures()


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How training samples are cropped; see `random_resized_crop`."""

    crop_scale: tuple[float, float] = (0.5, 1.0)
    flip: bool = True


class Sample(NamedTuple):
    """One training sample."""

    image: Tensor
    """As of `Content.tensor`; for pictures uint8 (3, H, W)."""

    item: Item
    crop: Crop
    """In pixels of the picture at its working size (see `TrainingSamples`)."""


class TrainingSamples:
    """Training samples by position. Not thread-safe.

    Pictures are first scaled to a working size at which the smallest crop has as many pixels as the output. Up to
    `cache_bytes` of scaled pictures stay in memory, which does not change the samples.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        size: Size,
        seed: int,
        augment: Augment,
        cache_bytes: int = 0,
        content: Content = _PICTURES,
    ) -> None:
        assert items
        assert 0 < augment.crop_scale[0] <= augment.crop_scale[1] <= 1
        self.bad: dict[str, str] = {}
        """Name -> reason of the pictures found unreadable so far."""
        self._items = items
        self._content = content
        self._size = size
        self._seed = seed
        self._augment = augment
        margin = 1 / math.sqrt(augment.crop_scale[0])
        self._working = Size(math.ceil(size.width * margin), math.ceil(size.height * margin))
        # JPEG's own reduction aliases slightly: a factor of 1.5 is left to the better filter.
        margin = max(margin, 1.5)
        self._decoded = Size(math.ceil(size.width * margin), math.ceil(size.height * margin))
        self._cache: dict[int, Image] = {}
        self._cache_left = cache_bytes

    def sample(self, position: int) -> Sample:
        """Return the sample at a position from 0; the next of the epoch replaces an unreadable picture.

        Raises BadImageError if no picture can be read.
        """
        count = len(self._items)
        epoch, place = divmod(position, count)
        order = _permutation(count, epoch, self._seed)
        for step in range(count):
            index = int(order[(place + step) % count])
            item = self._items[index]
            if item.name in self.bad:
                continue
            try:
                picture = self._picture(index)
            except BadImageError as error:
                self.bad[item.name] = _reason(item, error)
                continue
            crop = random_resized_crop(
                Size(*picture.size),
                self._size,
                np.random.Generator(philox(self._seed, _CROP, position)),
                scale=self._augment.crop_scale,
                flip=self._augment.flip,
            )
            return Sample(self._content.cut(picture, crop), item, crop)
        name, reason = next(iter(self.bad.items()))
        raise BadImageError(f"none of the {count} pictures can be read; the first is {name}: {reason}")

    def _picture(self, index: int) -> Image:
        """Return the picture, scaled down to cover the working size; smaller ones are unchanged."""
        if index in self._cache:
            return self._cache[index]
        item = self._items[index]
        picture = self._content.load(item, min_size=self._decoded)
        shrink = max(self._working.width / picture.width, self._working.height / picture.height)
        if shrink < 1:
            width = max(self._working.width, round(picture.width * shrink))
            height = max(self._working.height, round(picture.height * shrink))
            gap = 3 if self._content.resample == Resampling.LANCZOS else None
            picture = picture.resize((width, height), self._content.resample, reducing_gap=gap)
        used = picture.width * picture.height * 4  # Pillow stores RGB in four bytes, like depth
        if used <= self._cache_left:
            self._cache[index] = picture
            self._cache_left -= used
        return picture


@lru_cache(maxsize=2)  # a batch may extend into the next epoch
def _permutation(count: int, epoch: int, seed: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return the order of an epoch, by sorting raw random numbers, which are the same in every version of numpy."""
    return np.argsort(philox(seed, _ORDER, epoch).random_raw(count), kind="stable")


def philox(seed: int, stream: int, number: int) -> np.random.Philox:
    """Counter-based random numbers (Salmon et al. 2011), a separate sequence per (seed, stream, number)."""
    key = np.array([seed % 2**64, stream], dtype=np.uint64)  # numpy converts a list of such numbers to floats
    return np.random.Philox(key=key, counter=np.array([0, number, 0, 0], dtype=np.uint64))


class TrainBatches(Iterator[Tensor]):
    """Endless batches, (B, C, H, W). `close`, or the end of a `with` statement, ends the thread or processes."""

    def __init__(self, loads: Generator["_Load", None, None]) -> None:
        self._loads = loads
        self.bad: dict[str, str] = {}
        """Name -> reason of the unreadable pictures in the batches so far."""

    def __next__(self) -> Tensor:
        load = next(self._loads)
        self.bad.update(load.bad)
        if load.images is None:
            self.close()
            raise BadImageError(load.failure)
        return torch.from_numpy(load.images)

    def close(self) -> None:
        """Stop loading, and end all threads and processes."""
        self._loads.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def train_batches(
    items: Sequence[Item],
    *,
    size: Size,
    batch_size: int,
    seed: int,
    augment: Augment,
    start: int = 0,
    stride: int | None = None,
    workers: int = 0,
    cache_bytes: int = 0,
    content: Content = _PICTURES,
) -> TrainBatches:
    """Return batches of the samples at positions `start`, `start + 1`, ... (see `TrainingSamples`).

    Each batch begins `stride` positions after the one before, by default at its end. `workers` is the number of loading
    processes; with 0 a thread of this process loads the same batches. Each process gets an equal part of `cache_bytes`
    and may load any picture: if all pictures fit in memory, a thread is faster after the first epoch. The iterator
    raises BadImageError if no picture can be read.
    """
    assert batch_size >= 1
    share = cache_bytes // max(workers, 1)
    samples = TrainingSamples(items, size=size, seed=seed, augment=augment, cache_bytes=share, content=content)
    starts = itertools.count(start, stride or batch_size)
    if workers == 0:
        return TrainBatches(in_order(threads(1), partial(_load, samples, batch_size), starts, ahead=3))
    begin = processes(workers, _begin_worker, samples, batch_size)
    return TrainBatches(in_order(begin, _load_in_worker, starts, ahead=2 * workers + 1))


class _Load(NamedTuple):
    """A training batch, or the reason why there is none."""

    images: np.ndarray[Any, np.dtype[Any]] | None
    """An array, because tensors are sent between processes through shared memory, which is often small."""

    bad: dict[str, str]
    """Pictures found unreadable for the first time."""

    failure: str


def _load(samples: TrainingSamples, batch_size: int, start: int) -> _Load:
    """Load the batch whose first sample is at position `start`."""
    known = len(samples.bad)
    images, failure = None, ""
    try:
        images = torch.stack([samples.sample(start + number).image for number in range(batch_size)]).numpy()
    except BadImageError as error:
        failure = str(error)
    return _Load(images, dict(itertools.islice(samples.bad.items(), known, None)), failure)


_of_this_worker: list[partial[_Load]] = []  # filled in worker processes only, which start with a copy of the samples


def _begin_worker(samples: TrainingSamples, batch_size: int) -> None:
    torch.set_num_threads(1)
    _of_this_worker.append(partial(_load, samples, batch_size))


def _load_in_worker(start: int) -> _Load:
    (load,) = _of_this_worker
    return load(start)


class Skipped(NamedTuple):
    """A picture that could not be read."""

    name: str
    reason: str


class Batch(NamedTuple):
    """Pictures for evaluation, and the pictures skipped since the batch before."""

    images: Tensor
    """(B * V, C, H, W), for pictures uint8 (B * V, 3, H, W): the V views of a picture are consecutive."""

    items: list[Item]
    """B of them."""

    skipped: list[Skipped]

    extras: dict[str, Tensor]
    """The tensors that `extras` computed, each (B * V, ...)."""


Extras = Callable[[Item, Image, Sequence[Crop]], Mapping[str, Tensor]]
"""A function of a picture and its V crops that returns tensors (V, ...) by name."""


def eval_batches(
    items: Iterable[Item],
    *,
    size: Size | None = None,
    views: Callable[[Item, Size], Sequence[Crop]] | None = None,
    batch_size: int,
    workers: int = 1,
    content: Content = _PICTURES,
    extras: Extras | None = None,
) -> Generator[Batch, None, None]:
    """Yield every picture once, in order: its centre crop of `size`, or its `views`, or, with neither, all of it.

    `views` maps an item and its picture's size to crops, all scaled to one size. It and `extras`, which computes
    tensors for the crops, may raise BadImageError to skip the picture. A picture whose views differ in size or number
    from those before begins a new batch, so a batch holds 1 to `batch_size` pictures. Unreadable pictures are skipped
    and reported in the batch before them, or in the first one. A batch is empty only if no picture can be read.
    `workers` threads decode ahead; closing the generator ends them.
    """
    assert size is None or views is None
    assert batch_size >= 1
    cut = views or (lambda item, source: [whole(source, source) if size is None else centre_crop(source, size)])

    def load(item: Item) -> _Viewed | Skipped:
        try:
            picture = content.load(item)
            crops = cut(item, Size(*picture.size))
            more = extras(item, picture, crops) if extras is not None else {}
        except BadImageError as error:
            return Skipped(item.name, _reason(item, error))
        tensors = [content.cut(picture, crop) for crop in crops]
        return _Viewed(item, torch.stack(tensors), more)

    group: list[_Viewed] = []
    skipped: list[Skipped] = []
    count = max(workers, 1)
    with closing(in_order(threads(count), load, items, ahead=2 * batch_size + count)) as loaded:
        for each in loaded:
            if isinstance(each, Skipped):
                skipped.append(each)
                continue
            if group and (len(group) == batch_size or each.views.shape != group[0].views.shape):
                yield _batch(group, skipped)
                group, skipped = [], []
            group.append(each)
    if group or skipped:
        yield _batch(group, skipped)


class _Viewed(NamedTuple):
    item: Item
    views: Tensor
    """(V, C, H, W)"""

    extras: Mapping[str, Tensor]


def _batch(group: list[_Viewed], skipped: list[Skipped]) -> Batch:
    images = torch.cat([each.views for each in group]) if group else torch.empty((0, 3, 0, 0), dtype=torch.uint8)
    names = group[0].extras if group else {}
    extras = {name: torch.cat([each.extras[name] for each in group]) for name in names}
    return Batch(images, [each.item for each in group], skipped, extras)


def _reason(item: Item, error: BadImageError) -> str:
    return str(error).removeprefix(f"{item.name}: ")
