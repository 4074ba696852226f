"""What a codec's training will take, from its settings alone: nothing is computed."""

import torch

from taming_cli.codec.critic import Critic
from taming_cli.codec.state import arranged
from taming_cli.codec.step import Aim, Phase, backward
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecConfig, CodecTrainConfig, CriticConfig
from taming_cli.judges.perceptual import Perceptual
from taming_cli.runtime.cost import Estimate, cost, pretending


def estimate(
    codec: CodecConfig, critic: CriticConfig, train: CodecTrainConfig, judge: Perceptual | None, precision: torch.dtype
) -> Estimate:
    """Of a training on pictures or label maps, at its end, when everything counts."""
    parts = min(train.accumulate, train.batch_size)
    shape = (-(-train.batch_size // parts), codec.in_channels, train.size.height, train.size.width)
    now = Phase(critic=bool(train.disc_weight), adversarial=1.0 if train.disc_weight else 0.0)
    trained = list[int]()

    def run() -> None:
        state = arranged(VQGAN(codec), VQGAN(codec), Critic(critic, codec.out_ch), train, precision)
        own = [parameter for parameter in state.codec.parameters() if parameter.requires_grad]
        trained.extend(parameter.numel() for parameter in [*own, *state.critic.parameters()])
        x = torch.rand(shape).contiguous(memory_format=torch.channels_last)
        backward(state, x, Aim(own, train, now, train.kind == "segmentation", judge, share=1 / parts, first=0))

    with pretending():
        found = cost(run)
        parameters = sum(parameter.numel() for parameter in VQGAN(codec).parameters())
    judged = 0 if judge is None else sum(parameter.numel() for parameter in judge.parameters())
    averaged = codec.codebook_size * (codec.codebook_dim + 1) if train.quantizer == "ema" else codec.codebook_size
    exchanged = 4 * (sum(trained) + averaged)
    memory = found.peak + 4 * (2 * sum(trained) + judged)
    return Estimate(parameters, memory, found.flops * parts, found.moved * parts, exchanged)
