"""Settings of the codec: its architecture, which the model file keeps, and its discriminator."""

import math
from dataclasses import dataclass
from typing import Literal

from taming_cli.config.fields import check, option
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

_MOST_LEVELS = 16


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """The architecture of a codec. Names are those of the published VQGAN, so that released weights map by name. A dVAE
    and a VQ-VAE-2 have no normalisation, attention, dropout or `z_channels`; a VQ-VAE-2 has no `ch_mult`, and `ch` is
    its width at the resolutions of its codes. A palette has a codebook of colours alone."""

    network: Literal["vqgan", "dvae", "vq-vae-2", "palette"] = option(
        "vqgan",
        "vqgan: the network of the paper; dvae: that of DALL-E's discrete VAE, with --codebook gumbel and, as its "
        "reconstruction loss, the likelihood of the pixels; vq-vae-2: two levels of codes, f4 and f8; palette: none, "
        "each code is a colour, found by k-means.",
    )
    ch: int = option(32, "Channels at full resolution; a multiple of --norm-groups.", low=1, high=2**16)
    decoder_ch: int = option(0, "Channels of the decoder at full resolution; 0: as --ch.", low=0, high=2**16)
    ch_mult: tuple[int, ...] = option(
        (1, 1, 2, 4), "Channel multiplier of each level; n levels downsample by 2^(n-1).", low=1, high=2**10
    )
    patch_size: int = option(
        1,
        "Side of the squares of pixels that the first layer reads, and the last one writes, as channels. It multiplies "
        "f, and saves the computation at full resolution.",
        low=1,
        high=64,
    )
    shortcut: bool = option(
        False,
        "Add a linear map from the pixels of a cell to its vector beside the encoder: colours are learned sooner.",
    )
    num_res_blocks: int = option(1, "Residual blocks per level; the decoder has one more.", low=1, high=2**10)
    n_res_channel: int = option(
        32, "With --network vq-vae-2: channels between the two convolutions of a residual block.", low=1
    )
    norm_groups: int = option(
        8,
        "Groups of each GroupNorm (published: 32). Fewer than 4 channels per group remove colour information.",
        low=1,
    )
    attn_resolutions: tuple[int, ...] = option(
        (16,),
        "Nominal sizes of the levels with attention: --resolution divided by --patch-size times 1, 2, 4 and so on.",
        low=1,
    )
    z_channels: int = option(64, "Channels between encoder and quantizer.", low=1, high=2**16)
    resolution: int = option(128, "Nominal side of a picture, which determines the levels with attention.", low=1)
    in_channels: int = option(3, "Channels of the encoder's input.", low=1, high=2**17, hidden=True)
    out_ch: int = option(3, "Channels of the decoder's output.", low=1, high=2**17, hidden=True)
    dropout: float = option(0.0, "Dropout in the residual blocks.", low=0, high=0.9)
    codebook_size: int = option(1024, "Number of codebook entries, K.", low=2, high=2**24)
    codebook_dim: int = option(8, "Dimension of each codebook entry, D.", low=1, high=2**16)
    codebook: Literal["nearest", "gumbel", "fsq", "lfq"] = option(
        "nearest",
        "nearest: a code is the nearest entry; gumbel: the largest of K logits; fsq, lfq: each channel is rounded to "
        "one of a few levels, or to its sign (see --quantizer).",
    )
    fsq_levels: tuple[int, ...] = option(
        (),
        "With fsq: levels of each channel, whose product is K; by default those published for a K near "
        "--codebook-size.",
        low=2,
        high=2**16,
    )
    fsq_bound: Literal["tanh", "sigmoid"] = option(
        "tanh",
        "With fsq: bounds a channel before it is rounded; sigmoid makes a normal variable nearly uniform (iFSQ).",
    )
    normalize: bool = option(False, "Normalise codebook entries and encoder outputs to unit length (cosine distance).")

    def __post_init__(self) -> None:
        check(self)
        if not 1 <= len(self.ch_mult) <= _MOST_LEVELS:
            has = f"has {len(self.ch_mult)} levels; at most {_MOST_LEVELS} are possible" if self.ch_mult else "is empty"
            raise UsageError(f"ch_mult {has}; give one channel multiplier per level, like 1,1,2,4")
        if self.network == "dvae":
            self._check_dvae()
        elif self.network == "vq-vae-2":
            self._check_vq_vae_2()
        elif self.network == "palette":
            self._check_palette()
        elif self.ch % self.norm_groups:
            raise UsageError(f"ch is {self.ch}; it must be a multiple of norm_groups, which is {self.norm_groups}")
        if self.decoder_ch % self.norm_groups or (self.decoder_ch and self.network != "vqgan"):
            needed = f"a multiple of norm_groups, {self.norm_groups}" if self.network == "vqgan" else "left out"
            raise UsageError(f"decoder_ch is {self.decoder_ch}; with network {self.network!r}, it must be {needed}")
        if self.network != "vqgan" and (self.patch_size > 1 or self.shortcut):
            given = "shortcut is True" if self.shortcut else f"patch_size is {self.patch_size}"
            raise UsageError(f"{given}; with network {self.network!r}, it must be left out")
        self._check_codebook()

    def _check_dvae(self) -> None:
        if self.ch % 4:
            raise UsageError(f"ch is {self.ch}; with network 'dvae', it must be a multiple of 4")
        if self.codebook != "gumbel":
            raise UsageError(f"codebook is {self.codebook!r}; with network 'dvae', use 'gumbel'")

    def _check_vq_vae_2(self) -> None:
        if self.ch % 2:
            raise UsageError(f"ch is {self.ch}; with network 'vq-vae-2', it must be even")
        if self.codebook != "nearest" or self.normalize:
            raise UsageError(
                "network is 'vq-vae-2', whose codes are the nearest entries; use --codebook nearest without --normalize"
            )

    def _check_palette(self) -> None:
        needed = {"ch_mult": (1,), "codebook_dim": self.in_channels, "codebook": "nearest", "normalize": False}
        for name, value in needed.items():
            given = getattr(self, name)
            if given != value:
                shown, right = (",".join(map(str, v)) if isinstance(v, tuple) else v for v in (given, value))
                raise UsageError(f"{name} is {shown}; with network 'palette', it must be {right}, as in preset palette")

    def _check_codebook(self) -> None:
        """UsageError where a fixed grid has other sides than K and D."""
        if self.fsq_levels and self.codebook != "fsq":
            raise UsageError(f"codebook is {self.codebook!r}; fsq_levels are for 'fsq'")
        if self.codebook not in ("fsq", "lfq"):
            return
        if self.normalize:
            raise UsageError(f"codebook is {self.codebook!r}, whose entries are fixed; leave --normalize out")
        dim = len(self.fsq_levels) if self.codebook == "fsq" else self.codebook_dim
        size = math.prod(self.fsq_levels) if self.codebook == "fsq" else 2**dim
        if (size, dim) != (self.codebook_size, self.codebook_dim):
            raise UsageError(
                f"codebook_size is {self.codebook_size} and codebook_dim {self.codebook_dim}; this codebook "
                f"{self.codebook!r} has {size} and {dim}"
            )

    @property
    def decoder_channels(self) -> int:
        """Channels of the decoder at full resolution."""
        return self.decoder_ch or self.ch

    def attends(self, level: int) -> bool:
        """Whether a level of resolution, 0 the highest, has attention."""
        return self.resolution // (self.patch_size * 2**level) in self.attn_resolutions

    @property
    def levels(self) -> int:
        """Levels of codes, each with a codebook of `codebook_size` entries: 1, or 2 for a VQ-VAE-2, whose top level has
        half as many codes along a side."""
        return 2 if self.network == "vq-vae-2" else 1

    @property
    def downsample_factor(self) -> int:
        """f: pixels per code along one side; of two levels, those of the bottom one."""
        return 4 if self.network == "vq-vae-2" else int(self.patch_size * 2 ** (len(self.ch_mult) - 1))

    @property
    def multiple(self) -> int:
        """The sides of a picture are multiples of that many pixels: f, or 2 f with two levels."""
        return self.downsample_factor * self.levels

    @property
    def bits_per_cell(self) -> float:
        """Bits of the codes of a cell: log2 K, and a fourth of that for the top level, where there is one."""
        return math.log2(self.codebook_size) * sum(0.25**level for level in range(self.levels))

    def latent(self, size: Size) -> Size:
        """The grid of codes for a picture of `size`, of two levels that of the bottom one. UsageError where a side is
        not a multiple of `multiple`."""
        f, m = self.downsample_factor, self.multiple
        if size.width % m or size.height % m:
            nearest = Size(max(m, round(size.width / m) * m), max(m, round(size.height / m) * m))
            of = f"f = {f}" if m == f else f"2 f = {m}, for its two levels"
            raise UsageError(f"size {size} is not a multiple of this codec's {of}; the nearest multiple is {nearest}")
        return Size(size.width // f, size.height // f)


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The PatchGAN that is trained against the codec. Names are the published ones."""

    disc_ndf: int = option(32, "Channels of the first layer of the discriminator.", low=1)
    disc_num_layers: int = option(
        2, "Strided layers of the discriminator; patches are 34 x 34 pixels with 2, 70 x 70 with 3.", low=1
    )
    disc_loss: Literal["hinge", "vanilla"] = option("hinge", "Adversarial loss.")
    disc_blur: bool = option(False, "Blur the input of each strided layer, against aliasing.")

    def __post_init__(self) -> None:
        check(self)

    @property
    def smallest_side(self) -> int:
        """Smallest side of a picture, in pixels, for which the discriminator has any output."""
        return int(3 * 2**self.disc_num_layers)
