"""The image sets that metrics compare: folders and archives, token files (decoded), arrays in an .npz; or published
feature statistics in place of images.

Every set yields the 8-bit RGB values that a PNG of the image would hold, in order, all images or every n-th.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image, fromarray
from torch import Tensor

from taming_cli.codec.locate import codec_for, stored_codes
from taming_cli.codec.reconstruct import DECODING, decoding
from taming_cli.codec.tiling import tiles
from taming_cli.codec.vqgan import VQGAN, ready
from taming_cli.config.parsing import parse_json
from taming_cli.config.size import Size
from taming_cli.data import arrays
from taming_cli.data.batches import Skipped, eval_batches
from taming_cli.data.contents import Pictures
from taming_cli.data.images import SHEET, apply, centre_crop, png_settings, tensor
from taming_cli.data.sources import Item, list_items
from taming_cli.data.split import digest
from taming_cli.data.tokens.file import TokenFile
from taming_cli.errors import BadFileError, BadImageError, UsageError
from taming_cli.runtime.memory import BUDGET, room
from taming_cli.runtime.weights import sha256

Prepare = Callable[[Tensor], Tensor]
"""Image uint8 (3, H, W) -> network input, of the same shape for all images."""

MOST_FEATURES = 4096
"""Largest number of features in a file of statistics; a covariance of them takes 128 MiB."""
_FIRST = slice(0, 1)


class PreparedBatch(NamedTuple):
    """Network inputs (B, ...), their positions in the set, the stored sizes, and images skipped since the last."""

    prepared: Tensor
    numbers: list[int]
    sizes: list[Size]
    skipped: list[Skipped]


class ImageSet(ABC):
    """A set of images. `name` is the path as the user gave it."""

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """The number of images listed, readable or not."""

    @property
    @abstractmethod
    def form(self) -> str:
        """The storage format: png, jpeg, tokens, array, or several, separated by spaces."""

    @abstractmethod
    def list_sha256(self) -> str:
        """A digest of the listing."""

    @abstractmethod
    def content_sha256(self) -> str:
        """A digest of the images themselves, independent of their names."""

    @abstractmethod
    def batches(
        self, prepare: Prepare, *, size: Size | None, every: slice, batch_size: int, workers: int
    ) -> Iterator[PreparedBatch]:
        """The images at the positions `every`, in order, centre-cropped to `size` if given, then prepared."""

    def protocol(self) -> dict[str, Any]:
        """The fields that a result records."""
        return {"name": self.name, "form": self.form, "listed": len(self), "list_sha256": self.list_sha256()}

    def titles(self) -> list[str]:
        """The names of the images, readable or not."""
        return [str(number) for number in range(len(self))]

    def first_size(self) -> Size | None:
        """The stored size of the first image, or None if it cannot be read."""
        for batch in self.batches(lambda image: image[:, :1, :1], size=None, every=_FIRST, batch_size=1, workers=1):
            return next(iter(batch.sizes), None)
        return None


class _PreparedContent(Pictures):
    """Images decoded to network inputs, so that the reading threads also do the preparation."""

    def __init__(self, prepare: Prepare) -> None:
        self.prepare = prepare

    def tensor(self, image: Image) -> Tensor:
        return self.prepare(tensor(image))


@dataclass(frozen=True)
class FileImages(ImageSet):
    """Images in files."""

    name: str
    items: Sequence[Item]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def form(self) -> str:  # noqa: D102 - see ImageSet
        suffixes = {PurePosixPath(item.name).suffix.lower().lstrip(".") for item in self.items}
        return " ".join(sorted({"jpeg" if suffix in ("jpg", "jpe", "jfif") else suffix for suffix in suffixes}))

    def titles(self) -> list[str]:  # noqa: D102
        return [item.name for item in self.items]

    def list_sha256(self) -> str:  # noqa: D102
        return digest(self.items)

    def content_sha256(self) -> str:  # noqa: D102
        def hashed(item: Item) -> str:
            try:
                return hashlib.sha256(item.read()).hexdigest()
            except BadImageError:  # reported when the image is decoded
                return ""

        with ThreadPoolExecutor(8) as readers:
            return hashlib.sha256("".join(sorted(readers.map(hashed, self.items))).encode()).hexdigest()

    def protocol(self) -> dict[str, Any]:
        """The recorded fields, with the sampling settings of the first image if this tool drew it."""
        drawn = png_settings(self.items[0].path) if self.items[0].member is None else None
        try:
            return super().protocol() | ({"drawn": parse_json(drawn)} if drawn else {})
        except ValueError:  # another program wrote it
            return super().protocol()

    def batches(  # noqa: D102
        self, prepare: Prepare, *, size: Size | None, every: slice, batch_size: int, workers: int
    ) -> Iterator[PreparedBatch]:
        numbers = {item: number for number, item in enumerate(self.items)}
        sizes: dict[Item, Size] = {}

        def record_size(item: Item, image: Image, crops: object) -> dict[str, Tensor]:
            sizes[item] = Size(*image.size)
            return {}

        reader = eval_batches(
            self.items[every],
            size=size,
            batch_size=batch_size,
            workers=workers,
            content=_PreparedContent(prepare),
            extras=record_size,
        )
        with closing(reader):
            for batch in reader:
                own_sizes = [sizes.pop(item) for item in batch.items]
                yield PreparedBatch(batch.images, [numbers[item] for item in batch.items], own_sizes, batch.skipped)


@dataclass(frozen=True)
class _ArrayBacked(ImageSet):
    """Images that come in arrays of one size rather than in files."""

    name: str
    path: Path

    def list_sha256(self) -> str:
        return self.content_sha256()

    def content_sha256(self) -> str:
        return sha256(self.path)

    @abstractmethod
    def chunks(self, every: slice, batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
        """Positions and images uint8 (B, 3, H, W)."""

    def batches(
        self, prepare: Prepare, *, size: Size | None, every: slice, batch_size: int, workers: int
    ) -> Iterator[PreparedBatch]:
        with ThreadPoolExecutor(max(1, workers)) as threads:
            for numbers, images in self.chunks(every, batch_size):
                source = Size(images.shape[3], images.shape[2])
                cropped = images if size is None else torch.stack([_crop(image, source, size) for image in images])
                prepared = torch.stack(list(threads.map(prepare, cropped)))
                yield PreparedBatch(prepared, numbers, [source] * len(numbers), [])


@dataclass(frozen=True)
class TokenImages(_ArrayBacked):
    """Images of a token file, decoded to 8 bits on demand; the first of several views. `chosen` are some rows."""

    file: TokenFile
    codec: Path | None
    device: torch.device
    budget: int = BUDGET
    chosen: Sequence[int] | None = None

    form = "tokens"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def rows(self) -> Sequence[int]:
        """The rows of the file, in the order of the images."""
        return range(len(self.file)) if self.chosen is None else self.chosen

    def titles(self) -> list[str]:  # noqa: D102
        return self.file.names(list(self.rows))

    def content_sha256(self) -> str:
        """A digest of the file and of its codec, whose decoder determines the images."""
        codec, _, _ = codec_for(self.file.header, self.path, self.codec)
        combined = hashlib.sha256(super().content_sha256().encode())
        if self.chosen is not None:
            combined.update(repr(list(self.chosen)).encode())
        for name, value in codec.state_dict().items():
            combined.update(f"{name} ".encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
        if not self.exact(codec):
            combined.update(str(self.budget).encode())
        return combined.hexdigest()

    def exact(self, codec: VQGAN) -> bool:
        """Whether images fit the memory budget and are decoded whole rather than in tiles."""
        return tiles.exact(codec, self.file.header.height, self.file.header.width, self.budget)

    def protocol(self) -> dict[str, Any]:
        """The recorded fields, with how the images were decoded."""
        codec, _, _ = codec_for(self.file.header, self.path, self.codec)
        return super().protocol() | {DECODING: decoding(self.exact(codec))}

    @torch.inference_mode()
    def chunks(self, every: slice, batch_size: int) -> Iterator[tuple[list[int], Tensor]]:  # noqa: D102
        codec, _, _ = codec_for(self.file.header, self.path, self.codec)
        codec = ready(codec, self.device, torch.float32)
        header = self.file.header
        at_once = tiles.at_once(codec, header.height, header.width, batch_size)
        positions = range(len(self))[every]
        for start in range(0, len(positions), at_once):
            numbers = list(positions[start : start + at_once])
            rows_read = [self.rows[number] for number in numbers]
            codes = stored_codes(self.file, codec, rows_read)[:, 0].to(self.device)
            rows, columns = header.frame.place
            yield numbers, tiles.pictures(codec, codes, budget=self.budget)[:, :, rows, columns].contiguous()


@dataclass(frozen=True)
class ArrayImages(_ArrayBacked):
    """Images in the first array of an .npz, uint8 (N, H, W, 3), the format of the ADM evaluation suite."""

    shape: tuple[int, ...]

    form = "array"

    def __len__(self) -> int:
        return self.shape[0]

    def chunks(self, every: slice, batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
        """Positions and images; the file is streamed, so that at most a batch is in memory."""
        positions = range(len(self))[every]
        numbers: list[int] = []
        images: list[npt.NDArray[np.uint8]] = []
        for number, image in enumerate(arrays.read_pictures(self.path)):
            if number in positions:
                numbers.append(number)
                images.append(image)
            if images and (len(images) == batch_size or number == len(self) - 1):
                yield numbers, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
                numbers, images = [], []


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean `mu` (D,) and covariance `sigma` (D, D) of features from an .npz, float64."""

    name: str
    path: Path
    mu: npt.NDArray[np.float64]
    sigma: npt.NDArray[np.float64]

    def protocol(self) -> dict[str, Any]:
        """The fields that a result records."""
        return {"name": self.name, "form": "statistics", "list_sha256": sha256(self.path)}


