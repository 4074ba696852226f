"""Attention to what came before. torch's own kernel does it, but for bf16 on a CPU: there products of whole matrices,
which oneDNN multiplies in bf16, are two to six times faster (torch 2.15).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.runtime.device import full_precision

AT_ONCE = 2**21
"""Scores that are held at once: they stay in the cache of a processor, and need not be kept for the way back."""

FEW = 128
"""Keys of all rows: below, torch's own kernel is faster for a single token."""


def attend_before(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Each token attends to itself and all before it. (B, heads, T, head_size), thrice -> once."""
    if _by_products(q) and not dropout:
        with full_precision(q.device):
            found: Tensor = _Causal.apply(q, k, v)
        return found
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)


def attend_from_one(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None) -> Tensor:
    """One token attends to all keys, or to those that are `seen`, (B, 1, 1, T) bool. (B, heads, 1, head_size), twice
    (B, heads, T, head_size) -> (B, heads, 1, head_size)."""
    if not _by_products(q) or len(keys) * keys.shape[2] < FEW:
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
    with full_precision(q.device):
        scores = torch.matmul(keys, q.transpose(2, 3)).transpose(2, 3)  # (B, heads, 1, T)
        scores = scores.float() / math.sqrt(q.shape[3])
        if seen is not None:
            scores = scores.masked_fill(~seen, -math.inf)
        return torch.matmul(scores.softmax(-1).to(values.dtype), values)


def _by_products(q: Tensor) -> bool:
    return q.device.type == "cpu" and q.dtype == torch.bfloat16


class _Causal(torch.autograd.Function):
    """Scores are made part by part, and once more on the way back."""

    @staticmethod
    def forward(context: Any, *qkv: Tensor) -> Tensor:
        context.save_for_backward(*qkv)
        flat = [each.flatten(0, 1) for each in qkv]  # (B heads, T, head_size)
        parts = [torch.bmm(_weights(q, k), v) for q, k, v in _parts(*flat)]
        return torch.cat(parts).view(qkv[0].shape)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        shape = gradients[0].shape
        flat = [each.flatten(0, 1) for each in (*context.saved_tensors, *gradients)]
        with full_precision(gradients[0].device):
            found = [_back(*part) for part in _parts(*flat)]
        return tuple(torch.cat(each).view(shape) for each in zip(*found, strict=True))


def _parts(*tensors: Tensor) -> Any:
    """(n, T, ...) each, in parts of n."""
    count, length = tensors[0].shape[:2]
    rows = max(1, AT_ONCE // length**2)
    return zip(*(torch.split(each, rows) for each in tensors), strict=True) if count > rows else [tensors]


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """(n, T, head_size), twice -> what each token makes of those before it, (n, T, T)."""
    length = q.shape[1]
    later = torch.full((length, length), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    scores = torch.baddbmm(later.expand(len(q), -1, -1), q, k.transpose(1, 2), alpha=1 / math.sqrt(q.shape[2]))
    return scores.softmax(-1)


def _back(q: Tensor, k: Tensor, v: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weights = _weights(q, k)
    of_weights = torch.bmm(gradient, v.transpose(1, 2))
    of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
    scale = 1 / math.sqrt(q.shape[2])
    return (
        torch.bmm(of_scores, k) * scale,
        torch.bmm(of_scores.transpose(1, 2), q) * scale,
        torch.bmm(weights.transpose(1, 2), gradient),
    )
