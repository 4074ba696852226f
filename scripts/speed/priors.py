"""Compare the speed of a prior for any order with that of a raster prior, on the same map, in turns (A B A B).

    python scripts/speed/priors.py PRIOR RASTER MAP [--sizes 512x336,1280x832] [--batch 1] [--steps 16,32,64]

Both priors draw `--batch` pictures at once, the raster prior with its own stride. The seconds are medians, those of
drawing codes; decoding, the same for both, is not counted. The ratio is that of the medians.
"""

import argparse
import time
from statistics import median

import torch

from taming_cli.runtime.allocator import keep_freed_memory
from taming_cli.runtime.cost import synchronize
from taming_cli.sampling.draw import draw_codes
from taming_cli.sampling.pipeline import Pipeline
from taming_cli.sampling.request import Request, resolve_request


def seconds(request: Request) -> float:
    """The time to draw the codes of the samples of a request."""
    began = time.perf_counter()
    draw_codes(request, request.numbers)
    synchronize(request.model.device)
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("priors", nargs=2, metavar="PRIOR")
    parser.add_argument("map")
    parser.add_argument("--sizes", default="512x336,1280x832")
    parser.add_argument("--batch", type=int, default=1, help="pictures drawn at once")
    parser.add_argument("--steps", default="16,32,64")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    asked = parser.parse_args()
    keep_freed_memory()  # as the executable does
    ours, raster = (Pipeline.load(path, precision=asked.precision) for path in asked.priors)
    for pipeline in (ours, raster):  # to warm up
        seconds(resolve_request(pipeline, {"n": 1, "size": "512x336", "seed": 0}, cond=asked.map))
    print(f"{torch.get_num_threads()} threads, {asked.batch} at once")
    print("| size | prior | forwards | tokens a picture | seconds a picture | times faster |")
    print("|---|---|---|---|---|---|")
    for size in asked.sizes.split(","):
        common = {"n": asked.batch, "batch_size": asked.batch, "size": size, "seed": 1}
        requests = {"raster": resolve_request(raster, common, cond=asked.map)}
        for steps in asked.steps.split(","):
            settings = {**common, "sample_steps": int(steps)}
            requests[f"any order, S = {steps}"] = resolve_request(ours, settings, cond=asked.map)
        found: dict[str, list[float]] = {name: [] for name in requests}
        for _ in range(asked.repeats):
            for name, request in requests.items():
                found[name].append(seconds(request) / asked.batch)
        for name, request in requests.items():
            taken, cost = median(found[name]), request.cost
            ratio = median(found["raster"]) / taken
            print(f"| {size} | {name} | {cost.forwards:,} | {cost.tokens:,} | {taken:.2f} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
