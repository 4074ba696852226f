"""Import of the authors' checkpoints, and of latent diffusion's with the same layout: a pickle and an OmegaConf yaml.

Our networks have the published tensor names. The import separates the parts by prefix, infers their architecture from
shapes and yaml, and accounts for all other tensors.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from taming_cli.codec.vqgan import codec_sha256
from taming_cli.config.codec import CodecConfig
from taming_cli.config.fields import one_of, to_dict
from taming_cli.config.prior import ConditionSpec, Order, PriorConfig
from taming_cli.config.size import Size
from taming_cli.errors import BadFileError
from taming_cli.interop.ledger import ImportedModel, Ledger
from taming_cli.interop.published import (
    CodecParts,
    OtherConfigError,
    as_float,
    build_config,
    check_tensors,
    count,
    extra,
    imported_codec,
    published_codec,
)
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.raster.order import cells
from taming_cli.runtime.checkpoint import ModelFile
from taming_cli.runtime.stored import Stored

CODEC = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
ORDERS: Mapping[str, Order] = {
    "Identity": "raster",
    "ZCurve": "z-curve",
    "SpiralOut": "spiral-out",
    "SpiralIn": "spiral-in",
    "AlternateParsing": "alternating",
}
"""The authors' permuters, and the names of these orders here."""
KEPT = ("loss.discriminator.", "colorize")
"""Tensors that only an export uses."""


def import_codec(
    tensors: Mapping[str, Stored], config: Mapping[str, Any], where: str, about: Mapping[str, Any]
) -> ImportedModel:
    """Import a `VQModel` or one of its variants, alone or as the first stage of a latent diffusion model."""
    ledger = Ledger(where, dict(tensors))
    params = _model_params(config)
    if "transformer_config" in params:
        raise OtherConfigError(
            f"is the config of a prior (it has a transformer_config), but {where} has no transformer.* tensors"
        )
    if "first_stage_model.encoder.conv_in.weight" in tensors:
        codec = _part(ledger, "first_stage_model.", _params(params, "first_stage_config"))
        ledger.drop(".*", "the diffusion model around it")
    else:
        codec = _codec(ledger, params)
    return imported_codec(codec, about, ledger.dropped, _kind(codec, config))


def import_prior(
    tensors: Mapping[str, Stored], config: Mapping[str, Any], where: str, about: Mapping[str, Any]
) -> ImportedModel:
    """Import a `Net2NetTransformer` with its codec and, if it has one, the codec of its condition."""
    if not config:
        raise BadFileError(
            f"{where} is a prior; its weights do not determine n_head and the condition: give --config FILE"
        )
    ledger = Ledger(where, dict(tensors))
    params = _model_params(config)
    if "transformer_config" not in params:
        raise OtherConfigError(
            f"is not the config of a prior (it has no transformer_config), but {where} has transformer.* tensors"
        )
    codec = _part(ledger, "first_stage_model.", _params(params, "first_stage_config"))
    spec, condition = _condition(ledger, params, codec)
    gpt = _without(ledger.take("transformer."), "transformer.")
    inner = Ledger(where, gpt, ledger.dropped)
    _check_masks(inner)
    inner.drop(r"blocks\.\d+\.attn\.mask", "causal masks, which are computed")
    prior = _prior_config(inner.tensors, _params(params, "transformer_config"), where, codec.config, spec, params)
    with torch.device("meta"):
        check_tensors(GPT(prior), inner.tensors, where)
    if any(name.startswith("cond_stage_model.") for name in ledger.tensors):
        raise OtherConfigError(f"has a cond_stage_config without weights, but {where} has cond_stage_model.* tensors")
    _check_order(ledger, prior)
    ledger.close()
    kept = {f"first_stage_model.{name}": tensor for name, tensor in codec.kept.items()}
    parts: dict[str, Mapping[str, Stored]] = {"prior": inner.tensors, "codec": codec.tensors}
    configs: dict[str, Any] = {"prior": to_dict(prior), "codec": to_dict(codec.config)}
    if condition is not None:
        kind = prior.conditions[0].kind
        parts[f"condition.{kind}"] = condition.tensors
        configs["conditions"] = {kind: to_dict(condition.config)}
        kept |= {f"cond_stage_model.{name}": tensor for name, tensor in condition.kept.items()}
    return ImportedModel(
        model=ModelFile(
            format="taming-prior",
            config=configs,
            about={
                **about,
                "codec_sha256": codec_sha256(codec.config, codec.tensors),
                "grid": str(prior.window),
                "downsample_factor": codec.config.downsample_factor,
                "label_names": [str(label) for label in range(prior.num_classes)],
                "condition_dropout": 0.0,
            },
            tensors={},
        ),
        tensors={
            **{f"{part}.{name}": as_float(tensor) for part, own in parts.items() for name, tensor in own.items()},
            **extra(kept),
        },
        dropped=dict(ledger.dropped),
    )


