"""How good a codec is: what it makes of pictures, pixel by pixel and in distribution, and how it uses its codebook."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import ImageOps
from PIL.Image import Resampling, fromarray
from torch import Tensor

from taming_cli.codec.locate import codec_for, picture_codec
from taming_cli.codec.reconstruct import codes_of, through
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.size import Size
from taming_cli.data.batches import Batch, Skipped, eval_batches
from taming_cli.data.contents import Pictures
from taming_cli.data.images import grid, tensor, to_float
from taming_cli.data.sources import Item, digest
from taming_cli.data.tokens import TokenFile, blocks
from taming_cli.errors import UsageError
from taming_cli.evaluate.plots import histogram
from taming_cli.evaluate.protocol import Measured, named, versions, warnings
from taming_cli.judges.features import FeatureNetwork
from taming_cli.judges.perceptual import SMALLEST_SIDE, Perceptual
from taming_cli.metrics import SSIM_RADIUS, Moments, frechet_distance, perplexity, psnr, ssim, usage
from taming_cli.runtime.distributed import ALONE, World

SHOWN = 4
"""Pictures of the worst and of the best that are shown."""
SIDE = 224
"""Pixels a side of each of them."""
AT_ONCE = 8
"""Pictures that a codec is given at once, at most."""
EXACT = 100.0
"""dB that a picture counts with which comes back exactly."""


class _Sent(NamedTuple):
    """Pictures and what the codec made of them, uint8 (B, 3, H, W)."""

    batch: Batch
    originals: Tensor
    rebuilt: Tensor


@dataclass(frozen=True)
class Sending:
    """Pictures sent through a codec and back: each its centre crop of `size`, or all of it at its own size."""

    codec: VQGAN
    items: Sequence[Item]
    about: dict[str, Any]
    size: Size | None
    batch_size: int
    workers: int
    world: World
    on_item: Callable[[int, int], None] | None

    @torch.inference_mode()
    def __iter__(self) -> Iterator[_Sent]:
        for batch in self.batches():
            there = bool(batch.items)
            yield _Sent(batch, batch.images, self._through(batch.images) if there else batch.images)

    @torch.inference_mode()
    def codes(self) -> Iterator[tuple[Batch, Tensor]]:
        """Pictures and their codes (B, h, w), without decoding them."""
        for batch in self.batches():
            found = codes_of(self.codec, batch.images, Pictures()).cpu() if batch.items else torch.empty(0, 0, 0)
            yield batch, found

    def batches(self) -> Iterator[Batch]:
        """The pictures of this process."""
        mine = self.items[self.world.rank :: self.world.size]
        done = 0
        reader = eval_batches(mine, size=self.size, batch_size=self.batch_size, workers=self.workers)
        with closing(reader):
            for batch in reader:
                yield batch
                done += len(batch.items) + len(batch.skipped)
                if self.on_item is not None:
                    self.on_item(done, len(mine))

    def _through(self, images: Tensor) -> Tensor:
        return through(self.codec, images, Pictures()).rebuilt


def sending(
    codec: Path,
    items: Sequence[Item],
    *,
    size: Size | None = None,
    batch_size: int = 8,
    workers: int = 2,
    device: torch.device,
    world: World = ALONE,
    on_item: Callable[[int, int], None] | None = None,
) -> Sending:
    """Load the codec in a codec's or a prior's model file. UsageError where it is one of condition maps, or its f does
    not divide `size`."""
    network, _ = picture_codec(codec)
    if size is not None:
        network.config.latent(size)
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
    return Sending(network, items, about, size, batch_size, workers, world, on_item)


class _Row(NamedTuple):
    """A picture's figures."""

    name: str
    figures: dict[str, float]


