"""Drawings of results: a heat map over a grid, a histogram of code frequencies, and pairs of pictures."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from taming_cli.data.images import grid, tensor

_PAPER, _INK, _BAR = (255, 255, 255), (32, 32, 36), (52, 96, 148)
_COLD, _MIDDLE, _WARM = (24, 38, 84), (190, 84, 96), (252, 232, 164)
_SHORTEST = 320
"""The minimum length of a heat map's longer side, in pixels."""
SIDE = 224
"""The side of each picture of a pair, in pixels."""


def heat_map(values: Tensor, unit: str) -> Tensor:
    """Values (h, w) as colours, dark for the smallest, with a legend -> uint8 (3, H, W)."""
    height, width = values.shape
    side = max(1, math.ceil(_SHORTEST / max(height, width)))
    low, high = float(values.min()), float(values.max())
    scaled = ((values - low) / max(high - low, 1e-12)).double()
    cells = _colour(scaled).repeat_interleave(side, 0).repeat_interleave(side, 1)
    plot = Image.fromarray(cells.numpy())
    legend = Image.fromarray(_colour(torch.linspace(0, 1, 128).double()[None].expand(10, -1)).numpy())
    sheet = Image.new("RGB", (max(plot.width, 320) + 20, plot.height + 60), _PAPER)
    sheet.paste(plot, (10, 10))
    sheet.paste(legend, (10, plot.height + 20))
    draw = ImageDraw.Draw(sheet)
    draw.text((10, plot.height + 34), f"{low:.3g} to {high:.3g} {unit}", _INK, _font())
    return tensor(sheet)


def histogram(counts: Tensor, title: str) -> Tensor:
    """Code frequencies (K,), the most frequent first, on a logarithmic scale -> uint8 (3, H, W)."""
    width, height = 640, 240
    ordered = counts.double().sort(descending=True).values
    top = max(1.0, float(ordered[0]))
    sheet = Image.new("RGB", (width + 90, height + 70), _PAPER)
    draw = ImageDraw.Draw(sheet)
    left, base = 70, height + 20
    for power in range(math.floor(math.log10(top)) + 1):
        y = base - round(height * _share(10.0**power, top))
        draw.line([(left - 4, y), (left + width, y)], (222, 222, 226))
        draw.text((8, y - 8), f"{10**power:,}", _INK, _font())
    for column in range(width):
        first, last = column * len(ordered) // width, max(1, (column + 1) * len(ordered) // width)
        tall = round(height * _share(float(ordered[min(first, len(ordered) - 1) : max(first + 1, last)].mean()), top))
        if tall:
            draw.line([(left + column, base - tall), (left + column, base)], _BAR)
    draw.line([(left, base), (left + width, base)], _INK)
    draw.text((left, base + 8), title, _INK, _font())
    draw.text((left, base + 26), f"{len(ordered):,} codes, the most frequent first", _INK, _font())
    return tensor(sheet)


def pairs(of: Sequence[Sequence[Tensor]]) -> Tensor:
    """Pairs of pictures uint8 (3, H, W) of any size, the first of each above the second -> uint8 (3, H, W)."""
    rows = [[_padded(pair[k]) for pair in of] for k in (0, 1)]
    return grid(torch.stack([*rows[0], *rows[1]]), columns=len(of))


def _padded(picture: Tensor) -> Tensor:
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    return tensor(ImageOps.pad(image, (SIDE, SIDE), Image.Resampling.LANCZOS))


def _share(count: float, top: float) -> float:
    """The height of a bar, 0 to 1: 0 for no occurrence, a little for one, 1 for the most frequent."""
    return 0.0 if count <= 0 else (math.log10(max(count, 0.1)) + 1) / (math.log10(top) + 1)


def _colour(values: Tensor) -> Tensor:
    """(h, w) in [0, 1] -> uint8 (h, w, 3)."""
    cold, middle, warm = (torch.tensor(each, dtype=torch.float64) for each in (_COLD, _MIDDLE, _WARM))
    share = values[..., None]
    below = cold + (middle - cold) * (2 * share)
    above = middle + (warm - middle) * (2 * share - 1)
    return torch.where(share < 0.5, below, above).round().to(torch.uint8)


@lru_cache(maxsize=1)
def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(13)