def _check_masks(ledger: Ledger) -> None:
    """BadFileError if a dropped mask is not causal: with `n_unmasked`, the condition attends to itself in full."""
    for name, mask in ledger.tensors.items():
        if name.endswith("attn.mask"):
            values = mask.load()
            if values.ndim != 4 or not torch.equal(values, torch.ones_like(values).tril()):
                raise BadFileError(
                    f"{ledger.where} has a transformer.{name} that is not causal, which is not supported"
                )


def _check_order(ledger: Ledger, config: PriorConfig) -> None:
    """Check that a permutation in the file is that of the configured order."""
    order = cells(config)
    for name, expected in (("forward", order), ("backward", order.argsort())):
        for index in ledger.take(f"permuter.{name}_shuffle_idx").values():
            if index.shape != (config.cells,) or not torch.equal(index.load().long(), expected):
                _refuse_order(config, name, index, ledger.where)


def _refuse_order(config: PriorConfig, name: str, index: Stored, where: str) -> NoReturn:
    """OtherConfigError if the permutation is that of another order, otherwise BadFileError."""
    if index.shape == (config.cells,):
        for order in ORDERS.values():
            known = cells(replace(config, order=order))
            if torch.equal(index.load().long(), known if name == "forward" else known.argsort()):
                raise OtherConfigError(
                    f"has a permuter_config with the order {config.order!r}; permuter.{name}_shuffle_idx of {where} "
                    f"is not the order {config.order!r} but {order!r}"
                )
    raise BadFileError(f"{where} has a permutation that is not the order {config.order!r}")


def outline(tensors: Mapping[str, Stored]) -> dict[str, Any]:
    """The parts of a prior's architecture that its weights determine without the yaml."""
    gpt = _without({name: t for name, t in tensors.items() if name.startswith("transformer.")}, "transformer.")
    sides = {"vocab_size": ("tok_emb.weight", 0), "n_embd": ("tok_emb.weight", 1), "block_size": ("pos_emb", 1)}
    shapes = {name: (*gpt[key].shape, 0, 0) if key in gpt else (0, 0) for name, (key, _) in sides.items()}
    weights = sum(math.prod(t.shape) for name, t in gpt.items() if not name.endswith("attn.mask"))
    return {
        "prior_parameters": weights,
        "n_layer": count(gpt, r"blocks\.(\d+)\."),
        **{name: shapes[name][side] for name, (_, side) in sides.items()},
        "n_head": "not in the weights: give --config FILE",
    }


def _part(ledger: Ledger, prefix: str, params: Mapping[str, Any]) -> CodecParts:
    where = f"the {prefix.removesuffix('.')} of {ledger.where}"
    return _codec(Ledger(where, _without(ledger.take(prefix), prefix), ledger.dropped), params)


def _codec(ledger: Ledger, params: Mapping[str, Any]) -> CodecParts:
    """The codec in a ledger, with all tensors accounted for."""
    ledger.drop(r"loss\.perceptual_loss\..*", "the perceptual network of the training")
    ledger.drop(r"model_ema\..*", "moving averages of the training")
    kept = ledger.take(*KEPT)
    tensors, known = ledger.take(*CODEC), _codec_settings(params)
    if "quantize.used" in tensors:
        kept |= _remap(tensors, ledger.where)
        known.pop("codebook_size", None)
    codec = published_codec(tensors, ledger.where, **known)
    ledger.close()
    return codec._replace(kept=kept)