def recon(sent: Sending, judge: Perceptual | None) -> Measured:
    """PSNR (dB), SSIM, L1 (of [-1, 1]) and the judge's distance of each picture and in the mean, and bits per pixel:
    log2 K for each code. Those best and worst by PSNR are shown, originals above reconstructions."""
    rows: list[_Row] = []
    skipped: list[Skipped] = []
    extremes: list[tuple[float, str, Tensor]] = []
    config = sent.codec.config
    least = max(2 * SSIM_RADIUS + 1, 0 if judge is None else SMALLEST_SIDE)
    for batch, originals, rebuilt in sent:
        skipped += batch.skipped
        if not batch.items:
            continue
        if min(originals.shape[2:]) < least:
            skipped += [Skipped(item.name, f"below {least} pixels a side") for item in batch.items]
            continue
        figures = _figures(originals, rebuilt, judge, sent.codec.quant_conv.weight.device)
        height, width = originals.shape[2:]
        codes = math.ceil(height / config.downsample_factor) * math.ceil(width / config.downsample_factor)
        for number, item in enumerate(batch.items):
            own = {name: float(values[number]) for name, values in figures.items()}
            own["bits_per_pixel"] = math.log2(config.codebook_size) * codes / (height * width)
            rows.append(_Row(item.name, own))
            extremes.append((own["psnr"], item.name, torch.stack([originals[number], rebuilt[number]])))
        extremes = _outermost(extremes)
    gathered = sent.world.gather((rows, skipped, extremes))
    rows = sorted(row for part in gathered for row in part[0])
    skipped = [each for part in gathered for each in part[1]]
    if not rows:
        raise none_read(sent.items, skipped)
    means = {name: sum(row.figures[name] for row in rows) / len(rows) for name in rows[0].figures}
    about = {**sent.about, "perceptual": None if judge is None else judge.stamp}
    about["pictures"] = about["pictures"] | {"count": len(rows)}
    ends = _outermost([each for part in gathered for each in part[2]])
    return Measured(
        metric="reconstruction",
        values=means,
        protocol=about,
        skipped=tuple(skipped),
        details={"by_picture": {row.name: row.figures for row in rows}},
        pictures={"worst.png": _sheet(ends[:SHOWN]), "best.png": _sheet(ends[::-1][:SHOWN])},
    )


def rfid(sent: Sending, network: FeatureNetwork) -> Measured:
    """The Frechet distance from pictures to what the codec makes of them, in one pass and without writing any."""
    empty = Moments.of(torch.empty(0, network.dimensions))
    real, rebuilt, skipped = empty, empty, list[Skipped]()
    device = next(network.parameters()).device
    for each in sent:
        skipped += each.batch.skipped
        if each.batch.items:
            real, rebuilt = (
                moments.merge(Moments.of(_seen(network, pictures, device)))
                for moments, pictures in ((real, each.originals), (rebuilt, each.rebuilt))
            )
    for number, (other, again, passed) in enumerate(sent.world.gather((real, rebuilt, skipped))):
        if number == 0:
            real, rebuilt, skipped = other, again, passed
        else:
            real, rebuilt, skipped = real.merge(other), rebuilt.merge(again), skipped + passed
    if real.count < 2:
        raise none_read(sent.items, skipped, least=2)
    value = frechet_distance(rebuilt.mean, rebuilt.sigma, real.mean, real.sigma)
    about = sent.about | {"features": network.stamp}
    about["pictures"] = about["pictures"] | {"count": real.count}
    return Measured(
        metric=named("rfid", "rfd", network.stamp),
        values={"value": value},
        protocol=about,
        skipped=tuple(skipped),
        warnings=warnings({"reference": {"count": real.count, "form": "files"}}, network.stamp, gaussian=True),
    )


def codebook(sent: Sending) -> Measured:
    """How the codebook is used on pictures: the share of codes that occur, their perplexity, and which never do."""
    counts = torch.zeros(sent.codec.config.codebook_size, dtype=torch.int64)
    pictures, skipped = 0, list[Skipped]()
    for batch, codes in sent.codes():
        skipped += batch.skipped
        pictures += len(batch.items)
        if batch.items:
            counts += torch.bincount(codes.flatten(), minlength=len(counts))
    if not sum(sent.world.gather(pictures)):
        raise none_read(sent.items, skipped)
    return _used(counts, pictures, sent.about, skipped, sent.world)


