"""Export of models in the authors' layout, the inverse of `compvis`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from taming_cli.config.codec import CodecConfig
from taming_cli.config.fields import from_dict
from taming_cli.config.prior import recorded_prior
from taming_cli.data.disk import write_atomically
from taming_cli.errors import UsageError
from taming_cli.interop.compvis import ORDERS
from taming_cli.interop.published import with_entries
from taming_cli.prior.raster.order import cells
from taming_cli.runtime.checkpoint import ModelFile, save_torch


def export_checkpoint(model: ModelFile, path: Path) -> Path:
    """Write a model in the authors' layout: `path` (.ckpt, for torch.load) and a yaml beside it, which is returned.

    Tensors that an import kept are included. UsageError if the authors' code cannot represent the model.
    """
    kept = {name.removeprefix("extra."): t for name, t in model.tensors.items() if name.startswith("extra.")}
    if model.format == "taming-codec":
        config = from_dict(CodecConfig, model.config["codec"], str(path))
        if config.network != "vqgan":
            raise UsageError("the authors' code has no dVAE, VQ-VAE-2 or palette; give the file of a VQGAN")
        own = {name: tensor for name, tensor in model.tensors.items() if not name.startswith("extra.")}
        state, exported = _codec_state(config, own), _codec_params(config, str(model.about.get("content", "image")))
        remapped = {"": exported}
    else:
        state, exported = _prior_state(model, str(path))
        remapped = {
            f"{part}_model.": exported["params"].get(f"{part}_config") for part in ("first_stage", "cond_stage")
        }
    for prefix, part in remapped.items():
        if (used := kept.get(f"{prefix}quantize.used")) is not None:
            listed = path.with_name(f"{path.stem}.{prefix}used.npy")
            write_atomically(listed, partial(_save_array, used))
            entries = "embed" if part["target"].endswith("GumbelVQ") else "embedding"
            part["params"] |= {"remap": str(listed), "n_embed": len(kept[f"{prefix}quantize.{entries}.weight"])}
    training = {"global_step": model.about.get("step", 0), "epoch": model.about.get("epoch", 0)}
    write_atomically(path, lambda temporary: save_torch(temporary, {**training, "state_dict": state | kept}))
    written = path.with_suffix(".yaml")
    write_atomically(written, lambda temporary: temporary.write_text(yaml.safe_dump({"model": exported})))
    return written


def _prior_state(model: ModelFile, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the config of a prior in the authors' layout."""
    prior = recorded_prior(model.config["prior"], where)
    codec = from_dict(CodecConfig, model.config["codec"], where)
    if prior.arch != "published" or prior.vocabulary != "shared":
        raise UsageError("the authors' code only has priors with arch 'published' and a shared table")
    parts: dict[str, dict[str, Tensor]] = {"prior": {}, "codec": {}, "condition": {}}
    for name, tensor in model.tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest.partition(".")[2] if part == "condition" else rest] = tensor
    rows = prior.block_size or prior.sequence_length
    mask = torch.ones(rows, rows).tril()[None, None]
    state = {f"transformer.{name}": tensor for name, tensor in parts["prior"].items()}
    state |= {f"transformer.blocks.{layer}.attn.mask": mask for layer in range(prior.n_layer)}
    state |= {f"first_stage_model.{name}": t for name, t in _codec_state(codec, parts["codec"]).items()}
    params: dict[str, Any] = {
        "first_stage_config": _codec_params(codec, "image"),
        "transformer_config": {
            "target": "taming.modules.transformer.mingpt.GPT",
            "params": {
                "vocab_size": prior.vocab_size,
                "block_size": rows,
                "n_layer": prior.n_layer,
                "n_head": prior.n_head,
                "n_embd": prior.n_embd,
            },
        },
    }
    if prior.order != "raster":
        permuter = {order: name for name, order in ORDERS.items()}[prior.order]
        params["permuter_config"] = {
            "target": f"taming.modules.transformer.permuter.{permuter}",
            "params": {"H": prior.window.height, "W": prior.window.width},
        }
        state["permuter.forward_shuffle_idx"] = cells(prior)
        state["permuter.backward_shuffle_idx"] = cells(prior).argsort()
    spec = prior.conditions[0] if prior.conditions else None
    if spec is None:
        params |= {"cond_stage_config": "__is_unconditional__", "sos_token": prior.sos_token, "unconditional": True}
    elif spec.kind == "class":
        params["cond_stage_key"] = "class_label"
        params["cond_stage_config"] = {
            "target": "taming.modules.util.Labelator",
            "params": {"n_classes": spec.vocabulary},
        }
    elif spec.kind == "coords":
        params["cond_stage_key"] = "coord"
        params["cond_stage_config"] = {
            "target": "taming.modules.misc.coord.CoordStage",
            "params": {"n_embed": spec.vocabulary - 1, "down_factor": codec.downsample_factor},
        }
    else:
        params["cond_stage_key"] = spec.kind
        config = from_dict(CodecConfig, model.config["conditions"][spec.kind], where)
        params["cond_stage_config"] = _codec_params(config, spec.kind) if parts["condition"] else "__is_first_stage__"
        condition = _codec_state(config, parts["condition"] or parts["codec"])  # duplicated in their state dict
        state |= {f"cond_stage_model.{name}": tensor for name, tensor in condition.items()}
    return state, {"target": "taming.models.cond_transformer.Net2NetTransformer", "params": params}


def _codec_state(config: CodecConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a codec in the authors' layout."""
    if config.norm_groups != 32:
        raise UsageError(f"this codec has norm_groups {config.norm_groups}; the authors' code supports only 32")
    return with_entries(config, tensors)


def _codec_params(config: CodecConfig, kind: str) -> dict[str, Any]:
    params: dict[str, Any] = {
        "embed_dim": config.codebook_dim,
        "n_embed": config.codebook_size,
        "ddconfig": {
            "double_z": False,
            "z_channels": config.z_channels,
            "resolution": config.resolution,
            "in_channels": config.in_channels,
            "out_ch": config.out_ch,
            "ch": config.ch,
            "ch_mult": list(config.ch_mult),
            "num_res_blocks": config.num_res_blocks,
            "attn_resolutions": list(config.attn_resolutions),
            "dropout": config.dropout,
        },
        "lossconfig": {"target": "taming.modules.losses.DummyLoss"},
    }
    network = {"segmentation": "VQSegmentationModel"}.get(kind, "VQModel")
    if kind == "segmentation":
        params["n_labels"] = config.in_channels
    if kind != "image":
        params["image_key"] = kind
    if config.codebook == "gumbel":
        network = "GumbelVQ"
        params["temperature_scheduler_config"] = {
            "target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler",
            "params": {"warm_up_steps": 0, "max_decay_steps": 1, "lr_start": 1.0, "lr_max": 1.0, "lr_min": 1.0},
        }
    return {"target": f"taming.models.vqgan.{network}", "params": params}


def _save_array(tensor: Tensor, path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, tensor.numpy())
