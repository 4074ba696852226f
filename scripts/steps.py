"""Compare numbers of forward passes and temperatures of a prior for any order: time, likelihood, Frechet distance.

    python scripts/steps.py PRIOR TOKENS PICTURES OUT [COUNT]

Draws a picture for the conditions of each of COUNT samples (default: 60), evenly spaced in a token file, and compares
these pictures with the folder PICTURES, by `taming eval fid`. The likelihood is that of the samples' own codes in so
many groups, in nats/token: the difference to one cell a group is what grouping costs.
"""

import contextlib
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from taming_cli.cli.app import main as taming
from taming_cli.config.ramp import Ramp
from taming_cli.config.sampling import SampleConfig
from taming_cli.data.images import write_png
from taming_cli.data.tokens.file import TokenFile
from taming_cli.prior.any_order.likelihood import log_likelihood
from taming_cli.prior.any_order.plan import group_plan
from taming_cli.prior.draw import draw
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.sampling.pipeline import Pipeline

STEPS = (8, 16, 32, 64)
TEMPERATURES = (1.0, Ramp(0.7, 1.0))
GUIDANCE = 1.5
"""With condition maps; without, there is none."""


def main(prior: str, tokens: str, pictures: str, out: str, count: str = "60") -> None:
    """Print the table, and write the pictures."""
    pipeline = Pipeline.load(prior)
    network = pipeline.gpt
    assert isinstance(network, AnyOrder), "steps are those of priors for any order"
    with TokenFile(Path(tokens)) as file:
        every = max(1, len(file) // int(count))
        rows = slice(0, every * int(count), every)
        codes = torch.from_numpy(file.codes(rows)[:, 0].astype(np.int64))
        kinds = [spec.kind for spec in network.config.conditions if spec.form == "grid"]
        given = {kind: torch.from_numpy(file.condition(kind, rows)[:, 0].astype(np.int64)) for kind in kinds}
        if network.config.num_classes:
            classes = [pipeline.class_index(file.label_names[n]) if n >= 0 else -1 for n in file.labels[rows]]
            given["class"] = torch.tensor(classes)[:, None]
    size = (codes.shape[1], codes.shape[2])
    plan = group_plan(*size, codes[0].numel())
    exact = -log_likelihood(network, codes, plan, conditions=given).mean().item()
    print(f"one cell a group: {exact:.3f} nats/token")
    print("| forwards | temperature | seconds a picture, without decoding | nats/token | Frechet distance |")
    print("|---|---|---|---|---|")
    for steps in STEPS:
        nats = -log_likelihood(network, codes, group_plan(*size, steps), conditions=given).mean().item()
        for temperature in TEMPERATURES:
            config = SampleConfig(temperature=temperature, guidance=GUIDANCE if kinds else 1.0)
            began = time.monotonic()
            drawn = draw(
                network,
                size=size,
                samples=range(len(codes)),
                seed=1,
                decoding=config,
                conditions=given,
                steps=steps,
                batch_size=1,
            )
            seconds = (time.monotonic() - began) / len(codes)
            folder = Path(out) / f"{steps}-{temperature}".replace(":", "to")
            for number, image in enumerate(pipeline.decode(drawn)):
                write_png(folder / f"{number:06d}.png", image)
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                assert taming(["eval", "fid", str(folder), pictures, "--features", "efficientnet-lite0", "--json"]) == 0
            distance = json.loads(said.getvalue())["value"]
            print(f"| {steps} | {temperature} | {seconds:.2f} | {nats:.3f} | {distance:.1f} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
