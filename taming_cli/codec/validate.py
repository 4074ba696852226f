"""How a codec does on held-out pictures, and what that looks like."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.codec.state import Criterion
from taming_cli.codec.vqgan import VQGAN
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
"""Bytes of a codec's input that are made at once: a one-hot map of many labels is large."""
SHOWN = 8
"""Pictures in the grid of originals above reconstructions."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Means over the pictures: `psnr` in dB of the 8-bit pictures, `l1` in [0, 2], `perceptual` the perceptual distance
    (None without one); of label maps instead the share of right pixels, `accuracy`, and their `cross_entropy` in nats.
    `texture` is the distance of the reconstructions' local features from the originals', see `Textures`.
    `codes_used` is the share of the codebook that occurs at all, beside its `codebook_perplexity`; `code_use` says how
    often each part of it does, as `use_by_rank`."""

    psnr: float | None = None
    l1: float | None = None
    perceptual: float | None = None
    texture: float | None = None
    accuracy: float | None = None
    cross_entropy: float | None = None
    codes_used: float
    codebook_perplexity: float
    code_use: Sequence[float]
    count: int
    pictures: Tensor

    def criterion(self, *, adversarial: bool) -> Criterion:
        """What `best` goes by. With the `adversarial` term, which trades L1 and perceptual distance for texture, it is
        the texture distance, where it was measured; otherwise the cross-entropy, or the sum of L1 and perceptual
        distance.
        """
        if adversarial and self.texture is not None:
            return Criterion("texture", self.texture)
        names = ("cross_entropy",) if self.cross_entropy is not None else ("l1", "perceptual")
        values = {name: value for name in names if (value := getattr(self, name)) is not None}
        return Criterion(" + ".join(values), sum(values.values()))

    def figures(self) -> dict[str, float]:
        """The numbers, for logs and tables."""
        names = (*_MEANS, "codes_used", "codebook_perplexity", "count")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def sheet(self) -> Tensor:
        """uint8 (3, H, W): a row of originals above a row of reconstructions."""
        return grid(self.pictures, columns=len(self.pictures) // 2)


_MEANS = ("psnr", "l1", "perceptual", "texture", "accuracy", "cross_entropy")


class Textures:
    """Whether reconstructions are made of the same textures as the originals, wherever those lie: the Frechet distance
    between the perceptual network's local features of both, the mean over its stages.

    Each stage's features, of length one, are averaged over the cells of a grid of at most CELLS a side, and the cells
    of all pictures are the samples. So a few pictures are enough, where the features of whole pictures would be too few
    to have a covariance. Blur shows in it, and a shift by a pixel does not: what a PatchGAN is for.
    """

    def __init__(self) -> None:
        self._real: list[Moments] = []
        self._seen: list[Moments] = []

    def add(self, real: Features, seen: Features) -> None:
        """Take in a batch."""
        self._real = _joined(self._real, real)
        self._seen = _joined(self._seen, seen)

    def distance(self) -> float | None:
        """The distance, at least 0; NaN where a feature was not finite, and None where nothing was added."""
        if not self._real:
            return None
        try:
            apart = [
                frechet_distance(seen.mean, seen.sigma, real.mean, real.sigma)
                for real, seen in zip(self._real, self._seen, strict=True)
            ]
        except BadFileError:
            return math.nan
        return sum(apart) / len(apart)


CELLS = 16
"""Cells a side of the grid that local features are averaged over."""


def _joined(before: Sequence[Moments], features: Features) -> list[Moments]:
    cells = [
        F.adaptive_avg_pool2d(stage, (min(CELLS, stage.shape[2]), min(CELLS, stage.shape[3])))
        .permute(0, 2, 3, 1)
        .flatten(0, 2)
        for stage in features.stages
    ]
    found = [Moments.of(stage) for stage in cells]  # of (B h w, C)
    return [one.merge(other) for one, other in zip(before, found, strict=True)] if before else found


@torch.no_grad()
def validate(
    codec: VQGAN,
    items: Sequence[Item],
    size: Size,
    perceptual: Perceptual | None,
    precision: torch.dtype,
    content: Content,
    texture: bool = False,
) -> Validation | None:
    """Encode and decode centre crops of `size`, in the training's precision; None if no picture can be read.

    With a perceptual network and `texture`, the texture distance is measured too.
    """
    device = codec.quantize.embedding.weight.device
    counts = torch.zeros(codec.config.codebook_size)
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
        counts += torch.bincount(codes.flatten().cpu(), minlength=len(counts))
        if len(shown) < SHOWN:
            shown += zip(content.show(x).cpu(), content.show(x_rec).cpu(), strict=True)
        images += len(x)
    if not images:
        return None
    originals, reconstructions = zip(*shown[:SHOWN], strict=True)
    return Validation(
        **{name: total / images for name, total in totals.items()},
        texture=textures.distance() if textures is not None else None,
        codes_used=usage(counts),
        codebook_perplexity=perplexity(counts),
        code_use=[round(value, 4) for value in use_by_rank(counts)],
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
    """Figures of each picture, (B,): of inputs and outputs (B, C, H, W)."""
    if content.categorical:
        labels = x.argmax(1)
        return {
            "accuracy": (x_rec.argmax(1) == labels).float().mean((1, 2)),
            "cross_entropy": F.cross_entropy(x_rec, labels, reduction="none").mean((1, 2)),
        }
    x_rec = x_rec.clamp(-1, 1)
    found = {
        "psnr": psnr(to_uint8(x), to_uint8(x_rec), data_range=255),
        "l1": (x - x_rec).abs().mean((1, 2, 3)),
    }
    if perceptual is not None:
        with autocast(x.device, precision):
            real, seen = perceptual.features(x), perceptual.features(x_rec)
            found["perceptual"] = perceptual.between(real, seen).float()
        if textures is not None:
            textures.add(real, seen)
    return found
