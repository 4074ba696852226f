"""What is compared: the pictures of folders and archives, of a token file (decoded), or of an array in an .npz; or
statistics of pictures that someone else took.

A side gives its pictures as the 8-bit RGB that a PNG of them holds, one after another, or every n-th of them.
"""

import hashlib
import json
import zipfile
import zlib
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

from taming_cli.codec.locate import codec_for
from taming_cli.codec.reconstruct import DECODING, decoding
from taming_cli.codec.tiling import tiles
from taming_cli.codec.vqgan import VQGAN
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

Prepare = Callable[[Tensor], Tensor]
"""A picture uint8 (3, H, W) -> what a network takes of it, of one shape for all."""


class Batch(NamedTuple):
    """`prepared` pictures (B, ...), their `numbers` in the side, their sizes, and what was skipped since the last."""

    prepared: Tensor
    numbers: list[int]
    sizes: list[Size]
    skipped: list[Skipped]


class Side(ABC):
    """Pictures to look at. `name` is how they were given."""

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """Pictures, whether or not they can be read."""

    @property
    @abstractmethod
    def form(self) -> str:
        """How they are stored: png, jpeg, tokens, array, or several of them."""

    @abstractmethod
    def list_sha256(self) -> str:
        """Tells this listing from any other."""

    @abstractmethod
    def content_sha256(self) -> str:
        """Tells these pictures from any others, whatever they are called."""

    @abstractmethod
    def batches(
        self, prepare: Prepare, *, size: Size | None, every: slice, batch_size: int, workers: int
    ) -> Iterator[Batch]:
        """The pictures at `every` in order, each cut to `size` around its middle if that is given, then prepared."""

    def about(self) -> dict[str, Any]:
        """What a result says of it."""
        return {"name": self.name, "form": self.form, "listed": len(self), "list_sha256": self.list_sha256()}

    def first_size(self) -> Size | None:
        """Of the first picture, as it is stored; None where it cannot be read."""
        for batch in self.batches(lambda picture: picture[:, :1, :1], size=None, every=FIRST, batch_size=1, workers=1):
            return next(iter(batch.sizes), None)
        return None


FIRST = slice(0, 1)


class _Prepared(Pictures):
    """Pictures whose tensor is what the network takes, so that threads that read them do that too."""

    def __init__(self, prepare: Prepare) -> None:
        self.prepare = prepare

    def tensor(self, image: Image) -> Tensor:
        return self.prepare(tensor(image))


@dataclass(frozen=True)
class Files(Side):
    """Pictures in files."""

    name: str
    items: Sequence[Item]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def form(self) -> str:  # noqa: D102 - as of Side
        suffixes = {PurePosixPath(item.name).suffix.lower().lstrip(".") for item in self.items}
        return " ".join(sorted({"jpeg" if suffix in ("jpg", "jpe", "jfif") else suffix for suffix in suffixes}))

    def list_sha256(self) -> str:  # noqa: D102
        return digest(self.items)

    def content_sha256(self) -> str:  # noqa: D102
        def hashed(item: Item) -> str:
            try:
                return hashlib.sha256(item.read()).hexdigest()
            except BadImageError:  # whoever looks at it will say so
                return ""

        with ThreadPoolExecutor(8) as readers:
            return hashlib.sha256("".join(sorted(readers.map(hashed, self.items))).encode()).hexdigest()

    def about(self) -> dict[str, Any]:
        """What a result says of it; of samples of ours, how the first was drawn too."""
        said = super().about()
        drawn = png_settings(self.items[0].path) if self.items[0].member is None else None
        return said | ({"drawn": json.loads(drawn)} if drawn else {})

    def batches(  # noqa: D102
        self, prepare: Prepare, *, size: Size | None, every: slice, batch_size: int, workers: int
    ) -> Iterator[Batch]:
        numbers = {item: number for number, item in enumerate(self.items)}
        sizes: dict[Item, Size] = {}

        def seen(item: Item, picture: Image, crops: object) -> dict[str, Tensor]:
            sizes[item] = Size(*picture.size)
            return {}

        reader = eval_batches(
            self.items[every],
            size=size,
            batch_size=batch_size,
            workers=workers,
            content=_Prepared(prepare),
            beside=seen,
        )
        with closing(reader):
            for batch in reader:
                own = [sizes.pop(item) for item in batch.items]
                yield Batch(batch.images, [numbers[item] for item in batch.items], own, batch.skipped)


