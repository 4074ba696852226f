"""Measure how much the colour of a region varies over a large picture, and over a small one of the same map.

    python scripts/spread.py PRIOR MAPS OUT [COUNT [STEPS]]

Draws the first COUNT maps (default: 10) at 512 x 336 and at 1280 x 832, each in STEPS forwards (default: 16,32,64).
The spread is the standard deviation of the mean colours of all blocks of 16 x 16 pixels that lie in one region, of
255, averaged over channels, regions of at least 5 % of the map, and maps. Where the first cells of a large picture do
not agree with one another, it grows with the size. The pictures and a sheet of each size are written into OUT.
"""

import sys
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taming_cli.data.conditions.labels import read_labels
from taming_cli.data.images import grid, write_png
from taming_cli.data.sources import list_items
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.sampling.pipeline import Pipeline

SIZES = ((512, 336), (1280, 832))
BLOCK = 16
LEAST = 0.05
"""The smallest share of the blocks that makes a region count."""


def spreads(picture: NDArray[np.uint8], labels: NDArray[np.uint8]) -> dict[int, float]:
    """The spread of the colour in each large region of a picture (H, W, 3); `labels` (H, W)."""
    rows, columns = labels.shape[0] // BLOCK, labels.shape[1] // BLOCK
    pixels = picture.astype(np.float64).reshape(rows, BLOCK, columns, BLOCK, 3).mean((1, 3)).reshape(-1, 3)
    blocks = labels.reshape(rows, BLOCK, columns, BLOCK).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    pure = (blocks == blocks[:, :1]).all(1)
    found = {}
    for label in np.unique(labels):
        inside = pure & (blocks[:, 0] == label)
        if inside.mean() >= LEAST:
            found[int(label)] = float(pixels[inside].std(0).mean())
    return found


def main(prior: str, maps: str, out: str, count: str = "10", steps: str = "16,32,64") -> None:
    """Print the table, and write pictures and sheets."""
    pipeline = Pipeline.load(prior)
    items = list_items([Path(maps)]).items[: int(count)]
    ways: list[dict[str, Any]] = [{}]
    if isinstance(pipeline.gpt, AnyOrder):
        ways = [{"sample_steps": int(each)} for each in steps.split(",")]
    print("| forwards | spread at 512 x 336 | at 1280 x 832 | ratio |")
    print("|---|---|---|---|")
    sheets: dict[int, list[Tensor]] = {width: [] for width, _ in SIZES}
    for way in ways:
        found: dict[int, list[dict[int, float]]] = {width: [] for width, _ in SIZES}
        for number, item in enumerate(items):
            for width, height in SIZES:
                settings = {**way, "size": f"{width}x{height}", "seed": number, "class_name": item.label}
                picture = pipeline.sample(cond=item.path, **settings).images[0]
                name = f"{width}-{way.get('sample_steps', 'raster')}"
                write_png(Path(out) / name / f"{number:03d}.png", picture)
                labels = np.asarray(read_labels(item.read(), item.name).resize((width, height), 0)).astype(np.uint8)
                found[width].append(spreads(picture.permute(1, 2, 0).numpy(), labels))
                step = 1 if width == SIZES[0][0] else 2
                sheets[width].append(picture[:, ::step, ::step])
        pairs = [
            [each[label] for each in both]
            for both in zip(*found.values(), strict=True)
            for label in both[0].keys() & both[1].keys()
        ]
        small, large = (mean(pair[n] for pair in pairs) for n in (0, 1))
        print(f"| {way.get('sample_steps', 'raster')} | {small:.2f} | {large:.2f} | {large / small:.2f} |", flush=True)
    for width, pictures in sheets.items():
        write_png(Path(out) / f"{width}.png", grid(torch.stack(pictures), columns=len(items)))


if __name__ == "__main__":
    main(*sys.argv[1:])
