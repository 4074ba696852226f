"""Causal and masked self-attention: torch's kernel, with a faster backward pass for bf16 on a CPU.

There the backward pass of torch does not use the matrix instructions of the processor. Plain matrix products do: they
take 17 ms instead of 31 ms for 32 heads of 511 tokens with AMX, and the same time without (torch 2.14;
`scripts/RESULTS.md`).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from taming_cli.runtime.device import full_precision

ROWS = 256
"""Number of queries whose scores are in memory at once. Keys after the last of them are not read, which saves up to
half the work."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Each token attends to itself and all tokens before it. (B, heads, T, head_size), three times -> once."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled() and not dropout:
        y: Tensor = _Causal.apply(q, k, v)
        return y
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)


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


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(head_size) + mask) v: q (B, heads, T, head_size), k and v (B, heads, L, head_size), mask
    (B, T, L) or (1, T, L) of the same dtype -> (B, heads, T, head_size). Each row of the mask has a finite value."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled():
        y: Tensor = _Masked.apply(q, k, v, mask)
        return y
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])


class _Masked(torch.autograd.Function):
    """As `_Causal`, picture by picture, since each may have a mask of its own."""

    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        context.save_for_backward(q, k, v, mask)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """As of `_Causal`."""
        q, k, v, mask = context.saved_tensors
        scale = 1 / math.sqrt(q.shape[-1])
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        with full_precision(q.device):
            for b in range(len(q)):
                for start in range(0, q.shape[2], ROWS):
                    rows = slice(start, start + ROWS)
                    here = mask[b % len(mask)][rows].expand(q.shape[1], -1, -1)
                    weights = torch.baddbmm(here, q[b][:, rows], k[b].mT, alpha=scale).softmax(-1)
                    of_weights = torch.bmm(grad[b][:, rows], v[b].mT)
                    of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
                    torch.mul(torch.bmm(of_scores, k[b]), scale, out=dq[b][:, rows])
                    dk[b].baddbmm_(of_scores.mT, q[b][:, rows], alpha=scale)
                    dv[b].baddbmm_(weights.mT, grad[b][:, rows])
        return dq, dk, dv, None
