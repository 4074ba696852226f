"""The authors' checkpoints, and latent diffusion's, which keep their layout: a pickle beside an OmegaConf yaml.

Our networks have the published names, so what is to be done is to tell parts apart by their prefix, to read from shapes
and yaml what they are, and to account for everything else.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from taming_cli.codec.vqgan import VQGAN, codec_sha256
from taming_cli.config.codec import CodecConfig
from taming_cli.config.fields import one_of, to_dict
from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.size import Size
from taming_cli.errors import BadFileError
from taming_cli.interop.ledger import Imported, Ledger
from taming_cli.interop.shapes import as_float, built, check, codec_config, count
from taming_cli.prior.gpt import GPT
from taming_cli.runtime.checkpoint import ModelFile, Stored

CODEC = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
KEPT = ("loss.discriminator.", "colorize")
"""Tensors that nothing here uses and that an export gives back."""


class Codec(NamedTuple):
    """A codec's architecture, its tensors by the published names, those that are only kept, and the maps it is for."""

    config: CodecConfig
    tensors: dict[str, Stored]
    kept: dict[str, Stored]
    kind: str


def import_codec(
    tensors: Mapping[str, Stored], yaml: Mapping[str, Any], where: str, about: Mapping[str, Any]
) -> Imported:
    """A `VQModel` and its like, alone or as the first stage of a latent diffusion model."""
    ledger = Ledger(where, dict(tensors))
    if "first_stage_model.encoder.conv_in.weight" in tensors:
        codec = _part(ledger, "first_stage_model.", _params(_params(yaml), "first_stage_config"))
        ledger.drop(".*", "the diffusion model around it")
    else:
        codec = _codec(ledger, _params(yaml))
    return Imported(
        model=ModelFile(
            format="taming-codec",
            config={"codec": to_dict(codec.config)},
            about={**about, "kind": codec.kind, "codec_sha256": codec_sha256(codec.config, codec.tensors)},
            tensors={},
        ),
        tensors={**codec.tensors, **{f"extra.{name}": tensor for name, tensor in codec.kept.items()}},
        dropped=dict(ledger.dropped),
    )


def import_prior(
    tensors: Mapping[str, Stored], yaml: Mapping[str, Any], where: str, about: Mapping[str, Any]
) -> Imported:
    """A `Net2NetTransformer` with its codec and, where it has one, its condition's codec."""
    if not yaml:
        raise BadFileError(
            f"{where} is a prior, whose n_head and condition its weights cannot tell: give --config FILE"
        )
    ledger = Ledger(where, dict(tensors))
    params = _params(yaml)
    codec = _part(ledger, "first_stage_model.", _params(params, "first_stage_config"))
    named, condition = _condition(ledger, params, codec)
    gpt = _without(ledger.take("transformer."), "transformer.")
    inner = Ledger(where, gpt, ledger.dropped)
    inner.drop(r"blocks\.\d+\.attn\.mask", "causal masks, which are computed")
    config = _prior_config(inner.tensors, _params(params, "transformer_config"), where, codec.config, named, params)
    with torch.device("meta"):
        check(GPT(config), inner.tensors, where)
    ledger.drop(r"permuter\..*", "raster order")
    ledger.close()
    kept = {f"first_stage_model.{name}": tensor for name, tensor in codec.kept.items()}
    parts = {"prior": inner.tensors, "codec": codec.tensors}
    configs: dict[str, Any] = {"prior": to_dict(config), "codec": to_dict(codec.config)}
    if condition is not None:
        parts[f"condition.{config.conditions[0].kind}"] = condition.tensors
        configs["conditions"] = {config.conditions[0].kind: to_dict(condition.config)}
        kept |= {f"cond_stage_model.{name}": tensor for name, tensor in condition.kept.items()}
    return Imported(
        model=ModelFile(
            format="taming-prior",
            config=configs,
            about={
                **about,
                "codec_sha256": codec_sha256(codec.config, codec.tensors),
                "grid": str(config.window),
                "downsample_factor": codec.config.downsample_factor,
                "label_names": [str(label) for label in range(config.num_classes)],
                "condition_dropout": 0.0,
            },
            tensors={},
        ),
        tensors={
            **{f"{part}.{name}": as_float(tensor) for part, found in parts.items() for name, tensor in found.items()},
            **{f"extra.{name}": tensor for name, tensor in kept.items()},
        },
        dropped=dict(ledger.dropped),
    )


def _part(ledger: Ledger, prefix: str, params: Mapping[str, Any]) -> Codec:
    return _codec(Ledger(ledger.where, _without(ledger.take(prefix), prefix), ledger.dropped), params)


