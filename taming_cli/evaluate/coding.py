"""Pictures sent through a codec and back, once, past everything that is measured of them on the way."""

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
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.size import Size
from taming_cli.data.batches import Batch, Skipped, eval_batches
from taming_cli.data.contents import Pictures
from taming_cli.data.sources import Item, digest
from taming_cli.errors import UsageError
from taming_cli.evaluate.protocol import Measured, versions
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.fp32 import exact
from taming_cli.runtime.memory import USUAL, Room, room

AT_ONCE = 8
"""Pictures of one size that a codec is given at once, the last of them again where there are fewer: in other batches
convolutions differ by 1e-7, which is another code or another level in some places."""
PIXELS = AT_ONCE * 256 * 256
"""Of the pictures that are computed on at once."""


class Sent(NamedTuple):
    """Pictures uint8 (B, 3, H, W), their codes (B, h, w), and what the codec made of them, where that is asked for."""

    items: Sequence[Item]
    originals: Tensor
    codes: Tensor
    rebuilt: Tensor | None


def at_once(images: Tensor) -> int:
    """How many pictures (B, 3, H, W) are computed on at once, 1 to AT_ONCE: as many as have PIXELS together.

    Large ones by themselves keep the processor busy, and more of them would only be held in memory.
    """
    return max(1, min(AT_ONCE, PIXELS // (images.shape[2] * images.shape[3])))


class Measure(ABC):
    """Something to measure: takes batches as they pass, then says its result."""

    decodes = True
    """Whether it looks at reconstructions, or at codes alone."""

    def __init__(self) -> None:
        self.skipped: list[Skipped] = []

    @abstractmethod
    def add(self, sent: Sent) -> None:
        """A batch of one picture or more."""

    @abstractmethod
    def result(self, sending: "Sending") -> Measured:
        """Of all that passed in all processes, every one of which has to call it. UsageError where it is too little."""


@dataclass(frozen=True)
class Sending:
    """Pictures for a codec: each its centre crop of `size`, or all of it at its own size."""

    codec: VQGAN
    items: Sequence[Item]
    about: dict[str, Any]
    size: Size | None
    workers: int
    world: World
    on_item: Callable[[int, int], None] | None
    space: Room = USUAL

    @torch.inference_mode()
    def past(self, *measures: Measure) -> None:
        """Send this process's part of the pictures past them, once for all."""
        decodes = any(measure.decodes for measure in measures)
        before, whole = torch.Size(), True
        for batch in self._batches():
            for measure in measures:
                measure.skipped += batch.skipped
            if batch.items:
                alone = len(batch.items) == 1 and batch.images.shape[1:] != before
                before = batch.images.shape[1:]
                with exact(self.codec.quant_conv.weight.device):
                    sent = Sent(batch.items, batch.images, *self._coded(batch.images, decodes, alone))
                    whole &= tiles.exact(self.codec, sent.codes.shape[1], sent.codes.shape[2], self.space.decode)
                    for measure in measures:
                        measure.add(sent)
        if decodes:
            self.about[DECODING] = decoding(all(self.world.gather(whole)))

    def measured(self, measure: Measure) -> Measured:
        """What one of them finds."""
        self.past(measure)
        return measure.result(self)

    def none_read(self, skipped: Sequence[Skipped], *, least: int = 1) -> UsageError:
        """The error where fewer than `least` pictures can be measured, with the first reason."""
        first = f"; {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        read, count = len(self.items) - len(skipped), len(self.items)
        return UsageError(f"{read} of {count} pictures can be measured, {least} or more are needed{first}")

    def _coded(self, images: Tensor, decodes: bool, alone: bool) -> tuple[Tensor, Tensor | None]:
        """Codes and reconstructions of a batch. What is computed at once is as many pictures as their size allows,
        whatever the batch holds, so that rounding does not depend on a picture's neighbours."""
        count, some = len(images), 1 if alone else at_once(images)
        images = torch.cat([images, images[-1:].expand(-count % some, -1, -1, -1)])
        if not decodes:
            budget = self.space.encode
            codes = [codes_of(self.codec, part, Pictures(), budget).cpu() for part in torch.split(images, some)]
            return torch.cat(codes)[:count], None
        found = [round_trip(self.codec, part, Pictures(), self.space) for part in torch.split(images, some)]
        codes, rebuilt = [each.codes for each in found], [each.rebuilt for each in found]
        return torch.cat(codes)[:count], torch.cat(rebuilt)[:count]

    def _batches(self) -> Iterator[Batch]:
        mine = self.items[self.world.rank :: self.world.size]
        done = 0
        reader = eval_batches(mine, size=self.size, batch_size=AT_ONCE, workers=self.workers)
        with closing(reader):
            for batch in reader:
                yield batch
                done += len(batch.items) + len(batch.skipped)
                if self.on_item is not None:
                    self.on_item(done, len(mine))


def sending(
    codec: Path,
    items: Sequence[Item],
    *,
    size: Size | None = None,
    workers: int = 2,
    device: torch.device,
    memory: float | None = None,
    world: World = ALONE,
    on_item: Callable[[int, int], None] | None = None,
) -> Sending:
    """Load the codec in a codec's or a prior's model file. Pictures are coded in
    `memory` GiB (`room`). UsageError where it is one of condition maps."""
    network, _ = picture_codec(codec)
    about = {
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
    network = network.to(device).to(memory_format=torch.channels_last)
    return Sending(network, items, about, size, workers, world, on_item, room(device, memory))
