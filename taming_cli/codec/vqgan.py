"""The codec: encoder, quantizer and decoder as one module, whose state-dict keys are the published ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from taming_cli.codec.autoencoder import Decoder, Encoder
from taming_cli.codec.dvae import DVAEDecoder, DVAEEncoder
from taming_cli.codec.quantizers.gumbel import GumbelQuantizer
from taming_cli.codec.quantizers.nearest import Quantizer
from taming_cli.codec.quantizers.quantized import Quantized
from taming_cli.codec.quantizers.scalar import FSQ, LFQ
from taming_cli.codec.vqvae2 import LevelEncoder, TwoLevelQuantizer, VQVAE2Decoder, split_levels
from taming_cli.config.codec import CodecConfig
from taming_cli.config.fields import from_dict, to_dict
from taming_cli.config.levels import TOP_CONDITION, Level
from taming_cli.runtime.checkpoint import ModelFile, building, fill, load_model, tensors_sha256
from taming_cli.runtime.fp32 import ieee
from taming_cli.runtime.model_files import named
from taming_cli.runtime.stored import Stored

OneLevel = Quantizer | GumbelQuantizer | FSQ | LFQ
"""The quantizer of one level of codes."""
_DECODER = ("decoder.", "post_quant_conv.")
_LATER = ("codebook", "network", "n_res_channel", "fsq_levels", "fsq_bound", "decoder_ch", "patch_size", "shortcut")
"""Fields of the architecture that did not exist when the hash was defined."""


class VQGANOutput(NamedTuple):
    """`x_rec` (B, out_ch, H, W), about [-1, 1]; `quantized`, the output of the quantizer."""

    x_rec: Tensor
    quantized: Quantized


class VQGAN(nn.Module):
    """A discrete image codec: pictures (B, 3, H, W) in [-1, 1] <-> codes (B, H/f, W/f) int64 in [0, K).

    With two levels of codes (see `vqvae2`), these are joint codes in [0, K^2), and the sides of the grid are even.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        dim, inside = config.codebook_dim, config.network != "vqgan"
        self.encoder = _encoder(config)
        self.quantize = _quantizer(config)
        self.quant_conv = nn.Identity() if inside else nn.Conv2d(config.z_channels, dim, 1)
        self.post_quant_conv = nn.Identity() if inside else nn.Conv2d(dim, config.z_channels, 1)
        self.decoder = _decoder(config)

    @classmethod
    def load(cls, path: str | Path) -> "VQGAN":
        """Load the codec of a codec's or a prior's model file; `builtin` names the model that comes with the package.

        It is in eval mode on the CPU, with frozen fp32 weights. BadFileError where the file cannot be read.
        """
        file = named(Path(path))
        return codec_from(load_model(file), str(file))

    def forward(self, x: Tensor) -> VQGANOutput:
        """(B, 3, H, W) in [-1, 1] -> VQGANOutput. In training, gradients pass through the quantizer."""
        quantized = self.quantized(x)
        return VQGANOutput(self.decoder(self.post_quant_conv(quantized.to_decoder())), quantized)

    def quantized(self, x: Tensor) -> Quantized:
        """(B, 3, H, W) in [-1, 1], sides as of `encode` -> z_e, z_q (B, D, h, w) and codes (B, h, w)."""
        quantized: Quantized = self.quantize(self.quant_conv(self.encoder(x)))
        return quantized

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], sides multiples of `config.multiple` -> codes (B, h, w) int64.

        In fp32 unless autocast is enabled, and never in TF32 (see `runtime.fp32.ieee`).
        """
        with ieee():
            return self.quantized(x).codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) as of `encode` -> pictures (B, out_ch, f h, f w) fp32, about [-1, 1] and not clamped."""
        with ieee():
            x: Tensor = self.decoder(self.post_quant_conv(self.quantize.lookup(codes)))
            return x.float()

    @property
    def quantizers(self) -> tuple[OneLevel, ...]:
        """The quantizer of each level of codes, the bottom one first."""
        quantize = self.quantize
        return (quantize.bottom, quantize.top) if isinstance(quantize, TwoLevelQuantizer) else (quantize,)

    def entries(self, level: int = 0) -> Tensor:
        """The learned entries (K, D) of a level whose codes are nearest entries, as they are stored."""
        quantizer = self.quantizers[level]
        assert isinstance(quantizer, Quantizer)
        return quantizer.embedding.weight

    def by_level(self, quantized: Quantized) -> tuple[Quantized, ...]:
        """The result of `quantized` by level, as each level's own quantizer gave it."""
        return self.quantize.split(quantized) if isinstance(self.quantize, TwoLevelQuantizer) else (quantized,)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def sha256(self) -> str:
        """The hash of encoder, codebook and config; it does not cover the weights of the decoder."""
        return codec_sha256(self.config, self.state_dict())


def code_levels(config: CodecConfig, codes: Tensor) -> tuple[Tensor, ...]:
    """A codec's codes (..., h, w) by level, each in [0, K), the bottom level first; top codes are (..., h/2, w/2)."""
    return split_levels(codes, config.codebook_size) if config.levels > 1 else (codes,)


