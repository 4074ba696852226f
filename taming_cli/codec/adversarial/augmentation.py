"""Random changes of the pictures that the discriminator sees, through which the codec's gradient passes.

Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training", with the ranges of their code. A
discriminator that sees each of a few pictures in many ways memorises them later.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.runtime.device import to_device

_DRAWS = 7  # brightness, saturation, contrast; rows and columns of the translation; those of the hole
_SHIFT = 1 / 8
"""Largest translation, as a share of a side."""
_HOLE = 1 / 2
"""Side of the hole, as a share of that of the picture."""


Draws = np.ndarray[Any, np.dtype[np.float64]]
"""Random numbers of pictures, (B, 7): on the host, since translations are decided there."""


def draws(seed: int, first: int, count: int) -> Draws:
    """Uniform random numbers for `augmented`, (count, 7) in [0, 1).

    Those of a picture are a function of the seed and of its number in the training, which is `first` for the first one.
    """
    rows = [np.random.default_rng((seed, first + index)).random(_DRAWS) for index in range(count)]
    return np.stack(rows)


def augmented(pictures: Tensor, policies: Collection[str], drawn: Draws) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] -> the same, fp32, changed by random numbers `drawn` (B, 7), in this order:

    - colour: brightness x + b, b in [-1/2, 1/2]; saturation, the difference from a pixel's mean over channels times 0
      to 2; contrast, the difference from the picture's mean times 1/2 to 3/2. Values may leave [-1, 1].
    - translation: by at most an eighth of each side; what comes in is 0, a medium grey.
    - cutout: a hole of 0, half as wide and high as the picture, whose centre is anywhere in it.
    """
    x = pictures.float()
    if "colour" in policies:
        x = _coloured(x, to_device(torch.from_numpy(drawn[:, :3]).float(), x.device))
    if "translation" in policies:
        x = torch.stack([_moved(one, shares) for one, shares in zip(x, drawn[:, 3:5].tolist(), strict=True)])
    if "cutout" in policies:
        x = x * to_device(_holes(x.shape[2], x.shape[3], torch.from_numpy(drawn[:, 5:7])), x.device)
    return x.contiguous(memory_format=torch.channels_last)


def _coloured(x: Tensor, drawn: Tensor) -> Tensor:
    """(B, 3, H, W) and (B, 3) -> (B, 3, H, W)."""
    brightness, saturation, contrast = drawn[:, :, None, None, None].unbind(1)
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * saturation)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (contrast + 0.5)


def _moved(picture: Tensor, drawn: Sequence[float]) -> Tensor:
    """(3, H, W) -> the same, moved by up to `_SHIFT` along each side."""
    most = [int(side * _SHIFT + 0.5) for side in picture.shape[1:]]
    down, right = (int(share * (2 * pixels + 1)) - pixels for share, pixels in zip(drawn, most, strict=True))
    return F.pad(picture, (right, -right, down, -down))


def _holes(height: int, width: int, drawn: Tensor) -> Tensor:
    """Masks (B, 1, H, W) fp32, 0 in the hole and 1 elsewhere, from (B, 2)."""
    inside = []
    for side, share in ((height, drawn[:, :1]), (width, drawn[:, 1:])):
        size = int(side * _HOLE + 0.5)
        start = (share * (side + 1 - size % 2)).floor() - size // 2
        cells = torch.arange(side)
        inside.append((cells >= start) & (cells < start + size))  # (B, side)
    rows, columns = inside
    return 1.0 - (rows[:, None, :, None] & columns[:, None, None, :]).float()