def _codec(ledger: Ledger, params: Mapping[str, Any]) -> Codec:
    """The codec that a ledger holds; everything in it is accounted for."""
    ledger.drop(r"loss\.perceptual_loss\..*", "the perceptual network of the training")
    ledger.drop(r"model_ema\..*", "moving averages of the training")
    kept = ledger.take(*KEPT)
    tensors = {name: as_float(tensor) for name, tensor in ledger.take(*CODEC).items()}
    ledger.close()
    config = codec_config(tensors, ledger.where, **_known(params))
    with torch.device("meta"):
        check(VQGAN(config), tensors, ledger.where)
    kind = str(params.get("image_key", "image"))
    return Codec(config, tensors, kept, kind if kind != "image" or config.in_channels == 3 else "segmentation")


def _known(params: Mapping[str, Any]) -> dict[str, Any]:
    """What a codec's params say, by our names."""
    network = params.get("ddconfig") or {}
    same = ("resolution", "in_channels", "out_ch", "z_channels", "dropout", "num_res_blocks", "ch")
    known = {name: network[name] for name in same if name in network}
    renamed = {"n_embed": "codebook_size", "embed_dim": "codebook_dim"}
    return known | {ours: params[name] for name, ours in renamed.items() if name in params}


def _condition(ledger: Ledger, params: Mapping[str, Any], codec: Codec) -> tuple[ConditionSpec | int, Codec | None]:
    """What stands before the image tokens: a condition, with its codec where it has one, or the number of "start"."""
    given = params.get("cond_stage_config")
    key = str(params.get("cond_stage_key", "depth"))
    if given == "__is_unconditional__" or params.get("unconditional"):
        return int(params.get("sos_token", 0)), None
    if given == "__is_first_stage__":
        same = codec._replace(tensors={}, kept={})
        return ConditionSpec(kind=key, vocabulary=codec.config.codebook_size, form="grid"), same
    target = str(given.get("target", "")).rpartition(".")[2] if isinstance(given, Mapping) else ""
    inner = _params(params, "cond_stage_config")
    if target == "Labelator":
        return ConditionSpec(kind="class", vocabulary=_number(inner, "n_classes", ledger.where)), None
    if target == "SOSProvider":
        return _number(inner, "sos_token", ledger.where, 0), None
    if target == "CoordStage":
        return ConditionSpec(kind="coords", vocabulary=_number(inner, "n_embed", ledger.where) + 1, form="grid"), None
    if target in ("VQModel", "VQSegmentationModel", "VQNoDiscModel", "GumbelVQ"):
        condition = _part(ledger, "cond_stage_model.", inner)
        return ConditionSpec(kind=key, vocabulary=condition.config.codebook_size, form="grid"), condition
    raise BadFileError(f"{ledger.where} has the condition {target or given!r}, which is not known here")


def _prior_config(
    tensors: Mapping[str, Stored],
    params: Mapping[str, Any],
    where: str,
    codec: CodecConfig,
    before: ConditionSpec | int,
    whole: Mapping[str, Any],
) -> PriorConfig:
    for name in ("tok_emb.weight", "pos_emb"):
        if name not in tensors:
            raise BadFileError(f"{where} is no prior known here: it has no transformer.{name}")
    order = str((whole.get("permuter_config") or {}).get("target", "Identity")).rpartition(".")[2]
    if order != "Identity":
        raise BadFileError(f"{where} orders its tokens by {order}, which is not known here")
    block_size = tensors["pos_emb"].shape[1] if len(tensors["pos_emb"].shape) == 3 else 0
    conditions: tuple[ConditionSpec, ...] = () if isinstance(before, int) else (before,)
    grid = bool(conditions) and conditions[0].form == "grid"
    side = min(16, math.isqrt((block_size + 1) // 2 if grid else block_size))
    return built(
        PriorConfig,
        where,
        arch="published",
        n_layer=count(tensors, r"blocks\.(\d+)\."),
        n_head=_number(params, "n_head", where),
        n_embd=tensors["tok_emb.weight"].shape[1],
        window=Size(side, side),
        codebook_size=codec.codebook_size,
        conditions=conditions,
        sos_token=before if isinstance(before, int) else 0,
        vocabulary="shared",
        vocab_size=tensors["tok_emb.weight"].shape[0],
        block_size=block_size,
    )


def _number(params: Mapping[str, Any], name: str, where: str, default: int | None = None) -> int:
    value = params.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadFileError(f"the config of {where} has no number {name}; {one_of(map(str, params), name)}")
    return value


def _params(config: Mapping[str, Any], name: str = "model") -> Mapping[str, Any]:
    """`config[name]["params"]`, empty where there is none."""
    inner = config.get(name)
    params = inner.get("params") if isinstance(inner, Mapping) else None
    return params if isinstance(params, Mapping) else {}


def _without(tensors: Mapping[str, Stored], prefix: str) -> dict[str, Stored]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
