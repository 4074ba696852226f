"""Pictures -> batches of tensors, loaded ahead of their use.

For training, a batch is a pure function of items, seed and position: position p, counted in samples over the whole run,
is place `p mod N` of the permutation of epoch `p div N`, with a crop drawn for p alone. So neither the batch size, nor
the workers, nor where a run was stopped and resumed changes what is seen. For evaluation every picture comes once, in
order. Pictures are uint8 (B, 3, H, W); the maps of a condition come as their content makes tensors.
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

_ORDER, _CROP = 1, 2  # separate streams of random numbers under one seed
_PICTURES = Pictures()


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How training samples are cut from their pictures; both mean what they mean to `random_resized_crop`."""

    crop_scale: tuple[float, float] = (0.5, 1.0)
    flip: bool = True


class Sample(NamedTuple):
    """One training sample."""

    image: Tensor
    """As its content makes it; of a picture uint8 (3, H, W)."""

    item: Item
    crop: Crop
    """In pixels of the picture at its working size (see `TrainingSamples`)."""


class TrainingSamples:
    """Position -> training sample. Not for use by several threads at once.

    Pictures are first brought to a working size: just so large that the smallest crop still has a pixel for each of the
    output's. Up to `cache_bytes` of such pictures stay in memory; samples are the same with and without.
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
        """Name -> reason of the pictures met so far that cannot be read."""
        self._items = items
        self._content = content
        self._size = size
        self._seed = seed
        self._augment = augment
        margin = 1 / math.sqrt(augment.crop_scale[0])
        self._working = Size(math.ceil(size.width * margin), math.ceil(size.height * margin))
        # JPEG's own reduction aliases a little: leave a factor 1.5 for the better filter to remove that.
        margin = max(margin, 1.5)
        self._decoded = Size(math.ceil(size.width * margin), math.ceil(size.height * margin))
        self._cache: dict[int, Image] = {}
        self._cache_left = cache_bytes

    def sample(self, position: int) -> Sample:
        """The sample at a position from 0; of a picture that cannot be read, the next of the epoch takes the place.

        Raises BadImageError where no picture at all can be read.
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
                np.random.Generator(_philox(self._seed, _CROP, position)),
                scale=self._augment.crop_scale,
                flip=self._augment.flip,
            )
            return Sample(self._content.cut(picture, crop), item, crop)
        name, reason = next(iter(self.bad.items()))
        raise BadImageError(f"none of the {count} pictures can be read; the first is {name}: {reason}")

    def _picture(self, index: int) -> Image:
        """The picture, scaled down to cover the working size; smaller ones as they are."""
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
        used = picture.width * picture.height * 4  # Pillow keeps RGB in four bytes, like depth
        if used <= self._cache_left:
            self._cache[index] = picture
            self._cache_left -= used
        return picture


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def _permutation(count: int, epoch: int, seed: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """The order of an epoch. Sorts raw numbers, because numpy keeps those the same in every version."""
    return np.argsort(_philox(seed, _ORDER, epoch).random_raw(count), kind="stable")


def _philox(seed: int, stream: int, number: int) -> np.random.Philox:
    """Counter-based random numbers (Salmon et al., 2011): each (seed, stream, number) has a sequence of its own."""
    key = np.array([seed % 2**64, stream], dtype=np.uint64)  # of a list with such numbers numpy would make floats
    return np.random.Philox(key=key, counter=np.array([0, number, 0, 0], dtype=np.uint64))


class TrainBatches(Iterator[Tensor]):
    """Endless batches, (B, C, H, W). `close`, or the end of a `with` statement, ends its thread or processes."""

    def __init__(self, loads: Generator["_Load", None, None]) -> None:
        self._loads = loads
        self.bad: dict[str, str] = {}
        """Name -> reason of the pictures that could not be read, as far as the batches have come."""

    def __next__(self) -> Tensor:
        load = next(self._loads)
        self.bad.update(load.bad)
        if load.images is None:
            self.close()
            raise BadImageError(load.failure)
        return torch.from_numpy(load.images)

    def close(self) -> None:
        """End the loading; no thread or process is left."""
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
    """Batches of the samples at positions `start`, `start + 1`, ... (see `TrainingSamples`), each batch beginning
    `stride` positions behind the one before: by default right after it.

    `workers` is the number of loading processes; with 0 a thread of this process loads. The batches are the same. Each
    process has its share of `cache_bytes`, and meets every picture: where all pictures fit in memory, a thread is
    faster after the first epoch. The iterator raises BadImageError when no picture at all can be read.
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
    """A training batch, or why there is none."""

    images: np.ndarray[Any, np.dtype[Any]] | None
    """An array, because tensors would be sent between processes through shared memory, which is often small."""

    bad: dict[str, str]
    """Those met for the first time."""

    failure: str


def _load(samples: TrainingSamples, batch_size: int, start: int) -> _Load:
    """The batch whose first sample is at position `start`."""
    known = len(samples.bad)
    images, failure = None, ""
    try:
        images = torch.stack([samples.sample(start + number).image for number in range(batch_size)]).numpy()
    except BadImageError as error:
        failure = str(error)
    return _Load(images, dict(itertools.islice(samples.bad.items(), known, None)), failure)


_of_this_worker: list[partial[_Load]] = []  # filled in worker processes only, which begin with a copy of the samples


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
    """Pictures for evaluation, and what was skipped since the batch before."""

    images: Tensor
    """(B * V, C, H, W), of pictures uint8 (B * V, 3, H, W): the V views of a picture one after the other."""

    items: list[Item]
    """B of them."""

    skipped: list[Skipped]

    beside: dict[str, Tensor]
    """What `beside` made, each (B * V, ...)."""


Beside = Callable[[Item, Image, Sequence[Crop]], Mapping[str, Tensor]]
"""A picture and its crops -> what belongs to them, one of each for every crop: by name, (V, ...)."""


def eval_batches(
    items: Iterable[Item],
    *,
    size: Size | None = None,
    views: Callable[[Item, Size], Sequence[Crop]] | None = None,
    batch_size: int,
    workers: int = 1,
    content: Content = _PICTURES,
    beside: Beside | None = None,
) -> Generator[Batch, None, None]:
    """Every picture once, in order: its centre crop of `size`, or its `views`, or, with neither, all of it.

    `views` is given an item and its picture's size and returns crops, all scaled to one size; it and `beside`, which
    makes what belongs to the crops, may raise BadImageError to have the picture skipped. Pictures whose views differ in
    size or number from the ones before begin a new batch, so a batch holds 1 to `batch_size` pictures. What cannot be
    read is skipped and reported in the batch before (at the beginning: the first); only where no picture can be read
    comes a batch without pictures. `workers` threads decode ahead; closing the generator ends them.
    """
    assert size is None or views is None
    assert batch_size >= 1
    cut = views or (lambda item, source: [whole(source, source) if size is None else centre_crop(source, size)])

    def load(item: Item) -> _Viewed | Skipped:
        try:
            picture = content.load(item)
            crops = cut(item, Size(*picture.size))
            more = beside(item, picture, crops) if beside is not None else {}
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

    beside: Mapping[str, Tensor]


def _batch(group: list[_Viewed], skipped: list[Skipped]) -> Batch:
    images = torch.cat([each.views for each in group]) if group else torch.empty((0, 3, 0, 0), dtype=torch.uint8)
    names = group[0].beside if group else {}
    beside = {name: torch.cat([each.beside[name] for each in group]) for name in names}
    return Batch(images, [each.item for each in group], skipped, beside)


def _reason(item: Item, error: BadImageError) -> str:
    return str(error).removeprefix(f"{item.name}: ")