def codebook_of(tokens: Path, codec: Path) -> Measured:
    """The same of a token file, all views of its pictures. UsageError where another codec made it."""
    file = TokenFile(tokens)
    network, _, _ = codec_for(file.header, tokens, codec)
    counts = torch.zeros(file.header.codebook_size, dtype=torch.int64)
    for rows in blocks(file):
        counts += torch.bincount(torch.from_numpy(file.codes(rows)).flatten(), minlength=len(counts))
    about = {
        "tokens": {"name": str(tokens), "views": file.header.views, "count": len(file)},
        "codec": {"name": str(codec), "sha256": network.sha256(), "codebook_size": network.config.codebook_size},
        "versions": versions(),
    }
    return _used(counts, len(file), about, [], ALONE)


def _used(counts: Tensor, pictures: int, about: dict[str, Any], skipped: list[Skipped], world: World) -> Measured:
    parts = world.gather((counts, pictures, skipped))
    counts = torch.stack([part[0] for part in parts]).sum(0)
    values = {
        "codes_used": usage(counts),
        "perplexity": perplexity(counts),
        "dead": float((counts == 0).sum()),
        "codes_counted": float(counts.sum()),
    }
    title = f"{values['codes_used']:.1%} of the codes used, perplexity {values['perplexity']:.0f}"
    return Measured(
        metric="codebook",
        values=values,
        protocol=about | {"pictures": about.get("pictures", {}) | {"count": sum(part[1] for part in parts)}},
        skipped=tuple(each for part in parts for each in part[2]),
        details={"dead": torch.nonzero(counts == 0)[:, 0].tolist(), "counts": counts.tolist()},
        pictures={"codebook.png": histogram(counts, title)},
    )


def none_read(items: Sequence[Item], skipped: Sequence[Skipped], *, least: int = 1) -> UsageError:
    """The error where fewer than `least` pictures can be measured, with the first reason."""
    first = f"; {skipped[0].name}: {skipped[0].reason}" if skipped else ""
    return UsageError(
        f"of {len(items)} pictures {len(items) - len(skipped)} can be measured, {least} or more must{first}"
    )


def _figures(originals: Tensor, rebuilt: Tensor, judge: Perceptual | None, device: torch.device) -> dict[str, Tensor]:
    x, y = to_float(originals), to_float(rebuilt)
    found = {
        "psnr": psnr(originals, rebuilt).clamp(max=EXACT),
        "ssim": ssim(originals, rebuilt),
        "l1": (x - y).abs().mean((1, 2, 3)),
    }
    if judge is not None:
        found[judge.name] = judge(x.to(device), y.to(device)).cpu()
    return found


def _seen(network: FeatureNetwork, pictures: Tensor, device: torch.device) -> Tensor:
    prepared = torch.stack([network.prepare(picture) for picture in pictures])
    features: Tensor = network(prepared.to(device)).features
    return features


def _outermost(found: list[tuple[float, str, Tensor]]) -> list[tuple[float, str, Tensor]]:
    """The SHOWN lowest and highest, in order."""
    ordered = sorted(found, key=lambda each: each[:2])
    return ordered if len(ordered) <= 2 * SHOWN else ordered[:SHOWN] + ordered[-SHOWN:]


def _sheet(found: Sequence[tuple[float, str, Tensor]]) -> Tensor:
    """Originals above reconstructions, each fitted into a square."""
    pairs = [[_fitted(picture) for picture in each[2]] for each in found]
    return grid(torch.stack([pair[0] for pair in pairs] + [pair[1] for pair in pairs]), columns=len(pairs))


def _fitted(picture: Tensor) -> Tensor:
    image = fromarray(picture.permute(1, 2, 0).numpy())
    return tensor(ImageOps.pad(image, (SIDE, SIDE), Resampling.LANCZOS))
