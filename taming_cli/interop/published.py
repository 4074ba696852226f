"""From the names and shapes of published tensors to the architecture: what the weights tell, nobody has to."""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from taming_cli.codec.vqgan import VQGAN, codec_sha256
from taming_cli.config.codec import CodecConfig
from taming_cli.config.fields import to_dict
from taming_cli.errors import BadFileError, UsageError
from taming_cli.interop.ledger import Imported
from taming_cli.runtime.checkpoint import ModelFile
from taming_cli.runtime.stored import Stored

Config = TypeVar("Config")


class OtherConfigError(BadFileError):
    """A config that belongs to another checkpoint. Its message goes on from the config's name: `says n_embed 1024, but
    ...`, which whoever read it puts before."""


class Codec(NamedTuple):
    """A codec's architecture, its tensors by the published names, and those that are only kept."""

    config: CodecConfig
    tensors: Mapping[str, Stored]
    kept: Mapping[str, Stored] = MappingProxyType({})


def count(names: Iterable[str], pattern: str) -> int:
    """One more than the largest number that the group of `pattern` finds at the beginning of a name; 0 for none."""
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def codec_config(tensors: Mapping[str, Stored], where: str, **known: Any) -> CodecConfig:
    """The architecture of a codec with the published names.

    `known` is what the file's own config says, by our names: it fills in what the weights cannot tell (`resolution`,
    `norm_groups`, `dropout`), and where it contradicts them, OtherConfigError names both.
    """

    def side(name: str, dimension: int) -> int:
        tensor = tensors.get(name)
        if tensor is None or dimension >= len(tensor.shape):
            raise BadFileError(f"{where} is no codec known here: it has no {name}")
        return tensor.shape[dimension]

    levels = count(tensors, r"encoder\.down\.(\d+)\.")
    ch = side("encoder.conv_in.weight", 0)
    widths = [side(f"encoder.down.{level}.block.0.conv1.weight", 0) for level in range(levels)]
    if not levels or not ch or any(width % ch for width in widths):
        raise BadFileError(f"{where} is no codec known here: its levels have {widths} channels, its input layer {ch}")
    resolution = known.get("resolution", 256)
    gumbel = "quantize.proj.weight" in tensors
    entries = "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
    attended = [level for level in range(levels) if f"encoder.down.{level}.attn.0.norm.weight" in tensors]
    if side("encoder.conv_out.weight", 0) == 2 * side("decoder.conv_in.weight", 1):
        raise BadFileError(f"{where} is a continuous (KL) autoencoder; only codecs with a codebook make tokens")
    seen: dict[str, Any] = {
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
    proofs = {
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
    for name, (key, tensor) in proofs.items():
        said = known.get(name, seen[name])
        if name == "attn_resolutions" and isinstance(said, list | tuple):  # those that no level has are of no effect
            said = tuple(side for side in (resolution // 2**level for level in range(levels)) if side in said)
        if (tuple(said) if isinstance(said, list) else said) != seen[name]:
            raise OtherConfigError(f"says {key} {_shown(said)}, but {tensor} of {where} has {_shown(seen[name])}")
    try:
        return built(CodecConfig, where, **{"norm_groups": 32, **known, **seen, "resolution": resolution})
    except BadFileError as error:
        if not known:
            raise
        codec_config(tensors, where)  # where the weights by themselves are possible, what is known is at fault
        raise OtherConfigError(f"is not of this checkpoint: {error}") from None


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) or "none" if isinstance(value, tuple | list) else str(value)


def built(config: type[Config], where: str, **values: Any) -> Config:
    """`config(**values)`; BadFileError names the file where a value is impossible."""
    try:
        return config(**values)
    except UsageError as error:
        raise BadFileError(f"{where} describes an impossible model: {error}") from None


def check(network: nn.Module, tensors: Mapping[str, Stored], where: str) -> None:
    """Refuse tensors that are not exactly those of `network` (which may be on torch's meta device). BadFileError."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in expected:
        if name not in tensors:
            raise BadFileError(f"{where} has no {name}, which a model of its shape needs")
    for name, tensor in tensors.items():
        if name not in expected:
            raise BadFileError(f"{where} has {name}, which a model of its shape does not have")
        if tensor.shape != expected[name]:
            raise BadFileError(f"{where} has {name} of shape {tensor.shape}; {expected[name]} is needed")


def as_float(tensor: Stored) -> Stored:
    """The same in fp32, as every network here keeps its weights."""
    if tensor.dtype == torch.float32:
        return tensor
    return tensor._replace(dtype=torch.float32, load=lambda: tensor.load().float())


def published_codec(tensors: Mapping[str, Stored], where: str, **known: Any) -> Codec:
    """The codec that these tensors are, all of them by the published names. `known` as for `codec_config`."""
    weights = {name: as_float(tensor) for name, tensor in tensors.items()}
    config = codec_config(weights, where, **known)
    with torch.device("meta"):
        check(VQGAN(config), weights, where)
    return Codec(config, weights)


def imported_codec(codec: Codec, about: Mapping[str, Any], dropped: Mapping[str, int], kind: str = "image") -> Imported:
    """A codec as a model file's content."""
    digest = codec_sha256(codec.config, codec.tensors)
    model = ModelFile(
        format="taming-codec",
        config={"codec": to_dict(codec.config)},
        about={**about, "content": kind, "codec_sha256": digest},
        tensors={},
    )
    return Imported(model=model, tensors={**codec.tensors, **extra(codec.kept)}, dropped=dict(dropped))


def extra(kept: Mapping[str, Stored]) -> dict[str, Stored]:
    """Tensors that nothing here uses, by the names under which our files keep them for an export."""
    return {f"extra.{name}": tensor for name, tensor in kept.items()}
