"""The two forward passes of a codec's training step, each as one call: what processes that train together wrap."""

import torch
from torch import Tensor, nn

from taming_cli.codec.discriminator import Discriminator
from taming_cli.codec.losses import DiscriminatorLogits
from taming_cli.codec.quantizers import Quantized
from taming_cli.codec.vqgan import VQGAN
from taming_cli.runtime.device import autocast, full_precision


class Reconstructing(nn.Module):
    """Pictures through a codec and back."""

    def __init__(self, codec: VQGAN) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor, precision: torch.dtype) -> tuple[Tensor, Quantized]:
        """(B, C, H, W) -> the reconstruction, of the same shape and fp32, and what the quantizer made of it."""
        codec = self.codec
        with autocast(x.device, precision):
            quantized = codec.quantized(x)
            features = codec.decoder.features(codec.post_quant_conv(quantized.straight_through()))
        with full_precision(x.device):
            return codec.decoder.conv_out(features.float()), quantized


class Comparing(nn.Module):
    """Real, then generated pictures through a discriminator: its batch statistics are of each by itself."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, real: Tensor, fake: Tensor, precision: torch.dtype) -> DiscriminatorLogits:
        """(B, C, H, W), twice -> logits (B, 1, h, w), twice."""
        with autocast(real.device, precision):
            return DiscriminatorLogits(real=self.discriminator(real), fake=self.discriminator(fake))
