"""Perturbation of codes, for a decoder that is trained on pictures as a prior draws them: the codes of random cells are
replaced, and the decoder learns to reconstruct the true picture (Qiu et al. 2025, "Image Tokenizer Needs
Post-Training").

Replaced codes are near entries of the codebook, or draws from a prior, which comes from above as a function.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from taming_cli.codec.quantizers.nearest import closest
from taming_cli.data.batches import philox
from taming_cli.runtime.device import to_device

Redraw = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Codes (B, h, w) int64, the cells to replace (B, h, w) bool, and noise (B, h, w) fp32 in [0, 1) -> codes (B, h, w).
Other cells keep their codes. The result for a picture depends on its own codes, cells and noise alone."""
NEAR = 1 / 64
"""The fraction of the codebook that is near to an entry. With a larger codebook, entries lie closer together, so that
the same fraction covers about the same part of the latent space."""
MOST_NEAR = 256
"""The largest number of near entries, which bounds the table of them."""
_STREAM = 3  # beside those of `data.batches`, under the same seed


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """Replaces the codes of random cells by `redraw`.

    In each picture, a cell is replaced with probability r, which is drawn uniformly from [0, `share`] for the picture.
    So the decoder also sees pictures with few or no replaced codes, and still reconstructs those. On average, half of
    `share` is replaced.
    """

    share: float
    seed: int
    redraw: Redraw

    @torch.no_grad()
    def __call__(self, codes: Tensor, first: int) -> Tensor:
        """Codes (B, h, w) int64 of the pictures at the positions from `first` on in a training -> codes (B, h, w).

        The result is a function of codes, seed and position, whatever the batch. Does not wait for the device.
        """
        batch, height, width = codes.shape
        cells = height * width
        draws = [
            np.random.Generator(philox(self.seed, _STREAM, first + number)).random(1 + 2 * cells, dtype=np.float32)
            for number in range(batch)
        ]
        noise = to_device(torch.from_numpy(np.stack(draws)), codes.device)
        rate, chosen, uniform = torch.split(noise, [1, cells, cells], dim=1)
        mask = chosen < self.share * rate  # (B, h w)
        return self.redraw(codes, mask.view_as(codes), uniform.view_as(codes))


def near_entries(codebook: Tensor) -> Redraw:
    """Replacement by near entries of a codebook (K, D): each of the N nearest other entries with probability 1 / N, for
    N = min(ceil(K / 64), 256). The code itself is never among them."""
    size = len(codebook)
    count = min(math.ceil(NEAR * size), MOST_NEAR)
    table = closest(codebook, count)

    def redraw(codes: Tensor, mask: Tensor, uniform: Tensor) -> Tensor:
        near = table[codes, (uniform * count).long().clamp(max=count - 1)]
        return torch.where(mask, near, codes)

    return redraw
