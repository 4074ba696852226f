"""What a prior's training and its samples will take, from the settings alone: nothing is computed."""

from typing import NamedTuple

import torch

from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.size import Size
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.state import arranged, nats
from taming_cli.prior.windows import plan
from taming_cli.runtime.cost import Estimate, cost, pretending


def estimate(prior: PriorConfig, train: PriorTrainConfig, precision: torch.dtype) -> Estimate:
    """Of a training with this network, whose codebook and conditions are those of the token files."""
    parts = min(train.accumulate, train.batch_size)
    batch = -(-train.batch_size // parts)

    def run() -> None:
        gpt, average = (GPT(prior, dropout=train.dropout) for _ in range(2))
        state = arranged(gpt, average, train, precision)
        codes = torch.zeros(batch, prior.cells, dtype=torch.int64)
        tokens = torch.zeros(batch, prior.prefix_length, dtype=torch.int64)
        nats(state.gpt, codes, codes, tokens, precision).backward()  # type: ignore[no-untyped-call]

    with pretending():
        found = cost(run)
        parameters = sum(parameter.numel() for parameter in GPT(prior).parameters())
    memory = found.peak + 2 * 4 * parameters
    return Estimate(parameters, memory, found.flops * parts, found.moved * parts, 4 * parameters)


class Drawing(NamedTuple):
    """What one picture takes: forward passes one after the other, and tokens that run through the network."""

    forwards: int
    tokens: int


def drawing(prior: PriorConfig, latent: Size, stride: int, *, guided: bool) -> Drawing:
    """Of a picture of `latent` codes, drawn through windows that move `stride` columns at a time. A `guided` one runs
    each token with its condition and without."""
    found = plan(latent.height, latent.width, (prior.window.height, prior.window.width), stride)
    return Drawing(found.sequential_forwards, found.tokens_run(prior.prefix_length) * (1 + guided))
