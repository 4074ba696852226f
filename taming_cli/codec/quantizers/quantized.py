"""The result of a quantizer, and the ways in which a gradient passes through it."""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Quantized(NamedTuple):
    """`z_e` (B, D, h, w) as it is compared with the codebook; `z_q` (B, D, h, w), its nearest entries, differentiable
    with respect to the codebook; `codes` (B, h, w) int64; `logits` (B, K, h, w), from which codes are sampled or
    gradients are taken in training, or None; `estimate`, what the decoder reads in training in place of
    `straight_through`, or None."""

    z_e: Tensor
    z_q: Tensor
    codes: Tensor
    logits: Tensor | None = None
    estimate: Tensor | None = None

    def to_decoder(self) -> Tensor:
        """`z_q` (B, D, h, w), whose gradient passes to `z_e`."""
        return straight_through(self.z_e, self.z_q) if self.estimate is None else self.estimate

    def detached(self) -> "Quantized":
        """The same without gradients, logits and estimate."""
        return Quantized(self.z_e.detach(), self.z_q.detach(), self.codes)


class AnyQuantizer(Protocol):
    """What every quantizer has."""

    training: bool

    @property
    def codebook(self) -> Tensor:
        """The entries (K, D) as they are decoded, fp32."""

    def __call__(self, z: Tensor) -> Quantized:
        """(B, channels, h, w) -> Quantized, in fp32 without TF32, regardless of the caller's autocast."""

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) in [0, K) -> entries (B, D, h, w) fp32."""


def straight_through(z_e: Tensor, z_q: Tensor) -> Tensor:
    """`z_q` (B, D, h, w), whose gradient passes to `z_e` unchanged (Bengio et al. 2013)."""
    return z_e + (z_q - z_e).detach()


def rotated(z_e: Tensor, z_q: Tensor) -> Tensor:
    """`z_q` (B, D, h, w), whose gradient passes to `z_e` through the rotation and scaling that map `z_e` to `z_q`,
    which are constants (Fifty et al. 2024, section 4.2).

    With unit vectors e and q and r = (e + q) / |e + q|, the rotation is z - 2 r (r . z) + 2 q (e . z). Where e = -q, no
    rotation is the right one, and the gradient passes unchanged.
    """
    with torch.no_grad():
        lengths, others = (torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp(min=1e-6) for z in (z_e, z_q))
        e, q = z_e / lengths, z_q / others
        r = F.normalize(e + q, dim=1, eps=1e-6)
        opposite = (e * q).sum(1, keepdim=True) < -1 + 1e-6
        scale = torch.where(opposite, 1.0, others / lengths)

    def along(direction: Tensor) -> Tensor:
        return (z_e * direction).sum(1, keepdim=True)

    turned = scale * torch.where(opposite, z_e, z_e - 2 * r * along(r) + 2 * q * along(e))
    return turned + (z_q - turned).detach()  # the value is that of z_q to the bit


def by_index(logits: Tensor, z_q: Tensor, codebook: Tensor) -> Tensor:
    """`z_q` (B, D, h, w), the entries with the largest of the `logits` (B, K, h, w), whose gradient passes to the
    logits as if it were the mean of the codebook (K, D) under their softmax (Shi et al. 2024, equation 4)."""
    mean = torch.einsum("bkhw,kd->bdhw", logits.softmax(1), codebook.detach())
    return z_q + (mean - mean.detach())
