"""The networks of a VQ-VAE-2 with two levels (Razavi et al. 2019), laid out as in the well-known PyTorch port.

The bottom level has a code for 4 x 4 pixels, the top level one for 8 x 8. Elsewhere, the codes of a picture are one
grid, that of the bottom level, on which each top code covers 2 x 2 cells: see `join_levels`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from taming_cli.codec.dvae import initialise
from taming_cli.codec.quantizers.nearest import Quantizer
from taming_cli.codec.quantizers.quantized import Quantized
from taming_cli.config.codec import CodecConfig
from taming_cli.runtime.gradient_checkpointing import Recomputable


class CodeLevels(NamedTuple):
    """The codes of both levels, `bottom` (..., h, w) and `top` (..., h/2, w/2), in [0, K)."""

    bottom: Tensor
    top: Tensor


def join_levels(levels: CodeLevels, codebook_size: int) -> Tensor:
    """Codes of both levels -> joint codes top K + bottom, (..., h, w) in [0, K^2)."""
    return _doubled(levels.top) * codebook_size + levels.bottom


def split_levels(codes: Tensor, codebook_size: int) -> CodeLevels:
    """The inverse of `join_levels`. A top code is read at the upper left of its 2 x 2 cells."""
    return CodeLevels(codes % codebook_size, _halved(codes) // codebook_size)


def _doubled(x: Tensor) -> Tensor:
    """(..., h, w) -> (..., 2 h, 2 w): each value four times."""
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)


def _halved(x: Tensor) -> Tensor:
    """The inverse of `_doubled`."""
    return x[..., ::2, ::2]


class VQVAE2Block(Recomputable):
    """(B, ch, H, W) -> (B, ch, H, W): two convolutions, with a kernel of 3 and of 1, after a ReLU each, beside a
    shortcut."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        ch, inner = config.ch, config.n_res_channel
        self.conv = nn.Sequential(nn.ReLU(), nn.Conv2d(ch, inner, 3, padding=1), nn.ReLU(), nn.Conv2d(inner, ch, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, ch, H, W) -> (B, ch, H, W)."""
        y: Tensor = x + self.conv(x)
        return y


def _blocks(config: CodecConfig) -> list[nn.Module]:
    return [*(VQVAE2Block(config) for _ in range(config.num_res_blocks)), nn.ReLU()]


class LevelEncoder(nn.Module):
    """(B, in_channels, s h, s w) -> (B, ch, h, w), where s is `factor`, 2 or 4."""

    def __init__(self, config: CodecConfig, in_channels: int, factor: int) -> None:
        super().__init__()
        half, ch = config.ch // 2, config.ch
        layers: list[nn.Module] = [nn.Conv2d(in_channels, half, 4, stride=2, padding=1), nn.ReLU()]
        if factor == 4:
            layers += [nn.Conv2d(half, ch, 4, stride=2, padding=1), nn.ReLU()]
        layers.append(nn.Conv2d(ch if factor == 4 else half, ch, 3, padding=1))
        self.blocks = nn.Sequential(*layers, *_blocks(config))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, s h, s w) -> (B, ch, h, w)."""
        h: Tensor = self.blocks(x)
        return h


class LevelDecoder(nn.Module):
    """(B, in_channels, h, w) -> (B, out_channels, s h, s w), where s is `factor`, 2 or 4."""

    def __init__(self, config: CodecConfig, in_channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        ch, widths = config.ch, [config.ch, config.ch // 2, out_channels] if factor == 4 else [config.ch, out_channels]
        layers = [nn.Conv2d(in_channels, ch, 3, padding=1), *_blocks(config)]
        for number, width in enumerate(widths[1:]):
            layers += [nn.ReLU()] * (number > 0)
            layers.append(nn.ConvTranspose2d(widths[number], width, 4, stride=2, padding=1))
        self.blocks = nn.Sequential(*layers)
        initialise(self)

    def forward(self, z: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, s h, s w)."""
        x: Tensor = self.blocks(z)
        return x


class VQVAE2Decoder(LevelDecoder):
    """Entries of both levels to pictures: (B, 2 D, h, w) -> (B, out_ch, 4 h, 4 w). The first D channels are those of
    the top level, on 2 x 2 cells each."""

    def __init__(self, config: CodecConfig) -> None:
        dim = config.codebook_dim
        super().__init__(config, 2 * dim, config.out_ch, 4)
        self.upsample = nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1)
        initialise(self.upsample)

    @property
    def conv_out(self) -> nn.ConvTranspose2d:
        """The last convolution, (B, ch / 2, 2 h, 2 w) -> (B, out_ch, 4 h, 4 w)."""
        last = self.blocks[-1]
        assert isinstance(last, nn.ConvTranspose2d)
        return last

    def forward(self, z: Tensor) -> Tensor:
        """(B, 2 D, h, w) -> (B, out_ch, 4 h, 4 w), about [-1, 1]."""
        x: Tensor = self.blocks(self.joined(z))
        return x

    def features(self, z: Tensor) -> Tensor:
        """(B, 2 D, h, w) -> (B, ch / 2, 2 h, 2 w): what the last convolution takes."""
        h: Tensor = self.blocks[:-1](self.joined(z))
        return h

    def write(self, h: Tensor) -> Tensor:
        """(B, ch / 2, 2 h, 2 w), as of `features` -> (B, out_ch, 4 h, 4 w)."""
        x: Tensor = self.conv_out(h)
        return x

    def joined(self, z: Tensor) -> Tensor:
        """(B, 2 D, h, w) -> (B, 2 D, h, w), with the top level upsampled by a convolution."""
        top, bottom = z.chunk(2, dim=1)
        return torch.cat((self.upsample(_halved(top)), bottom.to(top.dtype)), 1)


class TwoLevelQuantizer(nn.Module):
    """The codebooks of both levels, (K, D) each, and the networks between them: `encoder` from the bottom level's
    resolution to the top level's, and `decoder` back, so that bottom codes depend on top codes."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        size, dim = config.codebook_size, config.codebook_dim
        self.encoder = LevelEncoder(config, config.ch, 2)
        self.conv_top = nn.Conv2d(config.ch, dim, 1)
        self.top = Quantizer(size, dim)
        self.decoder = LevelDecoder(config, dim, dim, 2)
        self.conv_bottom = nn.Conv2d(dim + config.ch, dim, 1)
        self.bottom = Quantizer(size, dim)
        initialise(self.conv_top)
        initialise(self.conv_bottom)

    def forward(self, h: Tensor) -> Quantized:
        """The encoder's output (B, ch, h, w) -> Quantized with joint codes, and z_e and z_q (B, 2 D, h, w), whose first
        D channels are those of the top level, on 2 x 2 cells each."""
        top: Quantized = self.top(self.conv_top(self.encoder(h)))
        below = self.decoder(top.to_decoder())
        bottom: Quantized = self.bottom(self.conv_bottom(torch.cat((below, h.to(below.dtype)), 1)))
        return Quantized(
            torch.cat((_doubled(top.z_e), bottom.z_e), 1),
            torch.cat((_doubled(top.z_q), bottom.z_q), 1),
            join_levels(CodeLevels(bottom.codes, top.codes), len(self.bottom.embedding.weight)),
        )

    def split(self, quantized: Quantized) -> tuple[Quantized, Quantized]:
        """The result of `forward` by level, the bottom one first: (B, D, h, w) and (B, D, h/2, w/2)."""
        (top_e, bottom_e), (top_q, bottom_q) = (z.chunk(2, dim=1) for z in quantized[:2])
        codes = split_levels(quantized.codes, len(self.bottom.embedding.weight))
        return (
            Quantized(bottom_e, bottom_q, codes.bottom),
            Quantized(_halved(top_e), _halved(top_q), codes.top),
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """Joint codes (B, h, w) -> entries (B, 2 D, h, w) fp32, as z_q of `forward`."""
        levels = split_levels(codes, len(self.bottom.embedding.weight))
        return torch.cat((_doubled(self.top.lookup(levels.top)), self.bottom.lookup(levels.bottom)), 1)
