"""A codebook whose code is the nearest entry."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.codec.quantizers.quantized import Quantized, by_index, rotated
from taming_cli.runtime.device import to_device
from taming_cli.runtime.fp32 import exact

Gradient = Literal["straight-through", "rotation", "index"]
_DISTANCES = 2**23
"""Largest number of distances in memory at once; it bounds the number of vectors that are compared at a time."""


class Quantizer(nn.Module):
    """A codebook (K, D). With `normalize`, vectors and entries are compared on the unit sphere (Yu et al. 2022).

    `gradient` is the way in which the decoder's gradient passes through the quantizer in training: `straight_through`
    or `rotated`, or `by_index`, with the logits `2 z.e - |e|^2`, of which the nearest entry has the largest.
    """

    gradient: Gradient = "straight-through"

    def __init__(self, codebook_size: int, codebook_dim: int, *, normalize: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, codebook_dim)
        self.normalize = normalize
        if normalize:
            nn.init.normal_(self.embedding.weight)
        else:
            nn.init.uniform_(self.embedding.weight, -1.0 / codebook_size, 1.0 / codebook_size)

    @property
    def codebook(self) -> Tensor:
        """The entries (K, D) as they are compared and decoded, fp32."""
        weight = self.embedding.weight.float()
        return F.normalize(weight, dim=1) if self.normalize else weight

    def forward(self, z: Tensor) -> Quantized:
        """(B, D, h, w) -> Quantized, in fp32 without TF32, regardless of the caller's autocast."""
        with exact(z.device):
            z_e = F.normalize(z.float(), dim=1) if self.normalize else z.float()
            codes = nearest(z_e.permute(0, 2, 3, 1).reshape(-1, z.shape[1]), self.codebook)
            codes = codes.view(z.shape[0], z.shape[2], z.shape[3])
            z_q = self.lookup(codes)
            if not self.training or self.gradient == "straight-through":
                return Quantized(z_e, z_q, codes)
            if self.gradient == "rotation":
                return Quantized(z_e, z_q, codes, estimate=rotated(z_e, z_q))
            codebook = self.codebook
            logits = 2 * torch.einsum("bdhw,kd->bkhw", z_e, codebook) - codebook.pow(2).sum(1)[:, None, None]
            return Quantized(z_e, z_q, codes, logits, by_index(logits, z_q, codebook))

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) in [0, K) -> entries (B, D, h, w) fp32."""
        return F.embedding(codes, self.codebook).permute(0, 3, 1, 2)


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The index of each vector's nearest entry: (N, D), (K, D) -> (N,) int64; argmin of |z|^2 + |e|^2 - 2 z.e."""
    squares = codebook.pow(2).sum(1)
    codes = []
    for rows in torch.split(vectors, max(1, _DISTANCES // len(codebook))):
        distance = rows.pow(2).sum(1, keepdim=True) + squares - 2 * rows @ codebook.t()
        codes.append(distance.argmin(1))
    return torch.cat(codes)


@torch.no_grad()
def closest(codebook: Tensor, count: int) -> Tensor:
    """The `count` nearest other entries of each entry, the nearest first: (K, D) -> (K, count) int64; count < K."""
    squares, found = codebook.pow(2).sum(1), []
    with exact(codebook.device):
        numbers = torch.arange(len(codebook), device=codebook.device)
        for own in torch.split(numbers, max(1, _DISTANCES // len(codebook))):
            distance = squares - 2 * codebook[own] @ codebook.t()  # up to |e|^2 of the entry itself
            distance.scatter_(1, own[:, None], torch.inf)
            found.append(distance.topk(count, dim=1, largest=False).indices)
    return torch.cat(found)


def choose_vectors(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random vectors of (N, D), without repetition if there are so many, else with a little noise."""
    places = torch.randperm(len(vectors), generator=generator)
    if len(vectors) < count:
        places = torch.randint(len(vectors), (count,), generator=generator)
    chosen = vectors[to_device(places[:count], vectors.device)]
    if len(vectors) >= count:
        return chosen
    noise = to_device(torch.randn(chosen.shape, generator=generator), chosen.device)
    spread = vectors.std(0) if len(vectors) > 1 else torch.zeros_like(vectors[0])  # std of one vector is NaN
    return chosen + 0.02 * spread * noise
