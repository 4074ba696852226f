"""The cost of a prior's training and of its samples, estimated from the settings without computing anything."""

from typing import NamedTuple

import torch

from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.size import Size
from taming_cli.prior.any_order.blue_noise import Grid
from taming_cli.prior.any_order.plan import group_plan
from taming_cli.prior.any_order.stages import stages
from taming_cli.prior.model import new_network
from taming_cli.prior.predictions import TokenBatch
from taming_cli.prior.raster.windows import plan
from taming_cli.prior.state import initial_state, nats
from taming_cli.runtime.cost import Estimate, cost, fake_tensors


def estimate(prior: PriorConfig, train: PriorTrainConfig, precision: torch.dtype) -> Estimate:
    """The cost of training a network whose codebook and conditions are those of the token files."""
    parts = min(train.accumulate, train.batch_size)
    batch = -(-train.batch_size // parts)

    def run() -> None:
        gpt, average = (new_network(prior, dropout=train.dropout) for _ in range(2))
        state = initial_state(gpt, average, train, precision)
        codes = torch.zeros(batch, prior.cells, dtype=torch.int64)
        groups = torch.ones(batch, prior.window.height, prior.window.width, dtype=torch.int64)
        nats(state.gpt, TokenBatch(codes, codes, {}, groups, groups), precision).backward()  # type: ignore[no-untyped-call]

    with fake_tensors():
        step = cost(run)
        parameters = sum(parameter.numel() for parameter in new_network(prior).parameters())
    memory = step.peak + 2 * 4 * parameters
    return Estimate(parameters, memory, step.flops * parts, step.moved * parts, 4 * parameters)


class SamplingCost(NamedTuple):
    """The cost of one picture: sequential forward passes, and tokens that pass through the network."""

    forwards: int
    tokens: int


def sampling_cost(
    prior: PriorConfig, latent: Size, stride: int, steps: int, known: Grid | None = None, *, guided: bool
) -> SamplingCost:
    """The cost of a picture of `latent` codes: of a raster prior, through windows that move `stride` columns at a time;
    of a prior for any order, in `steps` steps, of the cells that are not `known` (h, w); of a PixelSNAIL, cell by cell.
    With guidance, each token passes through the network twice: with its condition and without."""
    if prior.arch == "pixelsnail":
        cells = latent.width * latent.height
        return SamplingCost(cells, cells * (1 + guided))
    if prior.arch == "any-order":
        parts = stages(group_plan(latent.height, latent.width, steps, known), prior, guided=guided)
        tokens = sum(stage.tokens_run for stage in parts)
        return SamplingCost(sum(stage.steps for stage in parts), tokens * (1 + guided))
    windows = plan(latent.height, latent.width, (prior.window.height, prior.window.width), stride)
    return SamplingCost(windows.sequential_forwards, windows.tokens_run(prior.prefix_length) * (1 + guided))
