"""What a codec's training will take, from its settings alone: nothing is computed."""

import torch

from taming_cli.codec.discriminator import Discriminator
from taming_cli.codec.state import arranged
from taming_cli.codec.step import Aim, Phase, backward
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecConfig, CodecTrainConfig, DiscriminatorConfig
from taming_cli.errors import UsageError
from taming_cli.pretrained.perceptual import Perceptual
from taming_cli.runtime.cost import Estimate, cost, pretending
from taming_cli.runtime.device import pick_precision
from taming_cli.runtime.memory import free_bytes

_COPIES = 4
"""Arrays of a codec's input or output that a step on label maps holds at once, at the least."""


def estimate(
    codec: CodecConfig,
    discriminator: DiscriminatorConfig,
    train: CodecTrainConfig,
    perceptual: Perceptual | None,
    precision: torch.dtype,
) -> Estimate:
    """Of a training on pictures or label maps, at its end, when everything counts."""
    parts = min(train.accumulate, train.batch_size)
    shape = (-(-train.batch_size // parts), codec.in_channels, train.size.height, train.size.width)
    now = Phase(discriminator=bool(train.disc_weight), adversarial=1.0 if train.disc_weight else 0.0)
    trained = list[int]()

    def run() -> None:
        state = arranged(VQGAN(codec), VQGAN(codec), Discriminator(discriminator, codec.out_ch), train, precision)
        own = [parameter for parameter in state.codec.parameters() if parameter.requires_grad]
        trained.extend(parameter.numel() for parameter in [*own, *state.discriminator.parameters()])
        x = torch.rand(shape).contiguous(memory_format=torch.channels_last)
        backward(state, x, Aim(own, train, now, train.kind == "segmentation", perceptual, share=1 / parts, first=0))

    with pretending():
        found = cost(run)
        parameters = sum(parameter.numel() for parameter in VQGAN(codec).parameters())
    frozen = 0 if perceptual is None else sum(parameter.numel() for parameter in perceptual.parameters())
    averaged = codec.codebook_size * (codec.codebook_dim + 1) if train.quantizer == "ema" else codec.codebook_size
    exchanged = 4 * (sum(trained) + averaged)
    memory = found.peak + 4 * (2 * sum(trained) + frozen)
    return Estimate(parameters, memory, found.flops * parts, found.moved * parts, exchanged)


def check_memory(
    codec: CodecConfig, discriminator: DiscriminatorConfig, train: CodecTrainConfig, what: str, device: torch.device
) -> None:
    """UsageError where a training on label maps needs more memory than is free; `what` says how many labels there are.
    Nothing is allocated."""
    free = free_bytes(device)
    pictures = -(-train.batch_size // min(train.accumulate, train.batch_size))
    one_hot = 4 * codec.in_channels * pictures * train.size.width * train.size.height
    least = _COPIES * one_hot
    if least < free / 4:  # an estimate takes seconds
        return
    needed = least
    if least <= free:
        needed = estimate(codec, discriminator, train, None, pick_precision(train.precision, device)).memory
    if needed > free:
        raise UsageError(
            f"{what}. A codec has a channel for each: at {train.size}, {pictures} maps at once need at least "
            f"{needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free. If these numbers are instances, "
            "give maps of labels instead; if few of them count, list those by --label-values; else use a smaller "
            "--size or --batch-size, or --accumulate"
        )