def open_image_set(
    path: Path,
    *,
    codec: Path | None = None,
    device: torch.device,
    memory: float | None = None,
    statistics: bool = True,
) -> ImageSet | FeatureStatistics:
    """Open a folder, archive, image, token file or .npz.

    `codec` is needed for a token file whose codec is not at the recorded path; decoding takes at most `memory` GiB
    (`runtime.memory.room`). An .npz with both images and statistics, such as the ADM references, is read as statistics
    if `statistics` is true. UsageError for a path that does not exist or holds no images, BadFileError for a damaged
    file.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if path.suffix.lower() == ".h5":
        file = TokenFile(path)
        codec_for(file.header, path, codec)
        return TokenImages(str(path), path, file, codec, device, room(device, memory).decode)
    if path.suffix.lower() == ".npz":
        return _open_npz(path, statistics)
    return FileImages(str(path), list_images([path]))


def list_images(paths: Sequence[Path]) -> tuple[Item, ...]:
    """The images in folders and archives, without the contact sheets of `taming sample`. UsageError for none."""
    images = tuple(item for item in list_items(paths).items if not _is_sheet(item))
    if not images:
        raise UsageError(f"{' '.join(map(str, paths))} holds only a sheet of pictures; draw samples first")
    return images


def _is_sheet(item: Item) -> bool:
    """Whether an image is the contact sheet that `taming sample` writes beside its samples."""
    if PurePosixPath(item.name).name != "grid.png" or item.member is not None:
        return False
    settings = png_settings(item.path)  # sheets of earlier versions have none, but lie beside a sample
    return settings == SHEET or (settings is None and png_settings(item.path.with_name("000000.png")) is not None)


def _open_npz(path: Path, statistics: bool) -> ImageSet | FeatureStatistics:
    members = arrays.members(path)
    if {"mu.npy", "sigma.npy"} <= members and (statistics or arrays.PICTURES not in members):
        mu = arrays.read_floats(path, "mu.npy", 1, MOST_FEATURES)
        sigma = arrays.read_floats(path, "sigma.npy", 2, MOST_FEATURES)
        if sigma.shape != (mu.size, mu.size):
            raise BadFileError(f"{path}: mu is {mu.shape} and sigma {sigma.shape}; (D,) and (D, D) are expected")
        if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
            raise BadFileError(f"{path}: holds values that are not finite; compute the statistics again")
        return FeatureStatistics(str(path), path, mu.astype(np.float64), sigma.astype(np.float64))
    if arrays.PICTURES in members:
        return ArrayImages(str(path), path, arrays.shape_of(path))
    contents_text = ", ".join(sorted(members)) or "nothing"
    raise BadFileError(f"{path}: holds {contents_text}; give mu and sigma, or pictures as arr_0")


def _crop(image: Tensor, source: Size, size: Size) -> Tensor:
    return tensor(apply(fromarray(image.permute(1, 2, 0).numpy()), centre_crop(source, size)))
