"""Encoder and decoder of DALL-E's discrete VAE (Ramesh et al. 2021, appendix A.1), without normalisation or attention.

The logits of the codes and the entries that the decoder reads are in the quantizer (`GumbelQuantizer`): the encoder's
last convolution and the decoder's first one, of kernel 1, which the published modules include.
"""

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.config.codec import CodecConfig
from taming_cli.runtime.gradient_checkpointing import Recomputable

SHRINK = 0.8
"""The length of [0.1, 0.9], to which the pixels' range [0, 1] is mapped, so that the logit of each value is small."""
BOTTLENECK = 4
"""The inner convolutions of a block have a fourth of its channels."""


def shrunk(x: Tensor) -> Tensor:
    """Pixels in [-1, 1] -> [0.1, 0.9]."""
    return SHRINK / 2 * x + 0.5


class DVAEBlock(Recomputable):
    """(B, in, H, W) -> (B, out, H, W): four convolutions after a ReLU each, scaled by `gain`, beside a shortcut.
    `kernels` are the sides of their kernels."""

    def __init__(self, in_channels: int, out_channels: int, kernels: tuple[int, ...], gain: float) -> None:
        super().__init__()
        inner = out_channels // BOTTLENECK
        widths = (in_channels, inner, inner, inner, out_channels)
        self.gain = gain
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel, padding=kernel // 2)
            for (a, b), kernel in zip(pairwise(widths), kernels, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        h = x
        for conv in self.convs:
            h = conv(F.relu(h))
        y: Tensor = (x if self.shortcut is None else self.shortcut(x)) + self.gain * h
        return y


def _groups(config: CodecConfig, widths: list[int], kernels: tuple[int, ...]) -> nn.ModuleList:
    """Groups of blocks, the first of which reads `widths[0]` channels; the resolution changes between them."""
    gain = 1 / (len(config.ch_mult) * config.num_res_blocks) ** 2
    return nn.ModuleList(
        nn.Sequential(
            *(DVAEBlock(a if number == 0 else b, b, kernels, gain) for number in range(config.num_res_blocks))
        )
        for a, b in pairwise(widths)
    )


def initialise(network: nn.Module) -> None:
    """Weights of convolutions have the variance 1 / n, where n values of the input add up to a value of the output, and
    there are no biases at first, as published."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            area = math.prod(module.kernel_size)
            if isinstance(module, nn.ConvTranspose2d):
                area //= math.prod(module.stride)
            nn.init.normal_(module.weight, std=(module.in_channels * area) ** -0.5)
            assert module.bias is not None
            nn.init.zeros_(module.bias)


class DVAEEncoder(nn.Module):
    """Pictures to what the logits are computed from: (B, in_channels, f h, f w) -> (B, C, h, w), where C is `ch` times
    the last of `ch_mult`."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(config.in_channels, config.ch, 7, padding=3)
        widths = [config.ch, *(config.ch * multiple for multiple in config.ch_mult)]
        self.groups = _groups(config, widths, (3, 3, 3, 1))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, f h, f w) in [-1, 1] -> (B, C, h, w)."""
        h = self.read(x)
        for number, group in enumerate(self.groups):
            h = group(h if number == 0 else F.max_pool2d(h, 2))
        return F.relu(h)

    def read(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [-1, 1] -> (B, ch, H, W): the first convolution."""
        h: Tensor = self.conv_in(shrunk(x))
        return h


class DVAEDecoder(nn.Module):
    """Entries to pictures: (B, codebook_dim, h, w) -> (B, out_ch, f h, f w)."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        widths = [config.codebook_dim, *(config.ch * multiple for multiple in reversed(config.ch_mult))]
        self.groups = _groups(config, widths, (1, 3, 3, 3))
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.out_ch, 1)
        initialise(self)

    def forward(self, z: Tensor) -> Tensor:
        """(B, codebook_dim, h, w) -> the most likely pictures (B, out_ch, f h, f w), in [-1, 1]."""
        return self.pictures(self.features(z))

    def features(self, z: Tensor) -> Tensor:
        """(B, codebook_dim, h, w) -> (B, ch, f h, f w): what `pictures` takes."""
        h = z
        for number, group in enumerate(self.groups):
            h = group(h if number == 0 else F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return F.relu(h)

    def pictures(self, h: Tensor) -> Tensor:
        """(B, ch, H, W) -> (B, out_ch, H, W): the picture is at the locations."""
        location = self.write(h).chunk(2, dim=1)[0]
        return ((location.float().sigmoid() - 0.5) * (2 / SHRINK)).clamp(-1, 1)

    def write(self, h: Tensor) -> Tensor:
        """(B, ch, H, W) -> (B, 2 out_ch, H, W): location and logarithm of the scale of each value's logit."""
        x: Tensor = self.conv_out(h)
        return x
