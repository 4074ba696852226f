"""Causal and masked self-attention: torch's kernel, with a faster backward pass for bf16 on a CPU.

There the backward pass of torch does not use the matrix instructions of the processor. Plain matrix products do: they
take 17 ms instead of 31 ms for 32 heads of 511 tokens with AMX, and the same time without (torch 2.14;
`scripts/RESULTS.md`).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from taming_cli.prior.networks.reach import Part
from taming_cli.runtime.device import full_precision, has_amx

ROWS = 256
"""Number of queries whose scores are in memory at once. Keys after the last of them are not read, which saves up to
half the work."""
SCORES = 2**23
"""Scores of masked attention that are in memory at once in the backward pass."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Each token attends to itself and all tokens before it. (B, heads, T, head_size), three times -> once."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled() and not dropout:
        y: Tensor = _Causal.apply(q, k, v)
        return y
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)


def cached_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """New tokens attend to those of a cache: q (B, heads, T, head_size), k and v (B, heads, L, head_size), a mask that
    is added to the scores -> (B, heads, T, head_size).

    In bf16 on a CPU without AMX, torch takes twice the time for one query that it takes for two (`scripts/RESULTS.md`).
    So a single query is computed twice.
    """
    if q.shape[2] == 1 and q.dtype == torch.bfloat16 and q.device.type == "cpu" and not has_amx():
        return F.scaled_dot_product_attention(torch.cat((q, q), 2), k, v, attn_mask=mask)[:, :, :1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class _Causal(torch.autograd.Function):
    """The scores are not kept: the backward pass recomputes them, `ROWS` queries at a time."""

    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        context.save_for_backward(q, k, v)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With P = softmax(S), S = q k^T / sqrt(d) and dP = grad v^T: dS = P (dP - sum(P dP)), and
        dq = dS k / sqrt(d), dk = dS^T q / sqrt(d), dv = P^T grad."""
        q, k, v, g = (each.flatten(0, 1) for each in (*context.saved_tensors, grad))  # (B heads, T, head_size)
        scale = 1 / math.sqrt(q.shape[2])
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        with full_precision(q.device):
            for start in range(0, q.shape[1], ROWS):
                end = min(start + ROWS, q.shape[1])
                rows, keys = slice(start, end), slice(0, end)
                later = torch.full((end - start, end), -math.inf, dtype=q.dtype, device=q.device).triu(start + 1)
                scores = torch.baddbmm(later.expand(len(q), -1, -1), q[:, rows], k[:, keys].mT, alpha=scale)
                weights = scores.softmax(-1)
                d_weights = torch.bmm(g[:, rows], v[:, keys].mT)
                d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
                torch.mul(torch.bmm(d_scores, k[:, keys]), scale, out=dq[:, rows])
                dk[:, keys].baddbmm_(d_scores.mT, q[:, rows], alpha=scale)
                dv[:, keys].baddbmm_(weights.mT, g[:, rows])
        dq, dk, dv = (each.view(grad.shape) for each in (dq, dk, dv))
        return dq, dk, dv


def masked_attention(q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part]) -> Tensor:
    """softmax(q k^T / sqrt(head_size) + mask) v, part by part: q (B, heads, T, head_size), k and v (B, heads, L,
    head_size) -> (B, heads, T, head_size). Each query is in one part. Each row of a mask has a finite value."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled():
        y: Tensor = _Masked.apply(q, k, v, parts)
        return y
    return _in_parts(q, k, v, parts)


def _in_parts(q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part]) -> Tensor:
    found = [
        F.scaled_dot_product_attention(q[:, :, rows], _take(k, keys), _take(v, keys), attn_mask=mask[:, None])
        for rows, keys, mask in parts
    ]
    if len(found) == 1:
        return found[0]
    y = torch.empty_like(q)
    for (rows, _, _), part in zip(parts, found, strict=True):
        y[:, :, rows] = part
    return y


def _take(of: Tensor, keys: Tensor | tuple[slice, ...]) -> Tensor:
    """Some of (..., L, head_size), along L. Indices are fast where the heads of a token are adjacent, as in a cache."""
    if isinstance(keys, Tensor) and of.ndim == 4:
        batch, heads, tokens, size = of.shape
        first = torch.arange(batch, device=of.device)[:, None] * tokens
        found = F.embedding(first + keys, of.transpose(1, 2).reshape(batch * tokens, heads * size))
        return found.view(batch, -1, heads, size).transpose(1, 2)
    if isinstance(keys, Tensor):
        return of[..., keys, :]
    return of[..., keys[0], :] if len(keys) == 1 else torch.cat([of[..., each, :] for each in keys], dim=-2)


class _Masked(torch.autograd.Function):
    """As `_Causal`, part by part, and some of the pictures at a time."""

    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part]) -> Tensor:
        context.save_for_backward(q, k, v)
        context.parts = parts
        return _in_parts(q, k, v, parts)

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """As of `_Causal`."""
        q, k, v, grad = (each.contiguous() for each in (*context.saved_tensors, grad))
        batch, heads = q.shape[:2]
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        with full_precision(q.device):
            for rows, keys, mask in context.parts:
                together = max(1, SCORES // (heads * mask[0].numel()))
                for start in range(0, batch, together):
                    some = slice(start, start + together)
                    own = mask[some] if len(mask) > 1 else mask
                    of_heads = (each[some].flatten(0, 1) for each in (q, k, v, grad, dq, dk, dv))  # views
                    _add_gradients(rows, keys, own[:, None].expand(-1, heads, -1, -1), *of_heads)
        scale = 1 / math.sqrt(q.shape[-1])
        return dq.mul_(scale), dk.mul_(scale), dv, None


def _add_gradients(
    rows: Tensor | slice,
    keys: Tensor | tuple[slice, ...],
    mask: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
) -> None:
    """Add the gradients of a part to `dq`, `dk` and `dv`, those of q and k without their scale, 1 / sqrt(head_size).

    Tensors are (N, T or L, head_size) for the N heads of some pictures, and `mask` is (pictures or 1, heads, T, L).
    """
    asked, of_output, seen, values = q[:, rows], grad[:, rows], _take(k, keys), _take(v, keys)
    mask = mask.expand(len(q) // mask.shape[1], -1, -1, -1).flatten(0, 1)
    weights = torch.baddbmm(mask, asked, seen.mT, alpha=1 / math.sqrt(q.shape[2])).softmax(-1)
    of_weights = torch.bmm(of_output, values.mT)
    of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
    dq[:, rows] = torch.bmm(of_scores, seen)
    if isinstance(keys, Tensor):
        dk.index_add_(1, keys, torch.bmm(of_scores.mT, asked))
        dv.index_add_(1, keys, torch.bmm(weights.mT, of_output))
        return
    for each, columns in zip(keys, _columns(keys, k.shape[1]), strict=True):
        dk[:, each].baddbmm_(of_scores[..., columns].mT, asked)
        dv[:, each].baddbmm_(weights[..., columns].mT, of_output)


def _columns(keys: tuple[slice, ...], tokens: int) -> Iterator[slice]:
    """Where the tokens of each slice stand in what `_take` returns."""
    start = 0
    for each in keys:
        end = start + len(range(tokens)[each])
        yield slice(start, end)
        start = end