def _remap(tensors: dict[str, Stored], where: str) -> dict[str, Stored]:
    """Reduce a remapped codebook to its used entries, numbered like the prior's codes; returns the original tensors.

    If the nearest entry is unused, the published code draws a random one; here the nearest used entry applies.
    """
    used = tensors.pop("quantize.used")
    original = {name: tensor for name, tensor in tensors.items() if name.startswith("quantize.")}
    index = used.load().long()
    for name, tensor in original.items():
        if index.ndim != 1 or not len(index) or int(index.min()) < 0 or int(index.max()) >= tensor.shape[0]:
            raise BadFileError(f"{where} has a quantize.used that does not fit its {name}")
        tensors[name] = tensor._replace(shape=(len(index), *tensor.shape[1:]), load=partial(_rows, tensor, index))
    return {**original, "quantize.used": used}


def _rows(tensor: Stored, index: Tensor) -> Tensor:
    return tensor.load()[index]


def _kind(codec: CodecParts, config: Mapping[str, Any]) -> str:
    """The kind of the codec's images: `image_key` of the config, otherwise a guess from the number of channels."""
    key = _params(config).get("image_key")
    guessed = {1: "depth", 3: "image"}.get(codec.config.in_channels, "segmentation")
    return key if isinstance(key, str) and key != "image" else guessed


