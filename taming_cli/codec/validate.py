"""Validation of a codec on held-out pictures: figures, and a sheet of reconstructions."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.codec.perturb import Perturbation
from taming_cli.codec.state import Criterion
from taming_cli.codec.vqgan import VQGAN, code_counts
from taming_cli.config.size import Size
from taming_cli.data.batches import eval_batches
from taming_cli.data.contents import Content
from taming_cli.data.images import grid, to_uint8
from taming_cli.data.sources import Item
from taming_cli.errors import BadFileError
from taming_cli.metrics import Moments, frechet_distance, perplexity, psnr, usage, use_by_rank
from taming_cli.pretrained.perceptual import Features, Perceptual
from taming_cli.runtime.device import autocast

AT_ONCE = 2**27
"""Largest number of bytes of a codec's input at once: a one-hot map of many labels is large."""
SHOWN = 8
"""Pictures on the sheet of originals above reconstructions."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Means over the held-out pictures.

    `psnr` is in dB, of the 8-bit pictures, and `perturbed_psnr` that of perturbed codes, None without a perturbation;
    `l1` in [0, 2]; `perceptual` is the perceptual distance, None without its network; `texture` is the distance
    of local features, see `Textures`. Label maps have instead `accuracy`, the share of correct pixels, and
    `cross_entropy` in nats per pixel. `codes_used` is the share of the codebook that occurs, beside its
    `codebook_perplexity`, and `code_use` the result of `use_by_rank`. With two levels of codes these are the bottom
    level's, and `top_codes_used` and `top_codebook_perplexity` the top level's. `count` is the number of pictures.
    `pictures` holds originals, then reconstructions.
    """

    psnr: float | None = None
    perturbed_psnr: float | None = None
    l1: float | None = None
    perceptual: float | None = None
    texture: float | None = None
    accuracy: float | None = None
    cross_entropy: float | None = None
    codes_used: float
    codebook_perplexity: float
    top_codes_used: float | None = None
    top_codebook_perplexity: float | None = None
    code_use: Sequence[float]
    count: int
    pictures: Tensor

    def criterion(self, *, adversarial: bool) -> Criterion:
        """The criterion for the best model: the texture distance for a model trained with the `adversarial` term, which
        trades L1 and perceptual distance for texture; otherwise, and where no texture distance was measured, the
        cross-entropy or the sum of L1 and perceptual distance.
        """
        if adversarial and self.texture is not None:
            return Criterion("texture", self.texture)
        names = ("cross_entropy",) if self.cross_entropy is not None else ("l1", "perceptual")
        values = {name: value for name in names if (value := getattr(self, name)) is not None}
        return Criterion(" + ".join(values), sum(values.values()))

    def figures(self) -> dict[str, float]:
        """The figures, for logs and tables."""
        names = (*_MEANS, *(f"{level}{name}" for level in _LEVELS for name in _USE), "count")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def sheet(self) -> Tensor:
        """uint8 (3, H, W): a row of originals above a row of reconstructions."""
        return grid(self.pictures, columns=len(self.pictures) // 2)


_MEANS = ("psnr", "perturbed_psnr", "l1", "perceptual", "texture", "accuracy", "cross_entropy")
_LEVELS = ("", "top_")
_USE = ("codes_used", "codebook_perplexity")


def codebook_figures(counts: Tensor) -> dict[str, float]:
    """The share of codes that occur and their perplexity, from counts (levels, K), the bottom level first."""
    figures = [(usage(level), perplexity(level)) for level in counts]
    return {
        f"{prefix}{name}": value
        for prefix, values in zip(_LEVELS, figures, strict=False)
        for name, value in zip(_USE, values, strict=True)
    }


class Textures:
    """Compares the textures of reconstructions and originals, regardless of their position: the Frechet distance
    between the perceptual network's local features of both, averaged over its stages.

    The features of each stage, normalised to length 1, are averaged over the cells of a grid of at most CELLS a side,
    and the cells of all pictures are the samples. So a few pictures suffice for a covariance, for which the features of
    whole pictures would be too few. The distance responds to blur, and hardly to a shift by a pixel, as a PatchGAN
    does.
    """

    def __init__(self) -> None:
        self._real: list[Moments] = []
        self._rebuilt: list[Moments] = []

    def add(self, real: Features, rebuilt: Features) -> None:
        """Add a batch of originals and its reconstructions."""
        self._real = _merged(self._real, real)
        self._rebuilt = _merged(self._rebuilt, rebuilt)

    def distance(self) -> float | None:
        """The distance, at least 0; NaN where a feature was not finite, and None where nothing was added."""
        if not self._real:
            return None
        try:
            distances = [
                frechet_distance(rebuilt.mean, rebuilt.sigma, real.mean, real.sigma)
                for real, rebuilt in zip(self._real, self._rebuilt, strict=True)
            ]
        except BadFileError:
            return math.nan
        return sum(distances) / len(distances)


CELLS = 16
"""Largest number of cells a side of the grid over which local features are averaged."""


def _merged(before: Sequence[Moments], features: Features) -> list[Moments]:
    cells = [
        F.adaptive_avg_pool2d(stage, (min(CELLS, stage.shape[2]), min(CELLS, stage.shape[3])))
        .permute(0, 2, 3, 1)
        .flatten(0, 2)
        for stage in features.stages
    ]
    moments = [Moments.of(stage) for stage in cells]  # of (B h w, C)
    return [one.merge(other) for one, other in zip(before, moments, strict=True)] if before else moments


@torch.no_grad()
def validate(
    codec: VQGAN,
    items: Sequence[Item],
    size: Size,
    perceptual: Perceptual | None,
    precision: torch.dtype,
    content: Content,
    texture: bool = False,
    perturb: Perturbation | None = None,
) -> Validation | None:
    """Encode and decode centre crops of `size` in the precision of the training; None if no picture can be read.

    With a perceptual network and `texture`, the texture distance is measured too. With `perturb`, pictures are also
    decoded from perturbed codes, the same in each validation; all other figures are those of true codes.
    """
    device = codec.device
    counts = torch.zeros(codec.config.levels, codec.config.codebook_size)
    totals: defaultdict[str, float] = defaultdict(float)
    shown: list[tuple[Tensor, Tensor]] = []
    images, textures = 0, Textures() if texture else None
    at_once = max(1, min(8, AT_ONCE // (4 * content.channels * size.width * size.height)))
    for batch in eval_batches(items, size=size, batch_size=at_once, workers=2, content=content):
        if not len(batch.images):
            continue
        x = content.to_input(batch.images.to(device)).contiguous(memory_format=torch.channels_last)
        with autocast(device, precision):
            codes = codec.encode(x)
            x_rec = codec.decode(codes)
        for name, values in _compare(content, x, x_rec, perceptual, precision, textures).items():
            totals[name] += values.double().sum().item()
        if perturb is not None and not content.categorical:
            with autocast(device, precision):
                perturbed = codec.decode(perturb(codes, images)).clamp(-1, 1)
            totals["perturbed_psnr"] += psnr(to_uint8(x), to_uint8(perturbed), data_range=255).double().sum().item()
        counts += code_counts(codec.config, codes.cpu())
        if len(shown) < SHOWN:
            shown += zip(content.show(x).cpu(), content.show(x_rec).cpu(), strict=True)
        images += len(x)
    if not images:
        return None
    originals, reconstructions = zip(*shown[:SHOWN], strict=True)
    return Validation(
        **{name: total / images for name, total in totals.items()},
        texture=textures.distance() if textures is not None else None,
        **codebook_figures(counts),
        code_use=[round(value, 4) for value in use_by_rank(counts[0])],
        count=images,
        pictures=torch.stack(originals + reconstructions),
    )


def _compare(
    content: Content,
    x: Tensor,
    x_rec: Tensor,
    perceptual: Perceptual | None,
    precision: torch.dtype,
    textures: Textures | None,
) -> dict[str, Tensor]:
    """Figures of each picture, (B,), from inputs and outputs (B, C, H, W)."""
    if content.categorical:
        labels = x.argmax(1)
        return {
            "accuracy": (x_rec.argmax(1) == labels).float().mean((1, 2)),
            "cross_entropy": F.cross_entropy(x_rec, labels, reduction="none").mean((1, 2)),
        }
    x_rec = x_rec.clamp(-1, 1)
    figures = {
        "psnr": psnr(to_uint8(x), to_uint8(x_rec), data_range=255),
        "l1": (x - x_rec).abs().mean((1, 2, 3)),
    }
    if perceptual is not None:
        with autocast(x.device, precision):
            real, rebuilt = perceptual.features(x), perceptual.features(x_rec)
            figures["perceptual"] = perceptual.between(real, rebuilt).float()
        if textures is not None:
            textures.add(real, rebuilt)
    return figures
