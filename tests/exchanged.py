"""One process of two that counts what it exchanges in a step of each training. Run by test_distributed.py."""

import json
import math
import sys

import torch
from torch.profiler import ProfilerActivity, profile

from taming_cli.codec import state as codec_state
from taming_cli.codec.step import Phase, codec_step
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.size import Size
from taming_cli.errors import NonFiniteLossError
from taming_cli.prior import state as prior_state
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.predictions import TokenBatch
from taming_cli.prior.state import prior_step
from taming_cli.runtime.distributed import world
from tests import toys

CPU, DISCRIMINATOR = torch.device("cpu"), DiscriminatorConfig(disc_ndf=16)
TOY = PriorConfig(arch="modern", n_layer=2, n_head=2, n_embd=64, window=Size(4, 4), codebook_size=64)


def exchanged() -> list[int | str]:
    """The floats that this process sends in a step of a codec and in one of a prior, as torch's profiler counts them,
    and then how a step of each ends where the gradient of the second process is not finite."""
    results: list[int | str] = []
    with world() as together:
        torch.manual_seed(0)
        train = CodecTrainConfig(perceptual="none", revive=0.0, size=Size(32, 32))
        state = codec_state.start(VQGAN(toys.CODEC), DISCRIMINATOR, train, CPU, torch.float32, together)
        x, now = torch.rand(2, 3, 32, 32), Phase(discriminator=True, adversarial=1.0)
        prior = prior_state.start(GPT(TOY), PriorTrainConfig(dropout=0.0), CPU, torch.float32, together)
        codes = torch.zeros(2, TOY.cells, dtype=torch.int64)
        batch = TokenBatch(codes, codes, {})
        steps = (
            lambda: codec_step(state, x, perceptual=None, config=train, now=now, learning_rate=1e-4),
            lambda: prior_step(prior, batch, PriorTrainConfig(dropout=0.0), 1e-4),
        )
        for step in steps:
            step()  # the first time DDP looks for the order of its gradients
            with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
                step()
            sums = [event for event in recorded.events() if event.name == "gloo:all_reduce"]
            shapes = [shape for event in sums for shape in event.input_shapes]
            results.append(sum(math.prod(shape) for shape in shapes if shape))
        if together.rank == 1:
            for network in (state.discriminator, prior.gpt):
                next(network.parameters()).register_hook(lambda gradient: gradient * math.nan)
        for step in steps:
            try:
                step()
            except NonFiniteLossError as error:
                results.append(str(error))
            else:
                results.append("nothing was noticed")
    return results


if __name__ == "__main__":
    json.dump(exchanged(), sys.stdout)
