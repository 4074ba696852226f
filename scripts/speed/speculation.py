"""Compare the speed of drawing with guesses and code by code, of a raster prior, in turns (A B A B).

    python scripts/speed/speculation.py PRIOR [--cond MAP] [--sizes 512x336,1280x832] [--batch 1,4,16]
        [--speculate auto] [--temperatures 1,0.8] [--top-k 0,100] [--image FILE.png [--pictures 16]]

Forwards, one after the other, and tokens are those of the picture that takes most. The seconds are medians, those of
drawing codes. `other codes` is the share of codes that rounding changed.

`--image` writes a picture of the window's size, and beside it, for each cell, the share of its guesses that were right,
over `--pictures` with 16 cells in a forward: white where all were.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import ClassVar

import torch
from torch import Tensor

from taming_cli.data.images import write_png
from taming_cli.prior.raster import generate
from taming_cli.prior.raster.speculation import GuessedRows
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


class ReadRows(GuessedRows):
    """Rows that keep what the forwards read: the number of the first guess of each, and its guesses."""

    reads: ClassVar[list[tuple[int, Tensor]]] = []

    def last(self, count: int) -> Tensor:
        """As in the base class."""
        codes = super().last(count)
        self.reads.append((self.drawn[0], codes[0, 1:]))
        return codes


def write_guesses(pipeline: Pipeline, path: Path, cond: str | None, pictures: int) -> None:
    """Write a picture, and beside it the share of right guesses of each cell, over so many pictures."""
    window, f = pipeline.gpt.config.window, pipeline.codec.config.downsample_factor
    settings = {"n": pictures, "size": str(window.times(f)), "seed": 1, "speculate": "16"}
    request = resolve_request(pipeline, settings, cond=cond)
    read, right = torch.zeros(2, window.height * window.width)
    setattr(generate, "GuessedRows", ReadRows)  # noqa: B010 - what the sampler builds
    images = []
    for number in request.numbers:
        ReadRows.reads.clear()
        result = draw(request, [number])
        images.append(result.images[0])
        codes = result.codes.flatten()  # a window: in raster order
        for first, guesses in ReadRows.reads:
            cells = slice(first, min(first + len(guesses), len(codes)))
            read[cells] += 1
            right[cells] += codes[cells] == guesses[: cells.stop - first]
    share = (right / read.clamp(min=1)).view(window.height, window.width)
    heat = (255 * share).round().byte().repeat_interleave(f, 0).repeat_interleave(f, 1).expand(3, -1, -1)
    write_png(path, torch.cat((images[0], heat), dim=2))


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
    parser.add_argument("--pictures", type=int, default=1)
    asked = parser.parse_args()
    keep_freed_memory()  # as the executable does
    pipeline = Pipeline.load(asked.prior, precision=asked.precision)
    if asked.image:
        write_guesses(pipeline, asked.image, asked.cond, asked.pictures)
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
        common = {
            "n": batch,
            "batch_size": max(batch, 16),
            "size": size,
            "temperature": temperature,
            "top_k": top_k,
            "seed": 1,
        }
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
