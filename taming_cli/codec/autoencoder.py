"""Encoder and decoder of the codec: the convolutional network of the paper, with its published names.

Esser, Rombach, Ommer 2021, appendix A; the network goes back to Ho et al. 2020. Attribute names are the keys of the
released checkpoints. Every normalisation is GroupNorm with eps 1e-6 (32 groups as published); the activation is
x * sigmoid(x).
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.codec.norm import GroupNorm
from taming_cli.config.codec import CodecConfig
from taming_cli.runtime.gradient_checkpointing import Recomputable


def _norm(channels: int, groups: int) -> GroupNorm:
    return GroupNorm(groups, channels, eps=1e-6)


class ResnetBlock(Recomputable):
    """(B, in, H, W) -> (B, out, H, W): two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, *, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        y: Tensor = h + (x if self.nin_shortcut is None else self.nin_shortcut(x))
        return y


class AttnBlock(Recomputable):
    """(B, C, H, W) -> the same: single-head attention among all positions, scale C^-1/2, with a residual."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        normed = self.norm(x)
        return self.attend(x, normed, normed)

    def attend(self, x: Tensor, normed: Tensor, context: Tensor) -> Tensor:
        """Attend from `normed`, the input `x` (B, C, H, W) after the norm, to the normed cells `context`, (B or 1, C,
        H', W') -> (B, C, H, W), with the residual."""
        q, k, v = (
            conv(y).flatten(2).transpose(1, 2).unsqueeze(1).expand(len(x), -1, -1, -1)  # (B, 1, cells, C)
            for conv, y in ((self.q, normed), (self.k, context), (self.v, context))
        )
        h = F.scaled_dot_product_attention(q, k, v)
        result: Tensor = x + self.proj_out(h.squeeze(1).transpose(1, 2).reshape(x.shape))
        return result


class Downsample(nn.Module):
    """(B, C, H, W) -> (B, C, H/2, W/2): one row and column of zeros below and right, then 3 x 3, stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        y: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return y


class Upsample(nn.Module):
    """(B, C, H, W) -> (B, C, 2H, 2W): nearest neighbour, then 3 x 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


class Level(nn.Module):
    """The blocks of one resolution, each followed by attention where the level has it, then the change of resolution.

    Exactly one of `downsample` and `upsample` exists, or neither at the encoder's last and the decoder's last level.
    """

    def __init__(self, blocks: list[ResnetBlock], attn: list[AttnBlock]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.attn = nn.ModuleList(attn)
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W') with H' = H/2, 2H or H."""
        x = self.blocks(x)
        for change in (self.downsample, self.upsample):
            if change is not None:
                x = change(x)
        return x

    def blocks(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W), without the change of resolution."""
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        return x


class Middle(nn.Module):
    """(B, C, h, w) -> the same: block, attention, block at the lowest resolution."""

    def __init__(self, channels: int, *, groups: int, dropout: float) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups=groups, dropout=dropout)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups=groups, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        x = self.block_2(self.attn_1(self.block_1(x)))
        return x


def _level(config: CodecConfig, ch: int, index: int, blocks: int, in_channels: int) -> Level:
    """Level `index` (0 = full resolution) with `blocks` blocks, with attention if its nominal size is listed."""
    out_channels = ch * config.ch_mult[index]
    has_attention = config.attends(index)
    widths = [in_channels] + [out_channels] * blocks
    return Level(
        [ResnetBlock(a, b, groups=config.norm_groups, dropout=config.dropout) for a, b in pairwise(widths)],
        [AttnBlock(out_channels, config.norm_groups) for _ in range(blocks if has_attention else 0)],
    )


class Encoder(nn.Module):
    """Pictures to the continuous latent: (B, in_channels, f h, f w) -> (B, z_channels, h, w).

    `shortcut`, where the config asks for it, maps the pixels of each cell, in the order of `F.pixel_unshuffle`, to a
    vector that is added. It keeps the colours, which each normalisation changes, and a linear map of pixels is learned
    in few steps. Chen et al. 2024 (DC-AE) add such maps, without weights, wherever the resolution changes.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.conv_in = nn.Conv2d(config.in_channels * config.patch_size**2, config.ch, 3, padding=1)
        channels = config.ch
        levels = []
        for index, multiple in enumerate(config.ch_mult):
            level = _level(config, config.ch, index, config.num_res_blocks, channels)
            channels = config.ch * multiple
            if index < len(config.ch_mult) - 1:
                level.downsample = Downsample(channels)
            levels.append(level)
        self.down = nn.ModuleList(levels)
        self.mid = Middle(channels, groups=config.norm_groups, dropout=config.dropout)
        self.norm_out = _norm(channels, config.norm_groups)
        self.conv_out = nn.Conv2d(channels, config.z_channels, 3, padding=1)
        self.downsample_factor = config.downsample_factor
        pixels = config.in_channels * config.downsample_factor**2
        self.shortcut = nn.Conv2d(pixels, config.z_channels, 1) if config.shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, f h, f w) in [-1, 1] -> (B, z_channels, h, w)."""
        h = self.read(x)
        for level in self.down:
            h = level(h)
        h = self.mid(h)
        return self.add_shortcut(self.conv_out(F.silu(self.norm_out(h))), x)

    def add_shortcut(self, z: Tensor, x: Tensor) -> Tensor:
        """The network's output z (B, z_channels, h, w), and that of the shortcut for its pixels, the input x (B,
        in_channels, f h, f w) -> their sum, or z where there is none."""
        return z if self.shortcut is None else z + self.shortcut(F.pixel_unshuffle(x, self.downsample_factor))

    def read(self, x: Tensor) -> Tensor:
        """(B, in_channels, p H, p W), with patches of p x p pixels -> (B, ch, H, W), the first level's input."""
        h: Tensor = self.conv_in(F.pixel_unshuffle(x, self.patch_size))
        return h


class Decoder(nn.Module):
    """The continuous latent to pictures: (B, z_channels, h, w) -> (B, out_ch, f h, f w), without a tanh at the end.

    `up[0]` is the highest resolution and runs last.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        ch = config.decoder_channels
        channels = ch * config.ch_mult[-1]
        self.conv_in = nn.Conv2d(config.z_channels, channels, 3, padding=1)
        self.mid = Middle(channels, groups=config.norm_groups, dropout=config.dropout)
        levels: list[Level] = []
        for index in reversed(range(len(config.ch_mult))):
            level = _level(config, ch, index, config.num_res_blocks + 1, channels)
            channels = ch * config.ch_mult[index]
            if index > 0:
                level.upsample = Upsample(channels)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = _norm(channels, config.norm_groups)
        self.patch_size = config.patch_size
        self.conv_out = nn.Conv2d(channels, config.out_ch * config.patch_size**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, z_channels, h, w) -> (B, out_ch, f h, f w), about [-1, 1]."""
        return self.write(self.features(z))

    def write(self, h: Tensor) -> Tensor:
        """(B, channels, H, W), as of `features` -> (B, out_ch, p H, p W), with patches of p x p pixels."""
        return F.pixel_shuffle(self.conv_out(h), self.patch_size)

    def features(self, z: Tensor) -> Tensor:
        """(B, z_channels, h, w) -> (B, channels, f h / p, f w / p): the input of the last convolution."""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return F.silu(self.norm_out(h))
