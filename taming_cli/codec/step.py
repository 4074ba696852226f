"""One training step of the codec: a single forward pass of the autoencoder serves codec and discriminator."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from taming_cli.codec import losses
from taming_cli.codec.adversarial.augmentation import augmented, draws
from taming_cli.codec.perturb import Perturbation
from taming_cli.codec.quantizers.gumbel import GumbelQuantizer
from taming_cli.codec.quantizers.quantized import Quantized
from taming_cli.codec.quantizers.terms import Term, quantizer_terms
from taming_cli.codec.state import CodecState
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.ramp import Ramp
from taming_cli.errors import NonFiniteLossError
from taming_cli.pretrained.perceptual import Perceptual
from taming_cli.runtime.device import autocast, to_host
from taming_cli.runtime.distributed import apart
from taming_cli.runtime.fp32 import ieee_for
from taming_cli.runtime.pacing import cosine


class Phase(NamedTuple):
    """Whether the discriminator trains in a step, the shares (0 to 1) at which the adversarial and the KL term count,
    the temperature at which codes are sampled from logits, and whether the decoder reads entries of the codebook, or
    the encoder's vectors."""

    discriminator: bool
    adversarial: float
    kl: float = 1.0
    temperature: float = 1.0
    quantized: bool = True


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The unweighted loss terms and the gradient norms of one step, scalars on the CPU. On the device: the codes of
    this process's pictures, (B, h, w), and the counts of each level's codes in the whole batch, (levels, K) fp32."""

    terms: dict[str, Tensor]
    codes: Tensor
    counts: Tensor


def phase(config: CodecTrainConfig, spent: float) -> Phase:
    """The phase after the share `spent` of the training, 0 to 1.

    The decoder reads entries from `quantize_start` on. The discriminator trains from `disc_train_start` on. Its term
    counts from `disc_start` on and grows over `disc_ramp`, the KL term from the start on over `kl_ramp`. The
    temperature changes over `relaxation_ramp`.
    """
    kl, done = (1 - cosine(spent / ramp, 0.0) if ramp else 1.0 for ramp in (config.kl_ramp, config.relaxation_ramp))
    temperature, quantized = Ramp.value(config.relaxation, done), spent >= config.quantize_start
    if not config.disc_weight:
        return Phase(discriminator=False, adversarial=0.0, kl=kl, temperature=temperature, quantized=quantized)
    since = spent - config.disc_start
    ramp = 0.0 if since < 0 else min(1.0, since / config.disc_ramp) if config.disc_ramp else 1.0
    begun = spent >= min(config.disc_train_start, config.disc_start)
    return Phase(discriminator=begun, adversarial=ramp, kl=kl, temperature=temperature, quantized=quantized)


def codec_step(
    state: CodecState,
    x: Tensor,
    *,
    categorical: bool = False,
    perceptual: Perceptual | None,
    config: CodecTrainConfig,
    now: Phase,
    learning_rate: float,
    disc_learning_rate: float | None = None,
    perturb: Perturbation | None = None,
) -> StepReport:
    """Update codec, codebook, discriminator and the moving average on `x`, float32 (B, C, H, W) on the state's device.

    `x` is this process's part of the batch, in [-1, 1], or one-hot where it is `categorical`; then the loss is the
    cross-entropy alone. The gradients of the pixel, perceptual and adversarial terms are taken at the reconstruction,
    once each, and compared at the last layer (equation 7 of the paper). Only their weighted sum runs back through the
    codec. With `config.accumulate` parts, gradients are accumulated; the adaptive weight and the batch statistics of
    the discriminator are computed for each part. `disc_learning_rate` is that of the discriminator, by default its
    peak. With `perturb`, for a training of the decoder alone, the decoder reads perturbed codes. The step waits for the
    device once.

    Raises NonFiniteLossError where a term, the norm of the codec's or the discriminator's gradient, or a running
    statistic of the discriminator is not finite. The state is then unchanged, bit for bit.
    """
    codec = state.codec
    x = x.contiguous(memory_format=torch.channels_last)
    if state.step == 0 and config.init is None:
        _begin_with(state, x)
    trained = [parameter for parameter in codec.parameters() if parameter.requires_grad]
    state.codec_optimizer.zero_grad(set_to_none=True)
    state.discriminator_optimizer.zero_grad(set_to_none=True)
    buffers = [buffer.clone() for buffer in state.discriminator.buffers()]  # a forward pass already changes them

    world, joined = state.world, (state.reconstruct, state.discriminate)
    results, done = list[PartResult](), world.rank * len(x)
    parts = x.tensor_split(min(config.accumulate, len(x)))
    for number, part in enumerate(parts, 1):
        task = PartTask(trained, config, now, categorical, perceptual, len(part) / len(x), done, perturb)
        with apart(joined, last=number == len(parts)), ieee_for(state.precision):
            results.append(backward(state, part, task))
        done += len(part)
    means = torch.stack(
        [torch.stack([part.share * part.terms[name] for part in results]).sum() for name in results[0].terms]
    )
    terms = dict(zip(results[0].terms, world.mean(means), strict=True))
    quantized = Quantized(*map(torch.cat, zip(*(each.quantized[:3] for each in results), strict=True)))
    if state.linear is not None:
        state.linear.take_gradient()
    terms["gradient"] = clip_grad_norm_(state.optimized, config.clip or float("inf"))
    if now.discriminator:
        terms["disc_gradient"] = get_total_norm(
            [p.grad for p in state.discriminator.parameters() if p.grad is not None]
        )
    levels = codec.by_level(quantized)
    uses = state.codebook.measure(levels, world)
    statistics = get_total_norm([buffer.float() for buffer in state.discriminator.buffers()])
    values = list(to_host(torch.stack([*terms.values(), statistics, *(use.dead.sum().float() for use in uses)])))
    dead = [int(values.pop()) for _ in uses][::-1]
    if reason := _non_finite((*terms, "disc_statistics"), values):
        for buffer, value in zip(state.discriminator.buffers(), buffers, strict=True):
            buffer.copy_(value)
        raise NonFiniteLossError(f"step {state.step + 1}: {reason}")

    for group in state.codec_optimizer.param_groups:
        group["lr"] = learning_rate
    state.codec_optimizer.step()
    if now.discriminator:
        for group in state.discriminator_optimizer.param_groups:
            group["lr"] = config.disc_learning_rate if disc_learning_rate is None else disc_learning_rate
        state.discriminator_optimizer.step()
    if not now.quantized:
        state.codebook.begin_again()
    state.update_codebook(levels, config, uses, dead)
    report = dict(zip(terms, values, strict=False))
    if now.discriminator and config.lecam_weight:
        state.update_logit_means(report)
    state.step += 1
    state.images_seen += len(x) * world.size
    state.update_average(config.ema)
    counts = torch.stack([use.counts for use in uses])
    return StepReport(terms=report, codes=quantized.codes, counts=counts)


@torch.no_grad()
def _begin_with(state: CodecState, x: Tensor) -> None:
    """Place the codes of a new dVAE on vectors of the first batch."""
    quantize = state.codec.quantize
    if isinstance(quantize, GumbelQuantizer) and quantize.relaxed:
        generator = torch.Generator().manual_seed(state.seed)
        quantize.begin_with(state.codec.encoder(x), generator, state.world)
        state.average.quantize.load_state_dict(quantize.state_dict())


class PartTask(NamedTuple):
    """What to compute for a part of a step's pictures: `share` is its share of the pictures, 0 to 1, `first` the index
    of its first picture in the batch, `trained` the parameters of the codec that are trained, and `perturb` what
    changes the codes before they are decoded."""

    trained: list[nn.Parameter]
    config: CodecTrainConfig
    now: Phase
    categorical: bool
    perceptual: Perceptual | None
    share: float
    first: int
    perturb: Perturbation | None = None


class PartResult(NamedTuple):
    """The terms of a part of a step, whose gradients have been accumulated."""

    share: float
    terms: dict[str, Tensor]
    quantized: Quantized


def backward(state: CodecState, x: Tensor, task: PartTask) -> PartResult:
    """Run a part forward and backward, and add its share to the gradients of codec and discriminator."""
    config, now = task.config, task.now
    if isinstance(state.codec.quantize, GumbelQuantizer):
        state.codec.quantize.temperature = now.temperature
    first = state.images_seen + task.first
    perturb = None if task.perturb is None else partial(task.perturb, first=first)
    x_rec, quantized = state.reconstruct(x, state.precision, perturb=perturb, continuous=not now.quantized)
    leaf = x_rec.detach().requires_grad_()  # where the gradients of the losses end

    if task.categorical:
        terms = {"cross_entropy": losses.cross_entropy(x, leaf)}
        terms["reconstruction"] = terms["cross_entropy"]
    else:
        terms = _reconstruction(x, leaf, state, task)
    (gradient,) = torch.autograd.grad(terms["reconstruction"], leaf)
    if now.discriminator:
        terms |= _discriminator(x, leaf, state, task)
    if now.adversarial:
        (grad_gen,) = torch.autograd.grad(terms["generator"], leaf, retain_graph=True)
        assert not isinstance(state.codec.decoder, nn.Identity)
        last = state.codec.decoder.conv_out.weight
        at_last = [
            state.world.mean(torch.autograd.grad(x_rec, last, g, retain_graph=True)[0]) for g in (gradient, grad_gen)
        ]
        terms["adaptive"] = losses.adaptive_weight(*at_last)
        gradient = gradient + config.disc_weight * now.adversarial * terms["adaptive"] * grad_gen
    roots, gradients = [x_rec], [task.share * gradient]
    for name, term in _of_quantizers(state, quantized, task).items():
        terms[name] = term.value
        if config.train == "all":
            roots.append(term.value)
            gradients.append(torch.full_like(term.value, task.share * term.weight * now.quantized))
    torch.autograd.backward(roots, gradients, inputs=task.trained)
    if now.discriminator:
        loss = terms["discriminator"]
        if config.lecam_weight:
            loss = loss + config.lecam_weight * terms["lecam"]
        torch.autograd.backward([task.share * loss], inputs=list(state.discriminator.parameters()))
    return PartResult(task.share, {name: term.detach() for name, term in terms.items()}, quantized.detached())


def _of_quantizers(state: CodecState, quantized: Quantized, task: PartTask) -> dict[str, Term]:
    """The terms of the quantizers by name, summed over levels of codes."""
    terms: dict[str, Term] = {}
    for quantizer, level in zip(state.codec.quantizers, state.codec.by_level(quantized), strict=True):
        of_level = quantizer_terms(quantizer, level, task.config, kl=task.now.kl, mean=state.world.mean_with_gradient)
        for name, term in of_level.items():
            terms[name] = term if name not in terms else Term(terms[name].value + term.value, term.weight)
    return terms


def _reconstruction(x: Tensor, x_rec: Tensor, state: CodecState, task: PartTask) -> dict[str, Tensor]:
    """The pixel and perceptual terms, and `reconstruction`, their weighted sum; of a dVAE, the likelihood."""
    config, perceptual = task.config, task.perceptual
    if state.codec.config.network == "dvae":
        nll = losses.logit_laplace_nll(x, x_rec)
        return {"nll": nll, "reconstruction": nll}
    terms = {"l1": losses.l1(x, x_rec)}
    total = config.l1_weight * terms["l1"]
    if config.l2_weight:
        terms["l2"] = losses.l2(x, x_rec)
        total = total + config.l2_weight * terms["l2"]
    if perceptual is not None and (config.perceptual_weight or config.logits_weight):
        with autocast(x.device, state.precision):
            with torch.no_grad():
                real = perceptual.features(x, state.step + task.first)
            rebuilt = perceptual.features(x_rec, real.step)
        if config.perceptual_weight:
            terms["perceptual"] = perceptual.between(real, rebuilt).mean()
            total = total + config.perceptual_weight * terms["perceptual"]
        if config.logits_weight:
            terms["logits"] = losses.class_distance(real.logits, rebuilt.logits)
            total = total + config.logits_weight * terms["logits"]
    terms["reconstruction"] = total
    return terms


def _discriminator(x: Tensor, x_rec: Tensor, state: CodecState, task: PartTask) -> dict[str, Tensor]:
    """Both adversarial losses, from one pass of the discriminator over real and one over generated pictures."""
    config = task.config
    if config.disc_augment:
        drawn = draws(state.seed, state.images_seen + task.first, len(x))
        x, x_rec = (augmented(each, config.disc_augment, drawn) for each in (x, x_rec))
    logits = state.discriminate(x, x_rec, state.precision)
    terms = {
        "discriminator": losses.discriminator_loss(logits, state.discriminator.config.disc_loss),
        "generator": losses.generator_loss(logits.fake),
        "logits_real": logits.real.float().mean(),
        "logits_fake": logits.fake.float().mean(),
    }
    if config.lecam_weight:
        terms["lecam"] = losses.lecam(logits, state.logit_means)
    return terms


_OF_DISCRIMINATOR = ("discriminator", "lecam", "logits_real", "logits_fake", "disc_gradient", "disc_statistics")


def _non_finite(names: Sequence[str], values: Sequence[Tensor]) -> str:
    """A message about the first value, a scalar on the CPU, that is not finite, with the remedy; empty if all are
    finite."""
    for name, value in zip(names, values, strict=True):
        if not math.isfinite(value):
            rate = "--disc-learning-rate or --learning-rate" if name in _OF_DISCRIMINATOR else "--learning-rate"
            return f"{name} is {value.item()}; nothing was updated. Lower {rate}, or use --precision fp32"
    return ""
