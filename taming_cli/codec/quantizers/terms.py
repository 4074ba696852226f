"""The terms that a quantizer adds to the loss of a codec in training."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.codec import losses
from taming_cli.codec.quantizers.gumbel import GumbelQuantizer
from taming_cli.codec.quantizers.quantized import AnyQuantizer, Quantized
from taming_cli.codec.quantizers.scalar import FSQ, LFQ
from taming_cli.config.codec_training import CodecTrainConfig

_BITS = 10
"""Most bits of a code whose joint distribution is computed. Longer codes are divided into groups."""


class Term(NamedTuple):
    """A term, a scalar, and its weight."""

    value: Tensor
    weight: float


def quantizer_terms(
    quantizer: AnyQuantizer,
    quantized: Quantized,
    config: CodecTrainConfig,
    *,
    kl: float = 1.0,
    mean: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> dict[str, Term]:
    """The terms by name, of one level of codes. `kl` is the share, 0 to 1, at which the KL divergence counts. `mean`
    averages a tensor over all processes, with its gradient."""
    if isinstance(quantizer, FSQ):
        return {}
    if isinstance(quantizer, GumbelQuantizer):
        if quantized.logits is None:
            return {}
        return {"kl": Term(losses.kl_to_uniform(quantized.logits), config.kl_weight * kl)}
    if isinstance(quantizer, LFQ):
        entropies = _of_bits(quantized.z_e, config.entropy_temperature, mean)
    elif quantized.logits is not None:
        entropies = _of_logits(quantized.logits, config.entropy_temperature, mean)
    else:
        entropies = None
    terms = {"codebook": Term(_codebook(quantized, config), config.codebook_weight)}
    if entropies is not None:
        sample, batch = entropies
        terms["entropy"] = Term(sample - batch, config.entropy_weight)
    return terms


def _codebook(quantized: Quantized, config: CodecTrainConfig) -> Tensor:
    """The commitment term and, where the entries learn by their gradient, the codebook term. With index
    backpropagation, the commitment is also that of the estimate (Shi et al. 2024, equation 7)."""
    learned = config.quantizer in ("vq", "simvq", "ibq")
    z_e, z_q = quantized.z_e, quantized.z_q
    if config.quantizer != "ibq" or quantized.estimate is None:
        return losses.codebook_loss(z_e, z_q, config.beta, legacy=config.legacy, learned=learned)
    return F.mse_loss(quantized.estimate, z_e) + losses.codebook_loss(z_e, z_q, config.beta, legacy=True)


class _Entropies(NamedTuple):
    """The mean entropy of a cell's distribution over codes, and the entropy of the mean distribution, nats: scalars."""

    sample: Tensor
    batch: Tensor


def _of_logits(logits: Tensor, temperature: float, mean: Callable[[Tensor], Tensor]) -> _Entropies:
    """The entropies of codes with these logits (B, K, h, w) (Yu et al. 2023, equation 4)."""
    probabilities = (logits / temperature).softmax(1).permute(0, 2, 3, 1).flatten(0, 2)
    return _Entropies(losses.entropy(probabilities).mean(), losses.entropy(mean(probabilities.mean(0))))


def _of_bits(z_e: Tensor, temperature: float, mean: Callable[[Tensor], Tensor]) -> _Entropies:
    """The entropies of codes of the signs of `z_e` (B, D, h, w), whose logits are `2 z_e . entry`.

    Given a cell, the bits of its code are independent, so the entropy of the code is the sum of theirs. The mean
    distribution is the joint one of groups of at most 10 bits (as Zhao et al. 2024 do), whose entropies are summed.
    """
    positive = torch.sigmoid(4 * z_e.permute(0, 2, 3, 1).flatten(0, 2) / temperature)  # (N, D)
    sample = losses.entropy(torch.stack((positive, 1 - positive), -1)).sum(1).mean()
    batch = torch.zeros_like(sample)
    for group in torch.split(positive, _BITS, 1):
        joint = torch.ones_like(group[:, :1])
        for bit in group.unbind(1):
            joint = torch.cat((joint * (1 - bit[:, None]), joint * bit[:, None]), 1)  # (N, 2^bits)
        batch = batch + losses.entropy(mean(joint.mean(0)))
    return _Entropies(sample, batch)
