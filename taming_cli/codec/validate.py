"""How a codec does on held-out pictures, and what that looks like."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.size import Size
from taming_cli.data.batches import eval_batches
from taming_cli.data.images import grid, to_float, to_uint8, write_png
from taming_cli.data.sources import Item
from taming_cli.judges.perceptual import Perceptual
from taming_cli.metrics import perplexity, psnr, usage
from taming_cli.runtime.device import autocast

SHOWN = 8
"""Pictures in the grid of originals above reconstructions."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Means over the pictures: `psnr` in dB of the 8-bit pictures, `l1` in [0, 2], `perceptual` the judge's distance
    (None without one); `codes_used` the share of the codebook that occurs at all, and its `codebook_perplexity`."""

    psnr: float
    l1: float
    perceptual: float | None
    codes_used: float
    codebook_perplexity: float
    count: int
    pictures: Tensor

    @property
    def score(self) -> float:
        """What "best" means: the smallest sum of L1 and perceptual distance, negated."""
        return -(self.l1 + (self.perceptual or 0.0))

    def figures(self) -> dict[str, float]:
        """The numbers, for logs and tables."""
        names = ("psnr", "l1", "perceptual", "codes_used", "codebook_perplexity", "count")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def save_pictures(self, path: Path) -> None:
        """A PNG: a row of originals above a row of reconstructions."""
        write_png(path, grid(self.pictures, columns=len(self.pictures) // 2))


@torch.no_grad()
def validate(
    codec: VQGAN, items: Sequence[Item], size: Size, judge: Perceptual | None, precision: torch.dtype
) -> Validation | None:
    """Encode and decode centre crops of `size`, in the training's precision; None if no picture can be read."""
    device = codec.quantize.embedding.weight.device
    counts = torch.zeros(codec.config.codebook_size)
    totals = {"psnr": 0.0, "l1": 0.0, "perceptual": 0.0}
    shown: list[tuple[Tensor, Tensor]] = []
    images = 0
    for batch in eval_batches(items, size=size, batch_size=8, workers=2):
        if not len(batch.images):
            continue
        x = to_float(batch.images.to(device)).contiguous(memory_format=torch.channels_last)
        with autocast(device, precision):
            codes = codec.encode(x)
            x_rec = codec.decode(codes).clamp(-1, 1)
            if judge is not None:
                totals["perceptual"] += judge(x, x_rec).float().sum().item()
        rec = to_uint8(x_rec).cpu()
        totals["psnr"] += psnr(batch.images, rec, data_range=255).sum().item()
        totals["l1"] += (x - x_rec).abs().mean((1, 2, 3)).sum().item()
        counts += torch.bincount(codes.flatten().cpu(), minlength=len(counts))
        shown += zip(batch.images, rec, strict=True)
        images += len(rec)
    if not images:
        return None
    originals, reconstructions = zip(*shown[:SHOWN], strict=True)
    return Validation(
        psnr=totals["psnr"] / images,
        l1=totals["l1"] / images,
        perceptual=totals["perceptual"] / images if judge is not None else None,
        codes_used=usage(counts),
        codebook_perplexity=perplexity(counts),
        count=images,
        pictures=torch.stack(originals + reconstructions),
    )
