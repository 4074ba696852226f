"""How good a codec is: what it makes of pictures, pixel by pixel and in distribution, and how it uses its codebook."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import ImageOps
from PIL.Image import Resampling, fromarray
from torch import Tensor

from taming_cli.codec.locate import codec_for
from taming_cli.data.batches import Skipped
from taming_cli.data.images import grid, tensor, to_float
from taming_cli.data.tokens.file import TokenFile, blocks
from taming_cli.evaluate.coding import Measure, Sending, Sent, at_once
from taming_cli.evaluate.plots import histogram
from taming_cli.evaluate.protocol import Measured, named, versions, warnings
from taming_cli.metrics import SSIM_RADIUS, Moments, RunningMoments, frechet_distance, perplexity, psnr, ssim, usage
from taming_cli.pretrained.features import FeatureNetwork
from taming_cli.pretrained.perceptual import SMALLEST_SIDE, Perceptual

SHOWN = 4
"""Pictures of the worst and of the best that are shown."""
SIDE = 224
"""Pixels a side of each of them."""
EXACT = 100.0
"""dB that a picture counts with which comes back exactly."""


class _Row(NamedTuple):
    """A picture's figures."""

    name: str
    figures: dict[str, float]


class Reconstruction(Measure):
    """PSNR (dB), SSIM, L1 (of [-1, 1]) and the perceptual distance of each picture and in the mean, and bits per pixel:
    log2 K for each code. Those best and worst by PSNR are shown, originals above reconstructions."""

    def __init__(self, perceptual: Perceptual | None, codebook_size: int) -> None:
        super().__init__()
        self.perceptual = perceptual
        self._bits = math.log2(codebook_size)
        self._rows: list[_Row] = []
        self._extremes: list[tuple[float, str, Tensor]] = []
        self._least = max(2 * SSIM_RADIUS + 1, 0 if perceptual is None else SMALLEST_SIDE)

    def add(self, sent: Sent) -> None:  # noqa: D102 - as of Measure
        originals, rebuilt = sent.originals, sent.rebuilt
        assert rebuilt is not None
        if min(originals.shape[2:]) < self._least:
            self.skipped += [Skipped(item.name, f"below {self._least} pixels a side") for item in sent.items]
            return
        some = at_once(originals)
        parts = zip(torch.split(originals, some), torch.split(rebuilt, some), strict=True)
        found = [_figures(before, after, self.perceptual) for before, after in parts]
        figures = {name: torch.cat([each[name] for each in found]) for name in found[0]}
        bits = self._bits * sent.codes[0].numel() / originals[0, 0].numel()
        for number, item in enumerate(sent.items):
            own = {name: float(values[number]) for name, values in figures.items()} | {"bits_per_pixel": bits}
            self._rows.append(_Row(item.name, own))
            self._extremes.append((own["psnr"], item.name, torch.stack([originals[number], rebuilt[number]])))
        self._extremes = _outermost(self._extremes)

    def result(self, sending: Sending) -> Measured:  # noqa: D102
        gathered = sending.world.gather((self._rows, self.skipped, self._extremes))
        rows = sorted(row for part in gathered for row in part[0])
        skipped = [each for part in gathered for each in part[1]]
        if not rows:
            raise sending.none_read(skipped)
        about = {**sending.about, "perceptual": None if self.perceptual is None else self.perceptual.stamp}
        about["pictures"] = about["pictures"] | {"count": len(rows)}
        ends = _outermost([each for part in gathered for each in part[2]])
        return Measured(
            metric="reconstruction",
            values={name: sum(row.figures[name] for row in rows) / len(rows) for name in rows[0].figures},
            protocol=about,
            skipped=tuple(skipped),
            details={"by_picture": {row.name: row.figures for row in rows}},
            pictures={"worst.png": _sheet(ends[:SHOWN]), "best.png": _sheet(ends[::-1][:SHOWN])},
        )


class Distribution(Measure):
    """The Frechet distance from pictures to what the codec makes of them (rFID), without writing any."""

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__()
        self.network = network
        self._real, self._rebuilt = RunningMoments(network.dimensions), RunningMoments(network.dimensions)

    def add(self, sent: Sent) -> None:  # noqa: D102
        assert sent.rebuilt is not None
        self._real.add(_seen(self.network, sent.originals))
        self._rebuilt.add(_seen(self.network, sent.rebuilt))

    def result(self, sending: Sending) -> Measured:  # noqa: D102
        gathered = sending.world.gather((self._real.moments(), self._rebuilt.moments(), self.skipped))
        real = Moments.together(part[0] for part in gathered)
        rebuilt = Moments.together(part[1] for part in gathered)
        skipped = [each for part in gathered for each in part[2]]
        if real.count < 2:
            raise sending.none_read(skipped, least=2)
        stamp = self.network.stamp
        about = sending.about | {"features": stamp}
        about["pictures"] = about["pictures"] | {"count": real.count}
        return Measured(
            metric=named("rfid", "rfd", stamp),
            values={"value": frechet_distance(rebuilt.mean, rebuilt.sigma, real.mean, real.sigma)},
            protocol=about,
            skipped=tuple(skipped),
            warnings=warnings({"reference": {"count": real.count, "form": "files"}}, stamp, gaussian=True),
        )


class Codebook(Measure):
    """How the codebook is used on pictures: the share of codes that occur, their perplexity, and which never do."""

    decodes = False

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        self._counts = torch.zeros(codebook_size, dtype=torch.int64)
        self._pictures = 0

    def add(self, sent: Sent) -> None:  # noqa: D102
        self._counts += torch.bincount(sent.codes.flatten(), minlength=len(self._counts))
        self._pictures += len(sent.items)

    def result(self, sending: Sending) -> Measured:  # noqa: D102
        gathered = sending.world.gather((self._counts, self._pictures, self.skipped))
        skipped = [each for part in gathered for each in part[2]]
        pictures = sum(part[1] for part in gathered)
        if not pictures:
            raise sending.none_read(skipped)
        about = sending.about | {"pictures": sending.about["pictures"] | {"count": pictures}}
        return _used(torch.stack([part[0] for part in gathered]).sum(0), about, skipped)


def codebook_of(tokens: Path, codec: Path) -> Measured:
    """What `Codebook` says, of a token file: all views of its pictures. UsageError where another codec made it."""
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
    return _used(counts, about, [])


def _used(counts: Tensor, about: dict[str, Any], skipped: list[Skipped]) -> Measured:
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
        protocol=about,
        skipped=tuple(skipped),
        details={"dead": torch.nonzero(counts == 0)[:, 0].tolist(), "counts": counts.tolist()},
        pictures={"codebook.png": histogram(counts, title)},
    )


def _figures(originals: Tensor, rebuilt: Tensor, perceptual: Perceptual | None) -> dict[str, Tensor]:
    x, y = to_float(originals), to_float(rebuilt)
    found = {
        "psnr": psnr(originals, rebuilt).clamp(max=EXACT),
        "ssim": ssim(originals, rebuilt),
        "l1": (x - y).abs().mean((1, 2, 3)),
    }
    if perceptual is not None:
        device = next(perceptual.parameters()).device
        found[perceptual.name] = perceptual(x.to(device), y.to(device)).cpu()
    return found


def _seen(network: FeatureNetwork, pictures: Tensor) -> Tensor:
    prepared = torch.stack([network.prepare(picture) for picture in pictures])
    features: Tensor = network(prepared.to(next(network.parameters()).device)).features
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
