"""Logits to tokens: the only place where guidance, temperature and filters act. Pure functions of tensors.

Every filter is a threshold on values, so codes that tie are kept or dropped together and no order of sorting matters.
"""

import math

import torch
from torch import Tensor

from taming_cli.config.sampling import DecodingConfig


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Logits (B, K), twice, to (B, K): cond + (g - 1) (cond - uncond) (Ho & Salimans 2022, their w being g - 1)."""
    return conditional + (guidance - 1) * (conditional - unconditional)


def scale_and_filter(logits: Tensor, decoding: DecodingConfig) -> Tensor:
    """Logits (B, K) over temperature, with minus infinity for the codes that the filters drop; at least one is left.

    Applied in order, each to what the one before left: top-k (as published, what ties with the k-th stays), top-p (the
    most likely codes, up to the one that reaches the probability; Holtzman et al. 2020), min-p (Nguyen et al. 2024).
    """
    logits = logits / decoding.temperature
    codebook_size = logits.shape[-1]
    lowest = torch.full_like(logits[..., :1], -math.inf)
    if 0 < decoding.top_k < codebook_size:
        lowest = logits.topk(decoding.top_k, dim=-1).values[..., -1:]
    if decoding.top_p < 1:
        kept = logits.masked_fill(logits < lowest, -math.inf)
        ordered = kept.sort(dim=-1, descending=True).values
        likely = ordered.softmax(-1)
        before = likely.cumsum(-1) - likely  # the probability of what is likelier than this one
        last = (before < decoding.top_p).sum(-1, keepdim=True).clamp(min=1) - 1
        lowest = torch.maximum(lowest, ordered.gather(-1, last))
    if decoding.min_p > 0:
        lowest = torch.maximum(lowest, logits.amax(-1, keepdim=True) + math.log(decoding.min_p))
    return logits.masked_fill(logits < lowest, -math.inf)


def choose(logits: Tensor, noise: Tensor | None, decoding: DecodingConfig) -> Tensor:
    """Logits (B, K) and Gumbel noise (B, K) to codes (B,), int64: a draw from the filtered distribution.

    The Gumbel-max trick: argmax(logits / temperature + noise) is distributed as the softmax. Half-precision logits are
    raised to float32 first. Greedy takes the first of the most likely codes, and needs no noise.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if decoding.greedy:
        return logits.argmax(-1)
    assert noise is not None
    return (scale_and_filter(logits, decoding) + noise.to(logits.dtype)).argmax(-1)