def code_counts(config: CodecConfig, codes: Tensor) -> Tensor:
    """How often each code occurs in a codec's codes (..., h, w): (levels, K) int64, the bottom level first."""
    levels = code_levels(config, codes)
    return torch.stack([torch.bincount(level.flatten(), minlength=config.codebook_size) for level in levels])


def level_codebooks(codec: VQGAN, level: Level) -> dict[str, Tensor]:
    """The codebooks (K, D) from which a prior of one level begins: that of the level under "", and for the bottom level
    that of its condition, the top level's codes."""
    bottom, *top = (quantizer.codebook for quantizer in codec.quantizers)
    if level == "top":
        return {"": top[0]}
    return {"": bottom} | ({TOP_CONDITION: top[0]} if level == "bottom" else {})


def with_top(codec: VQGAN, codes: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
    """A codec's codes (n, h, w) from those of its bottom level and, among the conditions, of its top level (n, h, w);
    the codes of a codec of one level as they are."""
    top = conditions.get(TOP_CONDITION)
    return codes if top is None else top.to(codes.device) * codec.config.codebook_size + codes


def _encoder(config: CodecConfig) -> Encoder | DVAEEncoder | LevelEncoder | nn.Identity:
    if config.network == "palette":  # the pixels themselves are compared with the codebook
        return nn.Identity()
    if config.network == "vq-vae-2":
        return LevelEncoder(config, config.in_channels, config.downsample_factor)
    return DVAEEncoder(config) if config.network == "dvae" else Encoder(config)


def _quantizer(config: CodecConfig) -> OneLevel | TwoLevelQuantizer:
    size, dim, dvae = config.codebook_size, config.codebook_dim, config.network == "dvae"
    if config.network == "vq-vae-2":
        return TwoLevelQuantizer(config)
    if config.codebook == "gumbel":
        return GumbelQuantizer(size, dim, config.ch * config.ch_mult[-1] if dvae else dim, relaxed=dvae)
    if config.codebook == "fsq":
        return FSQ(config.fsq_levels, config.fsq_bound)
    if config.codebook == "lfq":
        return LFQ(dim)
    return Quantizer(size, dim, normalize=config.normalize)


def _decoder(config: CodecConfig) -> Decoder | DVAEDecoder | VQVAE2Decoder | nn.Identity:
    if config.network == "palette":
        return nn.Identity()
    if config.network == "vq-vae-2":
        return VQVAE2Decoder(config)
    return DVAEDecoder(config) if config.network == "dvae" else Decoder(config)


def codec_sha256(config: CodecConfig, tensors: Mapping[str, Tensor | Stored]) -> str:
    """The hash of a codec with these tensors. It covers what codes depend on, which excludes the decoder's weights."""
    encoding = {name: tensor for name, tensor in tensors.items() if not name.startswith(_DECODER)}
    values, defaults = to_dict(config), to_dict(CodecConfig())
    for name in _LATER:  # so that older codecs keep their hash
        if values[name] == defaults[name]:
            del values[name]
    return tensors_sha256(encoding, values)


def ready(codec: VQGAN, device: torch.device, precision: torch.dtype, *, encoder: bool = True) -> VQGAN:
    """Move the codec to `device` for inference under `autocast(device, precision)`: channels last, with the weights of
    convolutions in `precision`. Autocast would cast frozen fp32 weights in every call; the results are the same.

    Without `encoder` only the decoder is cast, and encoding stays in fp32. Call `sha256()` before, since it covers the
    weights of the encoder.
    """
    codec = codec.to(device).to(memory_format=torch.channels_last)
    if precision != torch.float32:
        parts: list[nn.Module] = [codec.post_quant_conv, codec.decoder]
        parts += [codec.encoder, codec.quant_conv] if encoder else []
        for module in (module for part in parts for module in part.modules()):
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.to(precision)
    return codec


def codec_file(codec: VQGAN, about: Mapping[str, object]) -> ModelFile:
    """A codec as a model file, with its hash in `about`."""
    return ModelFile(
        format="taming-codec",
        config={"codec": to_dict(codec.config)},
        about={**about, "codec_sha256": codec.sha256()},
        tensors=codec.state_dict(),
    )


def codec_from(model: ModelFile, where: str, part: str = "codec") -> VQGAN:
    """The codec of a codec's or a prior's model file, frozen and in eval mode on the CPU. BadFileError names `where`.

    `part` selects among the codecs of a prior: "codec" is that of its pictures, "condition.KIND" that of a condition.
    One that its facts call `encoder_only` has no decoder.
    """
    values, facts = model.config["codec"], model.about
    if part != "codec":
        kind = part.removeprefix("condition.")
        values, facts = model.config["conditions"][kind], model.about.get("conditions", {}).get(kind, {})
    config = from_dict(CodecConfig, values, where)
    with building(where):
        codec = VQGAN(config)
    if facts.get("encoder_only"):
        for name, _ in list(codec.named_children()):
            if f"{name}.".startswith(_DECODER):
                setattr(codec, name, nn.Identity())
    return fill(codec, model, "" if model.format == "taming-codec" else f"{part}.", where, "codec")
