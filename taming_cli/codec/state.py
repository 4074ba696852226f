"""All that a codec's training changes as it goes, and its way to a trainer file and back."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from taming_cli.codec.discriminator import BatchNorm, Discriminator
from taming_cli.codec.forward import Comparing, Reconstructing
from taming_cli.codec.quantizers import CodebookAverages, Quantized, Quantizer, Use
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecTrainConfig, DiscriminatorConfig
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.gradient_checkpointing import recompute


class Criterion(NamedTuple):
    """The figures that models are compared by, added up: the smaller, the better."""

    by: str
    value: float


@dataclass(kw_only=True)
class CodecState:
    """Networks, optimisers, averages and counters. `average` is the codec to use: the moving average of the weights.

    `reconstructing` and `comparing` are the forward passes of codec and discriminator; in several processes their
    gradients are averaged. All else is the same in each. `best` is what the best model was chosen by, `best_by` names
    those figures, and `best_weight` is how much the adversarial term counted when it was trained (0 to 1). `validation`
    holds the last validation's figures.
    """

    codec: VQGAN
    discriminator: Discriminator
    average: VQGAN
    codebook: CodebookAverages
    codec_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    reconstructing: nn.Module
    comparing: nn.Module
    precision: torch.dtype
    seed: int
    world: World = ALONE
    step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_step: int = 0
    best_by: str = ""
    best_weight: float = 0.0
    validation: dict[str, float] = field(default_factory=dict)

    def update_codebook(self, quantized: Quantized, config: CodecTrainConfig, use: Use, dead: int) -> None:
        """Let the codebook learn from one batch and revive entries out of use; their optimiser state starts anew.

        `use` is what `codebook.look` found, and `dead` how many entries of it are.
        """
        if config.train == "decoder":
            return
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.step) % 2**63)
        revived = self.codebook.update(quantized, generator, self.world, use, dead)
        if not len(revived):
            return
        weight = self.codec.quantize.embedding.weight
        for value in self.codec_optimizer.state.get(weight, {}).values():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                value.index_fill_(0, revived, 0)
        with torch.no_grad():
            self.average.quantize.embedding.weight[revived] = weight[revived]

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Move the average towards the codec; early steps count more: decay min(ema, (1 + n) / (10 + n))."""
        now = min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.codec.parameters()), 1 - now)

    def state_dict(self) -> dict[str, Any]:
        """What the trainer file holds."""
        modules = {name: getattr(self, name).state_dict() for name in STATEFUL}
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {**modules, **counters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        if "best_weight" not in state:  # before there was one, every training was treated as if it had no such term
            state = {**state, "best": -state["best"], "best_by": "", "best_weight": 0.0}
        for name in _COUNTERS:
            setattr(self, name, state[name])

    def note_best(self, criterion: Criterion, weight: float) -> None:
        """Take note of a validation whose model is the best so far: the one with the smallest value among those that
        were trained with the adversarial term at the largest `weight` so far."""
        if math.isnan(criterion.value) or weight < self.best_weight:
            return
        if weight > self.best_weight or criterion.value < self.best:
            self.best, self.best_by = criterion.value, criterion.by
            self.best_step, self.best_weight = self.step, weight


STATEFUL = ("codec", "discriminator", "average", "codebook", "codec_optimizer", "discriminator_optimizer")
_COUNTERS = ("step", "images_seen", "seconds", "best", "best_step", "best_by", "best_weight", "validation")


def start(
    codec: VQGAN,
    discriminator: DiscriminatorConfig,
    config: CodecTrainConfig,
    device: torch.device,
    precision: torch.dtype,
    world: World = ALONE,
) -> CodecState:
    """The state before the first step, on `device`; `codec` freshly made or read from a file, the same everywhere."""
    network = Discriminator(discriminator, codec.config.out_ch).to(device).to(memory_format=torch.channels_last)
    codec = codec.to(device).to(memory_format=torch.channels_last)
    return arranged(codec, copy.deepcopy(codec), network, config, precision, world)


def arranged(
    codec: VQGAN,
    average: VQGAN,
    discriminator: Discriminator,
    config: CodecTrainConfig,
    precision: torch.dtype,
    world: World = ALONE,
) -> CodecState:
    """The state before the first step, of networks that are where they belong; `average` is the codec's twin."""
    codec, discriminator = codec.train().requires_grad_(True), discriminator.train()
    if config.train == "decoder":
        for part in (codec.encoder, codec.quant_conv, codec.quantize):
            part.eval().requires_grad_(False)
    averaged = config.quantizer == "ema" and isinstance(codec.quantize, Quantizer)
    if averaged:
        codec.quantize.requires_grad_(False)
    if config.gradient_checkpointing:
        recompute(codec)
    for module in discriminator.modules():
        if isinstance(module, BatchNorm):
            module.world = world
    return CodecState(
        codec=codec,
        discriminator=discriminator,
        average=average.eval().requires_grad_(False),
        codebook=CodebookAverages(
            codec.quantize,
            decay=config.codebook_decay,
            revive=config.revive if isinstance(codec.quantize, Quantizer) else 0.0,
            learn=averaged,
            trained=config.init is not None,
        ),
        codec_optimizer=_adam(codec, config.learning_rate, config),
        discriminator_optimizer=_adam(discriminator, config.disc_learning_rate, config),
        reconstructing=world.joined(Reconstructing(codec)),
        comparing=world.joined(Comparing(discriminator)),
        precision=precision,
        seed=config.seed,
        world=world,
    )


def _adam(module: nn.Module, learning_rate: float, config: CodecTrainConfig) -> torch.optim.Optimizer:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in trained)
    return torch.optim.Adam(trained, lr=learning_rate, betas=(config.betas[0], config.betas[1]), fused=fused)
