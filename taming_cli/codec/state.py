"""The state of a codec's training: its networks and their forward passes, and how it is saved and restored."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from taming_cli.codec.adversarial.discriminator import BatchNorm, Discriminator
from taming_cli.codec.losses import DiscriminatorLogits
from taming_cli.codec.quantizers.averages import CodebookAverages, CodebookUse, LevelAverages
from taming_cli.codec.quantizers.linear import LinearCodebook
from taming_cli.codec.quantizers.nearest import Quantizer
from taming_cli.codec.quantizers.quantized import Quantized
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.runtime.device import autocast, full_precision
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.gradient_checkpointing import recompute


class Criterion(NamedTuple):
    """A sum of figures by which models are compared; smaller is better. `by` names the figures."""

    by: str
    value: float


class Reconstructor(nn.Module):
    """The forward pass of a codec in training, as one module for DistributedDataParallel."""

    def __init__(self, codec: VQGAN) -> None:
        super().__init__()
        self.codec = codec

    def forward(
        self,
        x: Tensor,
        precision: torch.dtype,
        *,
        perturb: Callable[[Tensor], Tensor] | None = None,
        continuous: bool = False,
    ) -> tuple[Tensor, Quantized]:
        """(B, C, H, W) -> the reconstruction, fp32 of the same shape, and the quantizer's output. Of a dVAE, the first
        is what the last convolution gives, (B, 2 C, H, W).

        `perturb` maps the codes (B, h, w) to those that are decoded in their place; no gradient passes through it. If
        `continuous`, the decoder reads z_e.
        """
        codec = self.codec
        with autocast(x.device, precision):
            quantized = codec.quantized(x)
            if perturb is not None:
                z = codec.quantize.lookup(perturb(quantized.codes))
            else:
                z = quantized.z_e if continuous else quantized.to_decoder()
            assert not isinstance(codec.decoder, nn.Identity)
            features = codec.decoder.features(codec.post_quant_conv(z))
        with full_precision(x.device):
            return codec.decoder.write(features.float()), quantized


class RealAndFake(nn.Module):
    """The forward passes of a discriminator in training, as one module for DistributedDataParallel. Real and generated
    pictures are separate batches, each with its own batch statistics."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, real: Tensor, fake: Tensor, precision: torch.dtype) -> DiscriminatorLogits:
        """(B, C, H, W), twice -> logits (B, 1, h, w), twice."""
        with autocast(real.device, precision):
            return DiscriminatorLogits(real=self.discriminator(real), fake=self.discriminator(fake))


@dataclass(kw_only=True)
class CodecState:
    """Networks, optimisers, averages and counters. `average` holds the moving average of the codec's weights, which is
    the codec to use.

    `reconstruct` and `discriminate` are the forward passes of codec and discriminator. With several processes they
    average gradients; everything else is the same in each process. `best` is the criterion of the best model so far,
    `best_by` names its figures, and `best_weight` is the share (0 to 1) at which the adversarial term counted when that
    model was trained. `linear` learns in place of the entries with `--quantizer simvq`. `logit_means` holds
    moving averages of the discriminator's logits, `real` and `fake`, with `--lecam-weight`. `validation` holds the
    figures of the last validation; `unlogged` and `counts` (levels, K) hold the terms and the uses of each code since
    the last line of the log.
    """

    codec: VQGAN
    discriminator: Discriminator
    average: VQGAN
    codebook: LevelAverages
    linear: LinearCodebook | None
    codec_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    reconstruct: nn.Module
    discriminate: nn.Module
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
    logit_means: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    unlogged: dict[str, list[Tensor]] = field(default_factory=dict)
    counts: Tensor | None = None

    def update_codebook(
        self, quantized: Sequence[Quantized], config: CodecTrainConfig, uses: Sequence[CodebookUse], dead: Sequence[int]
    ) -> None:
        """Update the codebook of each level by one batch and revive dead entries, whose optimiser state is reset.

        `uses` is the result of `codebook.measure`, and `dead` their numbers of dead entries.
        """
        if config.train == "decoder":
            return
        if self.linear is not None:
            self.linear.update_entries()
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.step) % 2**63)
        for level, averages in enumerate(self.codebook.levels):
            revived = averages.update(quantized[level], generator, self.world, uses[level], dead[level])
            if not len(revived):
                continue
            weight = self.codec.entries(level)
            for value in self.codec_optimizer.state.get(weight, {}).values():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    value.index_fill_(0, revived, 0)
            with torch.no_grad():
                self.average.entries(level)[revived] = weight[revived]

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Move the average towards the codec. Early steps count more: the decay is min(ema, (1 + n) / (10 + n))."""
        now = min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.codec.parameters()), 1 - now)

    def update_logit_means(self, terms: Mapping[str, Tensor]) -> None:
        """Move the averages towards the mean logits among the terms of a step, scalars on the CPU; they begin there."""
        for name in ("real", "fake"):
            now = float(terms[f"logits_{name}"])
            self.logit_means[name] = _LOGITS * self.logit_means.get(name, now) + (1 - _LOGITS) * now

    def state_dict(self) -> dict[str, Any]:
        """The contents of the trainer file."""
        modules = {name: getattr(self, name).state_dict() for name in self.stateful}
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {**modules, **counters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the contents of a trainer file."""
        for name in self.stateful:
            getattr(self, name).load_state_dict(state[name])
        if "best_weight" not in state:  # earlier versions chose the best model without regard to the adversarial term
            state = {**state, "best": -state["best"], "best_by": "", "best_weight": 0.0}
        for name in _COUNTERS:
            if name in state or name not in _LATER:
                setattr(self, name, state[name])

    @property
    def optimized(self) -> list[nn.Parameter]:
        """The parameters that the codec's optimiser changes."""
        return [parameter for group in self.codec_optimizer.param_groups for parameter in group["params"]]

    @property
    def stateful(self) -> tuple[str, ...]:
        """The members that the trainer file holds."""
        return _STATEFUL if self.linear is None else (*_STATEFUL, "linear")

    def note_best(self, criterion: Criterion, weight: float) -> None:
        """Record the present model if it is the best so far: the one with the smallest criterion among those that were
        trained with the largest `weight` of the adversarial term."""
        if math.isnan(criterion.value) or weight < self.best_weight:
            return
        if weight > self.best_weight or criterion.value < self.best:
            self.best, self.best_by = criterion.value, criterion.by
            self.best_step, self.best_weight = self.step, weight


