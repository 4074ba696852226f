"""Measure completions: the step across the border of what was drawn, and the error of its colour.

    python scripts/borders.py PRIOR PICTURES OUT [MAPS [COUNT [CANDIDATES]]]

Completes a band and a hole in each of the first COUNT pictures (default: 60), with its segmentation map if MAPS is
given. Known and drawn codes are decoded together, and compared with the picture's own codes, decoded. The step is the
mean absolute difference of the pixels on both sides of the border of the drawn cells, by the side of these cells that
it is on, over that of the same pixels without a hole. The error of the colour is the mean absolute difference between
the mean colours of the drawn cells with and without a hole, of 255.
"""

import math
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from taming_cli.data.conditions.pairs import partners
from taming_cli.data.images import EXTENSIONS, write_png
from taming_cli.data.sources import list_items
from taming_cli.sampling.pipeline import Pipeline

SIDES = {"top": (-1, 0), "bottom": (1, 0), "left": (0, -1), "right": (0, 1)}
Mask = NDArray[np.bool_]


def holes(height: int, width: int, number: int) -> dict[str, Mask]:
    """A band of a third of the height, and a hole with an uneven outline at a random place."""
    band = np.zeros((height, width), bool)
    band[height // 3 : 2 * height // 3] = True
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:height, :width]
    dy, dx = y - height * rng.uniform(0.3, 0.7), x - width * rng.uniform(0.3, 0.7)
    angle, radius = np.arctan2(dy, dx), min(height, width) * 0.3
    waves = [rng.normal() / k * np.cos(k * angle + rng.uniform(0, math.tau)) for k in (2, 3, 5)]
    outline = radius * (1 + 0.25 * np.sum(waves, axis=0))
    return {"band": band, "hole": np.hypot(dy, dx) < outline}


def steps(pixels: NDArray[np.uint8], drawn: Mask) -> dict[str, float]:
    """The mean absolute difference across the border of `drawn`, by side."""
    found = {}
    values = pixels.astype(np.float64)
    for side, (down, across) in SIDES.items():
        beyond = np.roll(drawn, (-down, -across), (0, 1))
        inner = drawn & ~beyond
        inner[[0, -1]] = inner[:, [0, -1]] = False
        if inner.any():
            found[side] = float(np.abs(values - np.roll(values, (-down, -across), (0, 1)))[inner].mean())
    return found


def cells(mask: Mask, f: int) -> Mask:
    """The pixels of all cells that a mask touches; its sides are multiples of f."""
    return F.interpolate(F.max_pool2d(torch.from_numpy(mask)[None, None].float(), f), scale_factor=f)[0, 0].numpy() > 0


def main(
    prior: str, pictures: str, out: str, maps: str | None = None, count: str = "60", candidates: str = "1"
) -> None:
    """Print the table, and write the completed pictures."""
    pipeline = Pipeline.load(prior)
    items = list_items([Path(pictures)]).items[: int(count)]
    found = partners(items, Path(maps), EXTENSIONS).maps if maps else {}
    ratios: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    errors: dict[str, list[float]] = defaultdict(list)
    Path(out).mkdir(parents=True, exist_ok=True)
    for number, item in enumerate(items):
        with Image.open(item.path) as image:
            original = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
        whole = pipeline.decode(pipeline.encode(original))[0].permute(1, 2, 0).numpy()
        height, width = original.shape[2:]
        for name, mask in holes(int(height), int(width), number).items():
            Image.fromarray(mask).save(Path(out) / "mask.png")
            more: dict[str, Any] = {"cond": found[item.name].path} if item.name in found else {}
            settings = {"seed": number, "candidates": int(candidates), "keep": "codes", **more}
            done = pipeline.complete(item.path, Path(out) / "mask.png", **settings).images[0]
            write_png(Path(out) / f"{number:03d}-{name}.png", done)
            pixels, drawn = done.permute(1, 2, 0).numpy(), cells(mask, pipeline.codec.config.downsample_factor)
            true = steps(whole, drawn)
            for side, step in steps(pixels, drawn).items():
                ratios[name, side].append((step, true[side]))
            errors[name].append(float(np.abs(pixels[drawn].mean(0) - whole[drawn].mean(0)).mean()))
    print("| mask | top | bottom | left | right | error of the colour |")
    print("|---|---|---|---|---|---|")
    for name, error in errors.items():
        row = [
            f"{mean(a for a, _ in pairs) / mean(b for _, b in pairs):.2f}" if (pairs := ratios[name, side]) else "-"
            for side in SIDES
        ]
        print(f"| {name} | {' | '.join(row)} | {mean(error):.1f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
