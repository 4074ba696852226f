"""The architecture of a published model, inferred from the names and shapes of its tensors."""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.codec.quantizers.scalar import LFQ
from taming_cli.codec.vqgan import VQGAN, codec_sha256
from taming_cli.config.codec import CodecConfig
from taming_cli.config.fields import to_dict
from taming_cli.errors import BadFileError, UsageError
from taming_cli.interop.ledger import ImportedModel
from taming_cli.runtime.checkpoint import ModelFile
from taming_cli.runtime.stored import Stored

Config = TypeVar("Config")


class OtherConfigError(BadFileError):
    """A config that belongs to another checkpoint. The message starts with a verb, since the name of the config file
    precedes it: `specifies n_embed 1024, but ...`."""


class CodecParts(NamedTuple):
    """A codec's architecture, its tensors by published name, and tensors that are only kept for an export."""

    config: CodecConfig
    tensors: Mapping[str, Stored]
    kept: Mapping[str, Stored] = MappingProxyType({})


def with_entries(config: CodecConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A codec's tensors with the codebook as other code compares it: entries of a normalised codebook have norm 1, and
    those of an LFQ are listed. UsageError for an FSQ, which bounds its channels first, for a wider decoder,
    patches or a shortcut."""
    entries, listed = "quantize.embedding.weight", dict(tensors)
    if config.decoder_channels != config.ch:
        given = f"ch is {config.ch} and decoder_ch {config.decoder_ch}"
        raise UsageError(f"{given}; other code has one width for encoder and decoder, so it cannot be exported")
    if config.patch_size > 1:
        raise UsageError(f"patch_size is {config.patch_size}; other code reads single pixels, so it cannot be exported")
    if config.shortcut:
        raise UsageError("shortcut is True; other code has no such map, so it cannot be exported")
    if config.codebook == "fsq":
        raise UsageError("codebook is 'fsq', whose bounded channels other code does not have; it cannot be exported")
    if config.codebook == "lfq":
        listed[entries] = LFQ(config.codebook_dim).codebook
    elif config.normalize and entries in listed:
        listed[entries] = F.normalize(listed[entries].float(), dim=1)
    return listed


def count(names: Iterable[str], pattern: str) -> int:
    """How many numbers `pattern` captures at the start of names. Names count from 0, so that this is the largest plus
    one, except for names that claim more than the file holds."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def codec_config(tensors: Mapping[str, Stored], where: str, **known: Any) -> CodecConfig:
    """The architecture of a codec with published names.

    `known` are the settings of the file's config, by our names. They provide what the weights do not determine
    (`resolution`, `norm_groups`, `dropout`). OtherConfigError if they contradict the weights.
    """

    def side(name: str, dimension: int) -> int:
        tensor = tensors.get(name)
        if tensor is None or dimension >= len(tensor.shape):
            raise BadFileError(f"{where} is not a supported codec: it has no {name}")
        return tensor.shape[dimension]

    levels = count(tensors, r"encoder\.down\.(\d+)\.")
    ch = side("encoder.conv_in.weight", 0)
    widths = [side(f"encoder.down.{level}.block.0.conv1.weight", 0) for level in range(levels)]
    if not levels or not ch or any(width % ch for width in widths):
        raise BadFileError(f"{where} is not a supported codec: its levels have {widths} channels, its input layer {ch}")
    resolution = known.get("resolution", 256)
    gumbel = "quantize.proj.weight" in tensors
    entries = "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
    attended = [level for level in range(levels) if f"encoder.down.{level}.attn.0.norm.weight" in tensors]
    if side("encoder.conv_out.weight", 0) == 2 * side("decoder.conv_in.weight", 1):
        raise BadFileError(f"{where} is a continuous (KL) autoencoder; only codecs with a codebook are supported")
    inferred: dict[str, Any] = {
        "ch": ch,
        "ch_mult": tuple(width // ch for width in widths),
        "num_res_blocks": count(tensors, r"encoder\.down\.0\.block\.(\d+)\."),
        "attn_resolutions": tuple(resolution // 2**level for level in attended),
        "z_channels": side("encoder.conv_out.weight", 0),
        "in_channels": side("encoder.conv_in.weight", 1),
        "out_ch": side("decoder.conv_out.weight", 0),
        "codebook": "gumbel" if gumbel else "nearest",
        "codebook_size": side(entries, 0),
        "codebook_dim": side(entries, 1),
    }
    sources = {
        "codebook_size": ("n_embed", entries),
        "codebook_dim": ("embed_dim", entries),
        "ch": ("ch", "encoder.conv_in.weight"),
        "ch_mult": ("ch_mult", "encoder.down.*.block.0.conv1.weight"),
        "num_res_blocks": ("num_res_blocks", "encoder.down.0.block.*"),
        "attn_resolutions": (f"resolution {resolution} with attn_resolutions", "encoder.down.*.attn"),
        "z_channels": ("z_channels", "encoder.conv_out.weight"),
        "in_channels": ("in_channels", "encoder.conv_in.weight"),
        "out_ch": ("out_ch", "decoder.conv_out.weight"),
    }
    for name, (key, tensor) in sources.items():
        value, actual = known.get(name, inferred[name]), inferred[name]
        if name == "attn_resolutions" and isinstance(value, list | tuple):  # others than the levels' have no effect
            value = tuple(side for side in (resolution // 2**level for level in range(levels)) if side in value)
        if (tuple(value) if isinstance(value, list) else value) != actual:
            raise OtherConfigError(
                f"specifies {key} {_formatted(value)}, but {tensor} of {where} has {_formatted(actual)}"
            )
    try:
        return build_config(CodecConfig, where, **{"norm_groups": 32, **known, **inferred, "resolution": resolution})
    except BadFileError as error:
        if not known:
            raise
        codec_config(tensors, where)  # raises if the weights are at fault; otherwise the config is
        raise OtherConfigError(f"does not belong to this checkpoint: {error}") from None


def _formatted(value: Any) -> str:
    return ",".join(map(str, value)) or "none" if isinstance(value, tuple | list) else str(value)


def build_config(config: type[Config], where: str, **values: Any) -> Config:
    """`config(**values)`, with a BadFileError that names the file for an invalid value."""
    try:
        return config(**values)
    except UsageError as error:
        raise BadFileError(f"{where} describes an invalid model: {error}") from None


def check_tensors(network: nn.Module, tensors: Mapping[str, Stored], where: str) -> None:
    """BadFileError unless names and shapes are exactly those of `network`, which may be on the meta device."""
    check_shapes({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}, tensors, where)


def check_shapes(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Stored], where: str) -> None:
    """BadFileError unless names and shapes of a file's tensors are exactly the expected ones."""
    for name in expected:
        if name not in tensors:
            raise BadFileError(f"{where} lacks {name}, which its architecture requires")
    for name, tensor in tensors.items():
        if name not in expected:
            raise BadFileError(f"{where} has {name}, which its architecture does not have")
        if tensor.shape != expected[name]:
            raise BadFileError(f"{where} has {name} of shape {tensor.shape} instead of {expected[name]}")


def as_float(tensor: Stored) -> Stored:
    """The same tensor in fp32, the type of all weights in our model files."""
    if tensor.dtype == torch.float32:
        return tensor
    return tensor._replace(dtype=torch.float32, load=lambda: tensor.load().float())


def published_codec(tensors: Mapping[str, Stored], where: str, **known: Any) -> CodecParts:
    """The codec with exactly these tensors, by published name. `known` as for `codec_config`."""
    weights = {name: as_float(tensor) for name, tensor in tensors.items()}
    config = codec_config(weights, where, **known)
    with torch.device("meta"):
        check_tensors(VQGAN(config), weights, where)
    return CodecParts(config, weights)


def imported_codec(
    codec: CodecParts, about: Mapping[str, Any], dropped: Mapping[str, int], kind: str = "image"
) -> ImportedModel:
    """The model file of a codec."""
    digest = codec_sha256(codec.config, codec.tensors)
    model = ModelFile(
        format="taming-codec",
        config={"codec": to_dict(codec.config)},
        about={**about, "content": kind, "codec_sha256": digest},
        tensors={},
    )
    return ImportedModel(model=model, tensors={**codec.tensors, **extra(codec.kept)}, dropped=dict(dropped))


def extra(kept: Mapping[str, Stored]) -> dict[str, Stored]:
    """Tensors that only an export uses, by their names in our model files."""
    return {f"extra.{name}": tensor for name, tensor in kept.items()}
