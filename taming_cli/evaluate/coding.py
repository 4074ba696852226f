"""One pass of images through a codec, shared by all metrics that need its codes or reconstructions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taming_cli.codec.locate import picture_codec
from taming_cli.codec.reconstruct import DECODING, codes_of, decoding, round_trip
from taming_cli.codec.tiling import tiles
from taming_cli.codec.vqgan import VQGAN, ready
from taming_cli.config.size import Size
from taming_cli.data.batches import Batch, Skipped, eval_batches
from taming_cli.data.contents import Pictures
from taming_cli.data.sources import Item
from taming_cli.data.split import digest
from taming_cli.errors import UsageError
from taming_cli.evaluate.protocol import Measurement, versions
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.fp32 import exact
from taming_cli.runtime.memory import USUAL, Room, room

CHUNK = 8
"""Number of images of one size that the codec processes together. A shorter chunk is padded with its last image:
convolutions round differently for another batch size (by 1e-7), which changes single codes and pixel values."""
CHUNK_PIXELS = CHUNK * 256 * 256
"""Largest number of pixels in a chunk."""


class CodedBatch(NamedTuple):
    """Images uint8 (B, 3, H, W), their codes (B, h, w), and their reconstructions if a metric needs them."""

    items: Sequence[Item]
    originals: Tensor
    codes: Tensor
    rebuilt: Tensor | None


def chunk_size(images: Tensor) -> int:
    """The number of images (B, 3, H, W) to process together, 1 to CHUNK, so that they have at most CHUNK_PIXELS.

    A single large image keeps all cores busy; more would only take memory.
    """
    return max(1, min(CHUNK, CHUNK_PIXELS // (images.shape[2] * images.shape[3])))


class Metric(ABC):
    """A codec metric: accumulates batches, then returns its result."""

    decodes = True
    """Whether the metric needs reconstructions or only codes."""

    def __init__(self) -> None:
        self.skipped: list[Skipped] = []

    @abstractmethod
    def add(self, batch: CodedBatch) -> None:
        """Accumulate a batch of at least one image."""

    @abstractmethod
    def result(self, run: "CodecRun") -> Measurement:
        """The result over all processes, each of which must call this. UsageError for too few images."""


@dataclass(frozen=True)
class CodecRun:
    """A codec and the images to code: centre crops of `size`, or whole images at their own size."""

    codec: VQGAN
    items: Sequence[Item]
    protocol: dict[str, Any]
    size: Size | None
    workers: int
    world: World
    on_item: Callable[[int, int], None] | None
    space: Room = USUAL

    @torch.inference_mode()
    def run(self, *metrics: Metric) -> None:
        """Code this process's share of the images once and pass every batch to all metrics."""
        decodes = any(metric.decodes for metric in metrics)
        previous_shape, exactly = torch.Size(), True
        for batch in self._batches():
            for metric in metrics:
                metric.skipped += batch.skipped
            if batch.items:
                alone = len(batch.items) == 1 and batch.images.shape[1:] != previous_shape
                previous_shape = batch.images.shape[1:]
                with exact(self.codec.device):
                    coded = CodedBatch(batch.items, batch.images, *self._coded(batch.images, decodes, alone))
                    exactly &= tiles.exact(self.codec, coded.codes.shape[1], coded.codes.shape[2], self.space.decode)
                    for metric in metrics:
                        metric.add(coded)
        if decodes:
            self.protocol[DECODING] = decoding(all(self.world.gather(exactly)))

    def measure(self, metric: Metric) -> Measurement:
        """Run a single metric and return its result."""
        self.run(metric)
        return metric.result(self)

    def too_few(self, skipped: Sequence[Skipped], *, minimum: int = 1) -> UsageError:
        """The error for fewer than `minimum` readable images; it names the first unreadable one."""
        first = f"; {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        read, count = len(self.items) - len(skipped), len(self.items)
        return UsageError(f"{read} of {count} pictures can be measured, at least {minimum} are needed{first}")

    def _coded(self, images: Tensor, decodes: bool, alone: bool) -> tuple[Tensor, Tensor | None]:
        """Codes and reconstructions of a batch, computed in chunks whose size depends on the image size alone, so that
        rounding does not depend on an image's neighbours."""
        count, chunk = len(images), 1 if alone else chunk_size(images)
        images = torch.cat([images, images[-1:].expand(-count % chunk, -1, -1, -1)])
        if not decodes:
            budget = self.space.encode
            codes = [codes_of(self.codec, part, Pictures(), budget).cpu() for part in torch.split(images, chunk)]
            return torch.cat(codes)[:count], None
        parts = [round_trip(self.codec, part, Pictures(), self.space) for part in torch.split(images, chunk)]
        codes, rebuilt = [part.codes for part in parts], [part.rebuilt for part in parts]
        return torch.cat(codes)[:count], torch.cat(rebuilt)[:count]

    def _batches(self) -> Iterator[Batch]:
        items = self.items[self.world.rank :: self.world.size]
        done = 0
        reader = eval_batches(items, size=self.size, batch_size=CHUNK, workers=self.workers)
        with closing(reader):
            for batch in reader:
                yield batch
                done += len(batch.items) + len(batch.skipped)
                if self.on_item is not None:
                    self.on_item(done, len(items))


def codec_run(
    codec: Path,
    items: Sequence[Item],
    *,
    size: Size | None = None,
    workers: int = 2,
    device: torch.device,
    memory: float | None = None,
    world: World = ALONE,
    on_item: Callable[[int, int], None] | None = None,
) -> CodecRun:
    """Load the codec of a codec's or a prior's model file. Images are coded within `memory` GiB (`runtime.memory`).

    UsageError for a codec of condition maps.
    """
    network, _ = picture_codec(codec)
    protocol = {
        "codec": {
            "name": str(codec),
            "sha256": network.sha256(),
            "codebook_size": network.config.codebook_size,
            "downsample_factor": network.config.downsample_factor,
        },
        "pictures": {"listed": len(items), "list_sha256": digest(items)},
        "size": None if size is None else str(size),
        "pixels": "8-bit",
        "versions": versions(),
    }
    network = ready(network, device, torch.float32)
    return CodecRun(network, items, protocol, size, workers, world, on_item, room(device, memory))
