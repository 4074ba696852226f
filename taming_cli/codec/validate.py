"""How a codec does on held-out pictures, and what that looks like."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.size import Size
from taming_cli.data.batches import eval_batches
from taming_cli.data.contents import Content
from taming_cli.data.images import grid, to_uint8
from taming_cli.data.sources import Item
from taming_cli.judges.perceptual import Perceptual
from taming_cli.metrics import perplexity, psnr, usage, use_by_rank
from taming_cli.runtime.device import autocast

AT_ONCE = 2**27
"""Bytes of a codec's input that are made at once: a one-hot map of many labels is large."""
SHOWN = 8
"""Pictures in the grid of originals above reconstructions."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Means over the pictures: `psnr` in dB of the 8-bit pictures, `l1` in [0, 2], `perceptual` the judge's distance
    (None without one); of label maps instead the share of right pixels, `accuracy`, and their `cross_entropy` in nats.
    `codes_used` is the share of the codebook that occurs at all, beside its `codebook_perplexity`; `code_use` says how
    often each part of it does, as `use_by_rank`."""

    psnr: float | None = None
    l1: float | None = None
    perceptual: float | None = None
    accuracy: float | None = None
    cross_entropy: float | None = None
    codes_used: float
    codebook_perplexity: float
    code_use: Sequence[float]
    count: int
    pictures: Tensor

    @property
    def score(self) -> float:
        """What "best" means: the smallest cross-entropy, or sum of L1 and perceptual distance, negated."""
        return -sum(value or 0.0 for value in (self.l1, self.perceptual, self.cross_entropy))

    def figures(self) -> dict[str, float]:
        """The numbers, for logs and tables."""
        names = (*_MEANS, "codes_used", "codebook_perplexity", "count")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def sheet(self) -> Tensor:
        """uint8 (3, H, W): a row of originals above a row of reconstructions."""
        return grid(self.pictures, columns=len(self.pictures) // 2)


_MEANS = ("psnr", "l1", "perceptual", "accuracy", "cross_entropy")


@torch.no_grad()
def validate(
    codec: VQGAN,
    items: Sequence[Item],
    size: Size,
    judge: Perceptual | None,
    precision: torch.dtype,
    content: Content,
) -> Validation | None:
    """Encode and decode centre crops of `size`, in the training's precision; None if no picture can be read."""
    device = codec.quantize.embedding.weight.device
    counts = torch.zeros(codec.config.codebook_size)
    totals: defaultdict[str, float] = defaultdict(float)
    shown: list[tuple[Tensor, Tensor]] = []
    images = 0
    at_once = max(1, min(8, AT_ONCE // (4 * content.channels * size.width * size.height)))
    for batch in eval_batches(items, size=size, batch_size=at_once, workers=2, content=content):
        if not len(batch.images):
            continue
        x = content.to_input(batch.images.to(device)).contiguous(memory_format=torch.channels_last)
        with autocast(device, precision):
            codes = codec.encode(x)
            x_rec = codec.decode(codes)
        for name, values in _compare(content, x, x_rec, judge, precision).items():
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
        codes_used=usage(counts),
        codebook_perplexity=perplexity(counts),
        code_use=[round(value, 4) for value in use_by_rank(counts)],
        count=images,
        pictures=torch.stack(originals + reconstructions),
    )


def _compare(
    content: Content, x: Tensor, x_rec: Tensor, judge: Perceptual | None, precision: torch.dtype
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
    if judge is not None:
        with autocast(x.device, precision):
            found["perceptual"] = judge(x, x_rec).float()
    return found
