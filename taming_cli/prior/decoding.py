"""Logits to tokens: guidance, temperature and filters, applied nowhere else. Pure functions of tensors.

Every filter is a threshold on values, so tied codes are kept or dropped together and the sort order does not matter.
"""

import math

import torch
from torch import Tensor

from taming_cli.config.sampling import Decoding


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Two logits (B, K) -> (B, K): cond + (g - 1) (cond - uncond). Ho & Salimans 2022, with w = g - 1."""
    return conditional + (guidance - 1) * (conditional - unconditional)


def scale_and_filter(logits: Tensor, decoding: Decoding) -> Tensor:
    """Logits (B, K) divided by the temperature, with minus infinity for the codes that the filters drop; at least one
    code is kept.

    Filters apply in this order, each to the result of the one before: top-k (ties with the k-th are kept, as
    published), top-p (the most likely codes, up to the one that reaches the probability; Holtzman et al. 2020), min-p
    (Nguyen et al. 2024).
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
        before = likely.cumsum(-1) - likely  # the probability of all codes likelier than this one
        last = (before < decoding.top_p).sum(-1, keepdim=True).clamp(min=1) - 1
        lowest = torch.maximum(lowest, ordered.gather(-1, last))
    if decoding.min_p > 0:
        lowest = torch.maximum(lowest, logits.amax(-1, keepdim=True) + math.log(decoding.min_p))
    return logits.masked_fill(logits < lowest, -math.inf)


def choose(logits: Tensor, noise: Tensor | None, decoding: Decoding) -> Tensor:
    """Logits (B, K) and Gumbel noise (B, K) -> codes (B,), int64: a draw from the filtered distribution.

    By the Gumbel-max trick, argmax(logits / temperature + noise) is distributed as the softmax. Half-precision logits
    are converted to float32 first. Greedy decoding takes the first of the most likely codes and needs no noise.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if decoding.greedy:
        return logits.argmax(-1)
    assert noise is not None
    return (scale_and_filter(logits, decoding) + noise.to(logits.dtype)).argmax(-1)


def choose_guided(logits: Tensor, noise: Tensor | None, decoding: Decoding, *, guided: bool) -> Tensor:
    """As `choose`. With guidance, there are twice as many logits (2 B, K), first conditional and then unconditional."""
    if guided:
        conditional, unconditional = logits.chunk(2)
        logits = guide(conditional, unconditional, decoding.guidance)
    return choose(logits, noise, decoding)
