"""The cost of a codec's training, estimated from its settings without computing anything."""

import torch

from taming_cli.codec.adversarial.discriminator import Discriminator
from taming_cli.codec.perturb import Perturbation, Redraw
from taming_cli.codec.state import initial_state
from taming_cli.codec.step import PartTask, Phase, backward
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.data.pixels import SAMPLED
from taming_cli.errors import UsageError
from taming_cli.pretrained.perceptual import Perceptual
from taming_cli.runtime.cost import Estimate, cost, fake_tensors
from taming_cli.runtime.device import pick_precision
from taming_cli.runtime.memory import free_bytes

_COPIES = 4
"""A lower bound on the arrays of the size of a codec's input that a step on label maps holds at once."""


def estimate(
    codec: CodecConfig,
    discriminator: DiscriminatorConfig,
    train: CodecTrainConfig,
    perceptual: Perceptual | None,
    precision: torch.dtype,
    redraw: Redraw | None = None,
) -> Estimate:
    """The cost of training on pictures or label maps, in its last phase, when all loss terms are computed. `redraw` is
    that of `fit`, whose cost is included."""
    if codec.network == "palette":
        return _of_palette(codec)
    parts = min(train.accumulate, train.batch_size)
    shape = (-(-train.batch_size // parts), codec.in_channels, train.size.height, train.size.width)
    now = Phase(discriminator=bool(train.disc_weight), adversarial=1.0 if train.disc_weight else 0.0)
    perturb = None if redraw is None else Perturbation(share=train.perturb, seed=train.seed, redraw=redraw)
    trained = list[int]()

    def run() -> None:
        state = initial_state(VQGAN(codec), VQGAN(codec), Discriminator(discriminator, codec.out_ch), train, precision)
        own = [parameter for parameter in state.codec.parameters() if parameter.requires_grad]
        trained.extend(parameter.numel() for parameter in [*own, *state.discriminator.parameters()])
        x = torch.rand(shape).contiguous(memory_format=torch.channels_last)
        maps = train.kind == "segmentation"
        backward(state, x, PartTask(own, train, now, maps, perceptual, share=1 / parts, first=0, perturb=perturb))

    with fake_tensors():
        step = cost(run)
        parameters = sum(parameter.numel() for parameter in VQGAN(codec).parameters())
    frozen = 0 if perceptual is None else sum(parameter.numel() for parameter in perceptual.parameters())
    averaged = codec.levels * codec.codebook_size * (codec.codebook_dim + 1 if train.quantizer == "ema" else 1)
    exchanged = 4 * (sum(trained) + averaged)
    memory = step.peak + 4 * (2 * sum(trained) + frozen)
    return Estimate(parameters, memory, step.flops * parts, step.moved * parts, exchanged)


def _of_palette(codec: CodecConfig) -> Estimate:
    """A step compares each pixel of the sample with each entry, which it reads in double precision."""
    values = SAMPLED * codec.codebook_dim
    return Estimate(
        parameters=codec.codebook_size * codec.codebook_dim,
        memory=8 * 6 * values,
        flops=2 * values * codec.codebook_size,
        moved=8 * values * codec.codebook_size,
        exchanged=0,
    )


def check_memory(
    codec: CodecConfig, discriminator: DiscriminatorConfig, train: CodecTrainConfig, labels: str, device: torch.device
) -> None:
    """Raise UsageError where training on label maps needs more memory than is free; `labels` describes the labels in
    the message. Nothing is allocated."""
    free = free_bytes(device)
    pictures = -(-train.batch_size // min(train.accumulate, train.batch_size))
    one_hot = 4 * codec.in_channels * pictures * train.size.width * train.size.height
    least = _COPIES * one_hot
    if least < free / 4:  # else estimate in full, which takes seconds
        return
    needed = least
    if least <= free:
        needed = estimate(codec, discriminator, train, None, pick_precision(train.precision, device)).memory
    if needed > free:
        raise UsageError(
            f"{labels}. A codec has one channel per label: at {train.size}, {pictures} maps at once need at least "
            f"{needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free. If these numbers are instances, "
            "use maps of labels instead; if few of them matter, list those in --label-values; else use a smaller "
            "--size or --batch-size, or --accumulate"
        )
