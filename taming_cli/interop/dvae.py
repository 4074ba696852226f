"""DALL-E's discrete VAE, as it was released: encoder and decoder as pickled modules, or their weights in one file."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecConfig
from taming_cli.errors import BadFileError
from taming_cli.interop.ledger import ImportedModel
from taming_cli.interop.published import CodecParts, as_float, build_config, check_tensors, count, imported_codec
from taming_cli.runtime.stored import Stored

FIRST = "blocks.input.w"
ENCODER, DECODER = f"encoder.{FIRST}", f"decoder.{FIRST}"
KERNEL = 7
"""Side of the kernel of the encoder's first convolution; that of the decoder's is 1."""
_NAMES = {
    "encoder.blocks.input": "encoder.conv_in",
    "encoder.blocks.output.conv": "quantize.proj",
    "decoder.blocks.input": "input",
    "decoder.blocks.output.conv": "decoder.conv_out",
}
_N = r"([1-9]\d*)"
_BLOCK = re.compile(rf"(encoder|decoder)\.blocks\.group_{_N}\.block_{_N}\.(?:res_path\.conv_{_N}|id_path)")


def named(tensors: Mapping[str, Stored], where: str) -> dict[str, Stored]:
    """The weights of an encoder or a decoder alone, with `encoder.` or `decoder.` before their names."""
    shape = tensors[FIRST].shape
    if len(shape) != 4:
        raise BadFileError(f"{where} has {FIRST} of shape {shape}, which a dVAE does not have")
    side = "encoder" if shape[2] == KERNEL else "decoder"
    return {f"{side}.{name}": tensor for name, tensor in tensors.items()}


def import_codec(tensors: Mapping[str, Stored], where: str, about: Mapping[str, Any]) -> ImportedModel:
    """Import the published modules (Ramesh et al. 2021). The decoder's first convolution, of kernel 1, becomes the
    codebook: its bias is added to each entry."""
    for side, first in (("encoder", ENCODER), ("decoder", DECODER)):
        if first not in tensors:
            raise BadFileError(f"{where} lacks the {side} of the dVAE; give both files: taming import ENCODER DECODER")
    weights = {_name(name, where): as_float(tensor) for name, tensor in tensors.items()}
    config = _config(weights, where)
    weights["quantize.embed.weight"] = _entries(weights.pop("input.weight"), weights.pop("input.bias"), where)
    with torch.device("meta"):
        check_tensors(VQGAN(config), weights, where)
    return imported_codec(CodecParts(config, weights), about, {})


def _name(name: str, where: str) -> str:
    """Our name of a published one: `.w` and `.b` are weight and bias."""
    stem, _, kind = name.rpartition(".")
    ours = {"w": "weight", "b": "bias"}.get(kind)
    if ours is not None and stem in _NAMES:
        return f"{_NAMES[stem]}.{ours}"
    if ours is not None and (match := _BLOCK.fullmatch(stem)):
        side, group, block, conv = match.groups()
        part = "shortcut" if conv is None else f"convs.{int(conv) - 1}"
        return f"{side}.groups.{int(group) - 1}.{int(block) - 1}.{part}.{ours}"
    raise BadFileError(f"{where} has {name}, which a dVAE does not have")


def _config(weights: Mapping[str, Stored], where: str) -> CodecConfig:
    """The architecture, from the shapes of our tensors."""

    def side(name: str, dimension: int) -> int:
        if name not in weights or dimension >= len(weights[name].shape):
            raise BadFileError(f"{where} is not a supported dVAE: it has no {name}")
        return weights[name].shape[dimension]

    ch, groups = side("encoder.conv_in.weight", 0), count(weights, r"encoder\.groups\.(\d+)\.")
    widths = [side(f"encoder.groups.{group}.0.convs.3.weight", 0) for group in range(groups)]
    if not groups or not ch or any(width % ch for width in widths):
        raise BadFileError(f"{where} is not a supported dVAE: its groups have {widths} channels, its input layer {ch}")
    side("input.bias", 0)
    return build_config(
        CodecConfig,
        where,
        network="dvae",
        ch=ch,
        ch_mult=tuple(width // ch for width in widths),
        num_res_blocks=count(weights, r"encoder\.groups\.0\.(\d+)\."),
        norm_groups=1,
        attn_resolutions=(),
        z_channels=widths[-1],
        in_channels=side("encoder.conv_in.weight", 1),
        out_ch=side("decoder.conv_out.weight", 0) // 2,
        codebook="gumbel",
        codebook_size=side("input.weight", 1),
        codebook_dim=side("input.weight", 0),
    )


def _entries(weight: Stored, bias: Stored, where: str) -> Stored:
    """(D, K, 1, 1) and (D,) -> the entries (K, D)."""
    dim, size, *kernel = weight.shape
    if kernel != [1, 1] or bias.shape != (dim,):
        raise BadFileError(f"{where} has decoder.blocks.input of shapes {weight.shape} and {bias.shape}")
    return Stored(torch.float32, (size, dim), lambda: weight.load().view(dim, size).t().contiguous() + bias.load())
