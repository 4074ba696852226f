"""Compare the speed of drawing with guesses and code by code, of a raster prior, in turns (A B A B).

    python scripts/speed/speculation.py PRIOR [--cond MAP] [--sizes 512x336,1280x832] [--batch 1,4,16]
        [--speculate auto] [--temperatures 1,0.8] [--top-k 0,100] [--image FILE.png]

Forwards, one after the other, and tokens are those of the picture that takes most. The seconds are medians, those of
drawing codes. `other codes` is the share of codes that rounding changed.

`--image` writes a picture of the window's size, and beside it, for each cell, how many cells were drawn in the same
forward: white is 64, black is 1. Where it is bright, the codes are easy to guess.
"""

import argparse
import math
import time
from pathlib import Path
from statistics import median

import torch

from taming_cli.config.sampling import MOST_CELLS
from taming_cli.data.images import write_png
from taming_cli.runtime.allocator import keep_freed_memory
from taming_cli.runtime.cost import synchronize
from taming_cli.sampling.draw import DrawnCodes, draw, draw_codes
from taming_cli.sampling.pipeline import Pipeline
from taming_cli.sampling.request import Request, resolve_request


def drawn(request: Request) -> tuple[float, DrawnCodes]:
    """The time to draw the codes of the samples of a request, and the codes."""
    began = time.perf_counter()
    codes = draw_codes(request, request.numbers)
    synchronize(request.model.device)
    return time.perf_counter() - began, codes


def write_runs(pipeline: Pipeline, path: Path, cond: str | None) -> None:
    """Write a picture, and the cells that were drawn together with each of its cells."""
    window, f = pipeline.gpt.config.window, pipeline.codec.config.downsample_factor
    settings = {"n": 1, "size": str(window.times(f)), "seed": 1, "speculate": str(MOST_CELLS)}
    counts = [0]
    result = draw(
        resolve_request(pipeline, settings, cond=cond), [0], on_progress=lambda done, total: counts.append(done)
    )
    runs = torch.tensor(counts).diff()
    together = runs.repeat_interleave(runs).view(window.height, window.width)  # one window is drawn in raster order
    grey = (together.log2() / math.log2(MOST_CELLS) * 255).round().byte()
    heat = grey.repeat_interleave(f, 0).repeat_interleave(f, 1).expand(3, -1, -1)
    write_png(path, torch.cat((result.images[0], heat), dim=2))


def main() -> None:
    """Print the table, or write the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("prior")
    parser.add_argument("--cond")
    parser.add_argument("--sizes", default="512x336,1280x832")
    parser.add_argument("--batch", default="1", help="pictures drawn at once")
    parser.add_argument("--speculate", default="auto")
    parser.add_argument("--temperatures", default="1,0.8")
    parser.add_argument("--top-k", default="0,100")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--image", type=Path)
    asked = parser.parse_args()
    keep_freed_memory()  # as the executable does
    pipeline = Pipeline.load(asked.prior, precision=asked.precision)
    if asked.image:
        write_runs(pipeline, asked.image, asked.cond)
        return
    drawn(resolve_request(pipeline, {"n": 1}, cond=asked.cond))  # to warm up
    print(f"{torch.get_num_threads()} threads, {pipeline.precision}")
    print(
        "| size | batch | temperature | top-k | speculate | forwards | tokens | seconds | times faster | other codes |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    settings = [
        (size, int(batch), float(temperature), int(top_k))
        for size in asked.sizes.split(",")
        for batch in asked.batch.split(",")
        for temperature in asked.temperatures.split(",")
        for top_k in asked.top_k.split(",")
    ]
    for size, batch, temperature, top_k in settings:
        common = {"n": batch, "batch_size": batch, "size": size, "temperature": temperature, "top_k": top_k, "seed": 1}
        ways = ["off", *asked.speculate.split(",")]
        requests = {way: resolve_request(pipeline, {**common, "speculate": way}, cond=asked.cond) for way in ways}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        last: dict[str, DrawnCodes] = {}
        for _ in range(asked.repeats):
            for way, request in requests.items():
                taken, last[way] = drawn(request)
                seconds[way].append(taken)
        for way, (codes, costs) in last.items():
            assert costs is not None
            forwards, tokens = max(costs)
            ratio = median(seconds["off"]) / median(seconds[way])
            other = float((codes != last["off"].codes).float().mean())
            print(
                f"| {size} | {batch} | {temperature:g} | {top_k} | {way} | {forwards:,} | {tokens:,} "
                f"| {median(seconds[way]):.2f} | {ratio:.2f} | {other:.2%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