@dataclass(frozen=True)
class _Arrays(Side):
    """Pictures that come as arrays rather than files."""

    name: str
    path: Path

    def list_sha256(self) -> str:
        return self.content_sha256()

    def content_sha256(self) -> str:
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    @abstractmethod
    def pieces(self, every: slice, batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
        """Numbers, and the pictures uint8 (B, 3, H, W)."""

    def batches(
        self, prepare: Prepare, *, size: Size | None, every: slice, batch_size: int, workers: int
    ) -> Iterator[Batch]:
        with ThreadPoolExecutor(max(1, workers)) as threads:
            for numbers, pictures in self.pieces(every, batch_size):
                own = Size(pictures.shape[3], pictures.shape[2])
                cut = pictures if size is None else torch.stack([_cut(picture, own, size) for picture in pictures])
                yield Batch(torch.stack(list(threads.map(prepare, cut))), numbers, [own] * len(numbers), [])


@dataclass(frozen=True)
class Tokens(_Arrays):
    """Pictures of a token file, decoded to 8 bits as they are needed; of several views the first."""

    file: TokenFile
    codec: Path | None
    device: torch.device
    budget: int = BUDGET

    form = "tokens"

    def __len__(self) -> int:
        return len(self.file)

    def content_sha256(self) -> str:
        """That of the file and of its codec, whose decoder is part of the pictures."""
        codec, _, _ = codec_for(self.file.header, self.path, self.codec)
        whole = hashlib.sha256(super().content_sha256().encode())
        for name, value in codec.state_dict().items():
            whole.update(f"{name} ".encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
        if not self.exact(codec):
            whole.update(str(self.budget).encode())
        return whole.hexdigest()

    def exact(self, codec: VQGAN) -> bool:
        """Whether the pictures fit the memory, and so have the statistics of the whole."""
        return tiles.exact(codec, self.file.header.height, self.file.header.width, self.budget)

    def about(self) -> dict[str, Any]:
        """What a result says of it."""
        codec, _, _ = codec_for(self.file.header, self.path, self.codec)
        return super().about() | {DECODING: decoding(self.exact(codec))}

    @torch.inference_mode()
    def pieces(self, every: slice, batch_size: int) -> Iterator[tuple[list[int], Tensor]]:  # noqa: D102
        codec, _, _ = codec_for(self.file.header, self.path, self.codec)
        codec = codec.to(self.device).to(memory_format=torch.channels_last)
        header = self.file.header
        at_once = tiles.at_once(codec, header.height, header.width, batch_size)
        wanted = range(len(self.file))[every]
        for start in range(0, len(wanted), at_once):
            numbers = list(wanted[start : start + at_once])
            codes = torch.from_numpy(self.file.codes(numbers)[:, 0]).to(self.device)
            rows, columns = header.frame.place
            yield numbers, tiles.pictures(codec, codes, budget=self.budget)[:, :, rows, columns].contiguous()


@dataclass(frozen=True)
class Samples(_Arrays):
    """Pictures in the first array of an .npz, uint8 (N, H, W, 3), as the ADM suite publishes and reads samples."""

    shape: tuple[int, ...]

    form = "array"

    def __len__(self) -> int:
        return self.shape[0]

    def pieces(self, every: slice, batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
        """Read from first to last, so that never more than a batch is held."""
        wanted = range(len(self))[every]
        numbers: list[int] = []
        pictures: list[npt.NDArray[np.uint8]] = []
        for number, picture in enumerate(arrays.read_pictures(self.path)):
            if number in wanted:
                numbers.append(number)
                pictures.append(picture)
            if pictures and (len(pictures) == batch_size or number == len(self) - 1):
                yield numbers, torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
                numbers, pictures = [], []


@dataclass(frozen=True)
class Statistics:
    """Mean `mu` (D,) and covariance `sigma` (D, D) of features, out of an .npz, float64."""

    name: str
    path: Path
    mu: npt.NDArray[np.float64]
    sigma: npt.NDArray[np.float64]

    def about(self) -> dict[str, Any]:
        """What a result says of it."""
        with self.path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"name": self.name, "form": "statistics", "list_sha256": sha256}


def side(
    path: Path,
    *,
    codec: Path | None = None,
    device: torch.device,
    memory: float | None = None,
    statistics: bool = True,
) -> Side | Statistics:
    """What a path holds: a folder, archive or picture, a token file, or an .npz.

    `codec` is that of a token file, where it is not found, which is decoded in `memory` GiB (`room`). Of an .npz that
    holds both, as the ADM suite's references do, the statistics are taken where `statistics` says so, else the
    pictures. UsageError for a path that does not exist or holds nothing to compare, BadFileError for damaged files.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if path.suffix.lower() == ".h5":
        file = TokenFile(path)
        codec_for(file.header, path, codec)
        return Tokens(str(path), path, file, codec, device, room(device, memory).decode)
    if path.suffix.lower() == ".npz":
        return _npz(path, statistics)
    return Files(str(path), pictures_in([path]))


def pictures_in(paths: Sequence[Path]) -> tuple[Item, ...]:
    """The pictures of folders and archives, without the sheets that `sample` puts beside its own. UsageError where
    there are none."""
    found = tuple(item for item in list_items(paths).items if not _is_sheet(item))
    if not found:
        raise UsageError(f"{' '.join(map(str, paths))} holds a sheet of pictures and none by itself; draw some first")
    return found


def _is_sheet(item: Item) -> bool:
    """Whether it is the sheet that `sample` puts beside its pictures, which is none of them."""
    if PurePosixPath(item.name).name != "grid.png" or item.member is not None:
        return False
    said = png_settings(item.path)  # older ones say nothing, but lie beside a sample
    return said == SHEET or (said is None and png_settings(item.path.with_name("000000.png")) is not None)


def _npz(path: Path, statistics: bool) -> Side | Statistics:
    held = arrays.members(path)
    if {"mu.npy", "sigma.npy"} <= held and (statistics or arrays.PICTURES not in held):
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
                mu, sigma = found["mu"], found["sigma"]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BadFileError(f"{path}: damaged ({error}); fetch it again") from error
        if {mu.dtype.kind, sigma.dtype.kind} != {"f"} or sigma.shape != (mu.size, mu.size) or mu.ndim != 1:
            raise BadFileError(
                f"{path}: mu is {mu.dtype} {mu.shape} and sigma {sigma.dtype} {sigma.shape}; floating-point (D,) and "
                "(D, D) are expected"
            )
        if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
            raise BadFileError(f"{path}: holds values that are not finite; take the statistics again")
        return Statistics(str(path), path, mu.astype(np.float64), sigma.astype(np.float64))
    if arrays.PICTURES in held:
        return Samples(str(path), path, arrays.shape_of(path))
    raise BadFileError(f"{path}: holds {', '.join(sorted(held)) or 'nothing'}; give mu and sigma, or pictures as arr_0")


def _cut(picture: Tensor, source: Size, size: Size) -> Tensor:
    image = fromarray(picture.permute(1, 2, 0).numpy())
    return tensor(apply(image, centre_crop(source, size)))