def _codec_settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a codec in its config, by our names."""
    network = params.get("ddconfig")
    if not isinstance(network, Mapping):
        network = {}
    single = ("resolution", "in_channels", "out_ch", "z_channels", "dropout", "num_res_blocks", "ch")
    same = (*single, "ch_mult", "attn_resolutions")
    known = {name: network[name] for name in same if name in network}
    renamed = {"n_embed": "codebook_size", "embed_dim": "codebook_dim"}
    known |= {ours: params[name] for name, ours in renamed.items() if name in params}
    for name, value in known.items():
        numbers = value if name in ("ch_mult", "attn_resolutions") else [value]
        if not isinstance(numbers, list) or not all(type(each) is int or name == "dropout" for each in numbers):
            theirs = next((key for key, ours in renamed.items() if ours == name), name)
            raise OtherConfigError(f"specifies {theirs} {value!r}, where whole numbers are expected")
    return known


def _condition(
    ledger: Ledger, params: Mapping[str, Any], codec: CodecParts
) -> tuple[ConditionSpec | int, CodecParts | None]:
    """The prefix of the image tokens: a condition and its codec, if it has one; or the number of the start token."""
    stage = params.get("cond_stage_config")
    key = str(params.get("cond_stage_key", "depth"))
    if params.get("downsample_cond_size", -1) != -1:
        raise BadFileError(f"{ledger.where} downsamples its condition (downsample_cond_size), which is not supported")
    if stage == "__is_unconditional__" or params.get("unconditional"):
        return int(params.get("sos_token", 0)), None
    if stage == "__is_first_stage__":
        ledger.drop(r"cond_stage_model\..*", "the first stage once more, as the condition's")
        same = codec._replace(tensors={}, kept={})
        return ConditionSpec(kind=key, vocabulary=codec.config.codebook_size, form="grid"), same
    target = str(stage.get("target", "")).rpartition(".")[2] if isinstance(stage, Mapping) else ""
    inner = _params(params, "cond_stage_config")
    if target == "Labelator":
        return ConditionSpec(kind="class", vocabulary=_number(inner, "n_classes", ledger.where)), None
    if target == "SOSProvider":
        return _number(inner, "sos_token", ledger.where, 0), None
    if target == "CoordStage":
        return ConditionSpec(kind="coords", vocabulary=_number(inner, "n_embed", ledger.where) + 1, form="grid"), None
    if target in ("VQModel", "VQSegmentationModel", "VQNoDiscModel", "GumbelVQ"):
        if "cond_stage_model.encoder.conv_in.weight" not in ledger.tensors:
            raise OtherConfigError(
                f"has the cond_stage_config {target}, but {ledger.where} has no cond_stage_model.encoder"
            )
        condition = _part(ledger, "cond_stage_model.", inner)
        return ConditionSpec(kind=key, vocabulary=condition.config.codebook_size, form="grid"), condition
    raise BadFileError(f"{ledger.where} has the condition {target or stage!r}, which is not supported")


def _prior_config(
    tensors: Mapping[str, Stored],
    params: Mapping[str, Any],
    where: str,
    codec: CodecConfig,
    condition: ConditionSpec | int,
    model: Mapping[str, Any],
) -> PriorConfig:
    for name in ("tok_emb.weight", "pos_emb"):
        if name not in tensors:
            raise BadFileError(f"{where} is not a supported prior: it has no transformer.{name}")
    permuter = model.get("permuter_config") or {}
    name, shuffle = str(permuter.get("target", "Identity")).rpartition(".")[2], permuter.get("params") or {}
    if name not in ORDERS:
        raise BadFileError(f"{where} orders its tokens by {name}; only {', '.join(ORDERS)} are supported")
    block_size = tensors["pos_emb"].shape[1] if len(tensors["pos_emb"].shape) == 3 else 0
    conditions: tuple[ConditionSpec, ...] = () if isinstance(condition, int) else (condition,)
    grid = bool(conditions) and conditions[0].form == "grid"
    side = min(16, math.isqrt((block_size + 1) // 2 if grid else block_size))
    sources = {
        "vocab_size": ("tok_emb.weight", tensors["tok_emb.weight"].shape[0]),
        "n_embd": ("tok_emb.weight", tensors["tok_emb.weight"].shape[-1]),
        "block_size": ("pos_emb", block_size),
        "n_layer": ("blocks.*", count(tensors, r"blocks\.(\d+)\.")),
    }
    for key, (tensor, actual) in sources.items():
        if params.get(key, actual) != actual:
            raise OtherConfigError(f"specifies {key} {params[key]}, but transformer.{tensor} of {where} has {actual}")
    heads = _number(params, "n_head", where)
    if not heads or tensors["tok_emb.weight"].shape[-1] % heads:
        width = tensors["tok_emb.weight"].shape[-1]
        raise OtherConfigError(
            f"specifies n_head {heads}, which does not divide the {width} of transformer.tok_emb in {where}"
        )
    return build_config(
        PriorConfig,
        where,
        arch="published",
        n_layer=count(tensors, r"blocks\.(\d+)\."),
        n_head=heads,
        n_embd=tensors["tok_emb.weight"].shape[1],
        window=Size(_side(shuffle, "W", side), _side(shuffle, "H", side)),
        order=ORDERS[name],
        codebook_size=codec.codebook_size,
        conditions=conditions,
        sos_token=condition if isinstance(condition, int) else 0,
        vocabulary="shared",
        vocab_size=tensors["tok_emb.weight"].shape[0],
        block_size=block_size,
    )


def _side(shuffle: Mapping[str, Any], name: str, default: int) -> int:
    """The H or W of a permuter."""
    value = shuffle.get(name, default)
    return value if type(value) is int and 0 < value <= 256 else default


def _number(params: Mapping[str, Any], name: str, where: str, default: int | None = None) -> int:
    value = params.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise OtherConfigError(f"has no number {name}, which {where} needs; {one_of(map(str, params), name)}")
    return value


def _model_params(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `model.params` of a config; empty without a config."""
    params = _params(config)
    if config and not params:
        raise OtherConfigError("has no model.params, unlike the config of a checkpoint")
    return params


def _params(config: Mapping[str, Any], name: str = "model") -> Mapping[str, Any]:
    """`config[name]["params"]`, empty if there is none."""
    inner = config.get(name)
    params = inner.get("params") if isinstance(inner, Mapping) else None
    return params if isinstance(params, Mapping) else {}


def _without(tensors: Mapping[str, Stored], prefix: str) -> dict[str, Stored]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
