"""Codec metrics: reconstruction error per image, distance between distributions (rFID), and codebook usage."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taming_cli.codec.locate import codec_for, stored_codes
from taming_cli.codec.vqgan import code_counts
from taming_cli.config.codec import CodecConfig
from taming_cli.data.batches import Skipped
from taming_cli.data.images import to_float
from taming_cli.data.tokens.file import TokenFile, blocks
from taming_cli.evaluate.coding import CodecRun, CodedBatch, Metric, chunk_size
from taming_cli.evaluate.plots import histogram, pairs
from taming_cli.evaluate.protocol import Measurement, metric_name, versions, warnings_for
from taming_cli.metrics import SSIM_RADIUS, Moments, RunningMoments, frechet_distance, perplexity, psnr, ssim, usage
from taming_cli.pretrained.features import FeatureNetwork
from taming_cli.pretrained.perceptual import SMALLEST_SIDE, Perceptual

SHOWN = 4
"""The number of best and of worst reconstructions to draw."""
MAX_PSNR = 100.0
"""The PSNR in dB that an exact reconstruction counts with, instead of infinity."""


class _Row(NamedTuple):
    """The metrics of one image."""

    name: str
    values: dict[str, float]


class ReconstructionMetrics(Metric):
    """PSNR (dB), SSIM, L1 (of values in [-1, 1]), perceptual distance, and bits per pixel (log2 K for each code), by
    image and averaged. Draws the best and the worst images by PSNR, originals above reconstructions."""

    def __init__(self, perceptual: Perceptual | None, codec: CodecConfig) -> None:
        super().__init__()
        self.perceptual = perceptual
        self._bits = codec.bits_per_cell
        self._rows: list[_Row] = []
        self._extremes: list[tuple[float, str, Tensor]] = []
        self._smallest = max(2 * SSIM_RADIUS + 1, 0 if perceptual is None else SMALLEST_SIDE)

    def add(self, batch: CodedBatch) -> None:  # noqa: D102 - see Metric
        originals, rebuilt = batch.originals, batch.rebuilt
        assert rebuilt is not None
        if min(originals.shape[2:]) < self._smallest:
            self.skipped += [Skipped(item.name, f"below {self._smallest} pixels a side") for item in batch.items]
            return
        chunk = chunk_size(originals)
        chunks = zip(torch.split(originals, chunk), torch.split(rebuilt, chunk), strict=True)
        parts = [_errors(x, y, self.perceptual) for x, y in chunks]
        errors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        bits = self._bits * batch.codes[0].numel() / originals[0, 0].numel()
        for number, item in enumerate(batch.items):
            own = {name: float(values[number]) for name, values in errors.items()} | {"bits_per_pixel": bits}
            self._rows.append(_Row(item.name, own))
            self._extremes.append((own["psnr"], item.name, torch.stack([originals[number], rebuilt[number]])))
        self._extremes = _extremes(self._extremes)

    def result(self, run: CodecRun) -> Measurement:  # noqa: D102
        gathered = run.world.gather((self._rows, self.skipped, self._extremes))
        rows = sorted(row for part in gathered for row in part[0])
        skipped = [each for part in gathered for each in part[1]]
        if not rows:
            raise run.too_few(skipped)
        protocol = {**run.protocol, "perceptual": None if self.perceptual is None else self.perceptual.stamp}
        protocol["pictures"] = protocol["pictures"] | {"count": len(rows)}
        extremes = _extremes([each for part in gathered for each in part[2]])
        worst, best = ([list(each[2]) for each in some[:SHOWN]] for some in (extremes, extremes[::-1]))
        return Measurement(
            metric="reconstruction",
            values={name: sum(row.values[name] for row in rows) / len(rows) for name in rows[0].values},
            protocol=protocol,
            skipped=tuple(skipped),
            details={"by_picture": {row.name: row.values for row in rows}},
            pictures={"worst.png": pairs(worst), "best.png": pairs(best)},
        )


class ReconstructionFid(Metric):
    """The Frechet distance between images and their reconstructions (rFID), computed without writing any files."""

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__()
        self.network = network
        self._real, self._rebuilt = RunningMoments(network.dimensions), RunningMoments(network.dimensions)

    def add(self, batch: CodedBatch) -> None:  # noqa: D102
        assert batch.rebuilt is not None
        self._real.add(_features(self.network, batch.originals))
        self._rebuilt.add(_features(self.network, batch.rebuilt))

    def result(self, run: CodecRun) -> Measurement:  # noqa: D102
        gathered = run.world.gather((self._real.moments(), self._rebuilt.moments(), self.skipped))
        real = Moments.together(part[0] for part in gathered)
        rebuilt = Moments.together(part[1] for part in gathered)
        skipped = [each for part in gathered for each in part[2]]
        if real.count < 2:
            raise run.too_few(skipped, minimum=2)
        stamp = self.network.stamp
        protocol = run.protocol | {"features": stamp}
        protocol["pictures"] = protocol["pictures"] | {"count": real.count}
        return Measurement(
            metric=metric_name("rfid", "rfd", stamp),
            values={"value": frechet_distance(rebuilt.mean, rebuilt.sigma, real.mean, real.sigma)},
            protocol=protocol,
            skipped=tuple(skipped),
            warnings=warnings_for({"reference": {"count": real.count, "form": "files"}}, stamp, gaussian=True),
        )


class CodebookUsage(Metric):
    """Codebook usage: the share of codes that occur, their perplexity, and the codes that never occur, by level."""

    decodes = False

    def __init__(self, codec: CodecConfig) -> None:
        super().__init__()
        self._codec = codec
        self._counts = torch.zeros(codec.levels, codec.codebook_size, dtype=torch.int64)
        self._pictures = 0

    def add(self, batch: CodedBatch) -> None:  # noqa: D102
        self._counts += code_counts(self._codec, batch.codes)
        self._pictures += len(batch.items)

    def result(self, run: CodecRun) -> Measurement:  # noqa: D102
        gathered = run.world.gather((self._counts, self._pictures, self.skipped))
        skipped = [each for part in gathered for each in part[2]]
        pictures = sum(part[1] for part in gathered)
        if not pictures:
            raise run.too_few(skipped)
        protocol = run.protocol | {"pictures": run.protocol["pictures"] | {"count": pictures}}
        return _usage(torch.stack([part[0] for part in gathered]).sum(0), protocol, skipped)


def token_file_usage(tokens: Path, codec: Path) -> Measurement:
    """Codebook usage of a token file, over all views of its images. UsageError if another codec made it."""
    file = TokenFile(tokens)
    network, _, _ = codec_for(file.header, tokens, codec)
    counts = torch.zeros(network.config.levels, network.config.codebook_size, dtype=torch.int64)
    for rows in blocks(file):
        counts += code_counts(network.config, stored_codes(file, network, rows))
    protocol = {
        "tokens": {"name": str(tokens), "views": file.header.views, "count": len(file)},
        "codec": {"name": str(codec), "sha256": network.sha256(), "codebook_size": network.config.codebook_size},
        "versions": versions(),
    }
    return _usage(counts, protocol, [])


def _usage(counts: Tensor, protocol: dict[str, Any], skipped: list[Skipped]) -> Measurement:
    """The result for counts (levels, K), the bottom level first; names of values of the top level begin with `top_`."""
    values, details, pictures = dict[str, float](), dict[str, Any](), dict[str, Tensor]()
    for prefix, level in zip(("", "top_"), counts, strict=False):
        used, spread = usage(level), perplexity(level)
        own = {
            "codes_used": used,
            "perplexity": spread,
            "dead": float((level == 0).sum()),
            "codes_counted": float(level.sum()),
        }
        values |= {f"{prefix}{name}": value for name, value in own.items()}
        details |= {f"{prefix}dead": torch.nonzero(level == 0)[:, 0].tolist(), f"{prefix}counts": level.tolist()}
        title = f"{used:.1%} of the codes used, perplexity {spread:.0f}"
        pictures[f"{prefix}codebook.png"] = histogram(level, title)
    return Measurement(
        metric="codebook",
        values=values,
        protocol=protocol,
        skipped=tuple(skipped),
        details=details,
        pictures=pictures,
    )


def _errors(originals: Tensor, rebuilt: Tensor, perceptual: Perceptual | None) -> dict[str, Tensor]:
    """Reconstruction errors by name, each (B,)."""
    x, y = to_float(originals), to_float(rebuilt)
    errors = {
        "psnr": psnr(originals, rebuilt).clamp(max=MAX_PSNR),
        "ssim": ssim(originals, rebuilt),
        "l1": (x - y).abs().mean((1, 2, 3)),
    }
    if perceptual is not None:
        device = next(perceptual.parameters()).device
        errors[perceptual.name] = perceptual(x.to(device), y.to(device)).cpu()
    return errors


def _features(network: FeatureNetwork, pictures: Tensor) -> Tensor:
    prepared = torch.stack([network.prepare(picture) for picture in pictures])
    features: Tensor = network(prepared.to(next(network.parameters()).device)).features
    return features


def _extremes(rows: list[tuple[float, str, Tensor]]) -> list[tuple[float, str, Tensor]]:
    """The SHOWN lowest and SHOWN highest rows, sorted."""
    ordered = sorted(rows, key=lambda row: row[:2])
    return ordered if len(ordered) <= 2 * SHOWN else ordered[:SHOWN] + ordered[-SHOWN:]
