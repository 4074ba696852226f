"""Compare strides 1, 2, 4 and 8: time, and the likelihood of one picture each under the exact windows.

    python scripts/strides.py PRIOR MAP OUT [SIZE [CLASS]]

Codes are drawn at temperature 1 with the same seed. Their likelihood, in nats/token, is measured under the exact
windows (stride 1, the published procedure), and under the windows in which they were drawn.
"""

import sys
import time
from pathlib import Path

from taming_cli.data.images import write_png
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.raster.likelihood import log_likelihood
from taming_cli.prior.raster.windows import plan
from taming_cli.sampling.draw import draw
from taming_cli.sampling.pipeline import Pipeline
from taming_cli.sampling.request import resolve_request

STRIDES = (1, 2, 4, 8)


def main(prior: str, map_: str, out: str, size: str = "640x416", class_name: str | None = None) -> None:
    """Print the table, and write a picture for each stride."""
    pipeline = Pipeline.load(prior)
    assert isinstance(pipeline.gpt, GPT), "strides are those of raster priors"
    print("| stride | forwards | tokens | seconds | nats/token, exact windows | nats/token, own windows |")
    print("|---|---|---|---|---|---|")
    for stride in STRIDES:
        settings = {"n": 1, "seed": 1, "stride": stride, "size": size, "class_name": class_name, "batch_size": 32}
        request = resolve_request(pipeline, settings, cond={"segmentation": map_})
        began = time.monotonic()
        drawn = draw(request, [0])
        seconds = time.monotonic() - began
        write_png(Path(out) / f"stride_{stride}.png", drawn.images[0])
        conditions = request.conditions([0])
        codes = drawn.codes.to(pipeline.device)
        exact, own = (
            -log_likelihood(pipeline.gpt, codes, conditions=conditions, stride=each, batch_size=32).mean().item()
            for each in (1, stride)
        )
        window = pipeline.gpt.config.window
        planned = plan(codes.shape[1], codes.shape[2], (window.height, window.width), stride)
        tokens = planned.tokens_run(pipeline.gpt.config.prefix_length)
        print(f"| {stride} | {planned.sequential_forwards} | {tokens:,} | {seconds:.1f} | {exact:.3f} | {own:.3f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