_STATEFUL = ("codec", "discriminator", "average", "codebook", "codec_optimizer", "discriminator_optimizer")
_LATER = ("unlogged", "counts", "logit_means")
"""Members that earlier versions did not save."""
_COUNTERS = ("step", "images_seen", "seconds", "best", "best_step", "best_by", "best_weight", "validation", *_LATER)
_LOGITS = 0.99
"""Decay of the moving averages of the discriminator's logits."""


def start(
    codec: VQGAN,
    discriminator: DiscriminatorConfig,
    config: CodecTrainConfig,
    device: torch.device,
    precision: torch.dtype,
    world: World = ALONE,
) -> CodecState:
    """The state before the first step, on `device`; `codec` is new or read from a file, the same in all processes."""
    network = Discriminator(discriminator, codec.config.out_ch).to(device).to(memory_format=torch.channels_last)
    codec = codec.to(device).to(memory_format=torch.channels_last)
    return initial_state(codec, copy.deepcopy(codec), network, config, precision, world)


def initial_state(
    codec: VQGAN,
    average: VQGAN,
    discriminator: Discriminator,
    config: CodecTrainConfig,
    precision: torch.dtype,
    world: World = ALONE,
) -> CodecState:
    """The state before the first step, from networks on their device; `average` is a copy of `codec`."""
    codec, discriminator = codec.train().requires_grad_(True), discriminator.train()
    if config.train == "decoder":
        for part in (codec.encoder, codec.quant_conv, codec.quantize):
            part.eval().requires_grad_(False)
    averages, linear = list[CodebookAverages](), None
    for quantizer in codec.quantizers:
        free = isinstance(quantizer, Quantizer) and codec.config.network != "palette" and config.quantizer != "simvq"
        averages.append(
            CodebookAverages(
                quantizer,
                decay=config.codebook_decay,
                revive=config.revive if free else 0.0,
                learn=free and config.quantizer == "ema",
                trained=config.init is not None,
                device=codec.device,
            )
        )
        if averages[-1].learn:
            quantizer.requires_grad_(False)
        if isinstance(quantizer, Quantizer) and config.train == "all":
            quantizer.gradient = "index" if config.quantizer == "ibq" else config.gradient
            linear = LinearCodebook(quantizer) if config.quantizer == "simvq" else None
    if config.gradient_checkpointing:
        recompute(codec)
    for module in discriminator.modules():
        if isinstance(module, BatchNorm):
            module.world = world
    return CodecState(
        codec=codec,
        discriminator=discriminator,
        average=average.eval().requires_grad_(False),
        codebook=LevelAverages(averages),
        linear=linear,
        codec_optimizer=_adam(_learned(codec, linear), config.learning_rate, config),
        discriminator_optimizer=_adam(discriminator.parameters(), config.disc_learning_rate, config),
        reconstruct=world.joined(Reconstructor(codec)),
        discriminate=world.joined(RealAndFake(discriminator)),
        precision=precision,
        seed=config.seed,
        world=world,
    )


def _learned(codec: VQGAN, linear: LinearCodebook | None) -> list[nn.Parameter]:
    """The parameters of a codec, with a linear map in place of its entries."""
    if linear is None:
        return list(codec.parameters())
    entries = linear.quantizer.embedding.weight
    return [*(parameter for parameter in codec.parameters() if parameter is not entries), linear.map]


def _adam(parameters: Iterable[nn.Parameter], learning_rate: float, config: CodecTrainConfig) -> torch.optim.Optimizer:
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in trained)
    return torch.optim.Adam(trained, lr=learning_rate, betas=(config.betas[0], config.betas[1]), fused=fused)
