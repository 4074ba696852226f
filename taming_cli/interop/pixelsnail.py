"""PixelSNAIL over the codes of a VQ-VAE-2, in the layout of the well-known PyTorch port."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from taming_cli.codec.vqgan import codec_from
from taming_cli.config.fields import to_dict
from taming_cli.config.levels import SCALE, TOP_CONDITION
from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.size import Size
from taming_cli.errors import BadFileError
from taming_cli.interop.ledger import ImportedModel, Ledger
from taming_cli.interop.published import as_float, build_config, check_tensors, count
from taming_cli.prior.networks.pixelsnail import PixelSNAIL
from taming_cli.runtime.checkpoint import ModelFile, load_model
from taming_cli.runtime.model_files import named
from taming_cli.runtime.stored import Stored

MARK = "horizontal.conv.conv.weight_v"
"""A tensor by which such a file is recognised."""
HEADS = 8
"""Attention heads of the port, which no shape determines."""
_BACKGROUND = "background"
_MAP = f"maps.{TOP_CONDITION}"
_RULES = (
    (r"(?:\.conv)+\.(weight_v|weight_g|bias)$", r".\1"),
    (r"\.aux_conv\.", ".aux."),
    (r"\.causal_attention\.", ".attention."),
    (r"^cond_resnet\.blocks\.0\.", f"{_MAP}.conv."),
)
"""From the port's names to ours; what is counted differently follows in `_ours`."""


def import_prior(
    tensors: Mapping[str, Stored], codec: Path | None, where: str, about: Mapping[str, Any]
) -> ImportedModel:
    """Import a prior of the codes of `codec`, a codec's model file: of its bottom level if the prior is conditioned on
    the top level, else of its top level."""
    if codec is None:
        raise BadFileError(f"{where} is a prior, a PixelSNAIL; name the codec whose codes it draws: --codec FILE")
    model = load_model(named(codec))
    network = codec_from(model, str(codec))
    ledger = Ledger(where, dict(tensors))
    background = ledger.take(_BACKGROUND).get(_BACKGROUND)
    prior = _config(_ours(ledger.tensors), background, where)
    if network.config.levels == 1 and prior.level == "top":
        prior = build_config(PriorConfig, where, **{**vars(prior), "level": "single"})
    if network.config.levels == 1 and prior.level == "bottom":
        raise BadFileError(f"{where} draws the bottom one of two levels of codes; {codec} has one level")
    if prior.codebook_size != network.config.codebook_size:
        raise BadFileError(f"{where} has {prior.codebook_size} codes, {codec} has {network.config.codebook_size}")
    weights = {name: as_float(tensor) for name, tensor in _ours(ledger.tensors).items()}
    with torch.device("meta"):
        check_tensors(PixelSNAIL(prior), weights, where)
    _check_background(background, prior, where)
    own = {name: Stored(of.dtype, tuple(of.shape), of.clone) for name, of in network.state_dict().items()}
    parts = {"prior": weights, "codec": own}
    return ImportedModel(
        model=ModelFile(
            format="taming-prior",
            config={"prior": to_dict(prior), "codec": to_dict(network.config)},
            about={
                **about,
                "codec_sha256": network.sha256(),
                "grid": str(prior.window),
                "downsample_factor": network.config.downsample_factor * (SCALE if prior.level == "top" else 1),
                "label_names": [],
                "condition_dropout": 0.0,
            },
            tensors={},
        ),
        tensors={f"{part}.{name}": of for part, held in parts.items() for name, of in held.items()},
        dropped={"positions, which are computed": 1},
    )


def outline(tensors: Mapping[str, Stored], where: str) -> dict[str, Any]:
    """What the shapes of a file tell about the prior."""
    weights = dict(tensors)
    prior = _config(_ours(weights), weights.pop(_BACKGROUND, None), where)
    names = ("arch", "level", "n_layer", "n_head", "n_embd", "window", "codebook_size")
    return {name: value for name, value in to_dict(prior).items() if name in names}


def _ours(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors by our names. Linear layers become convolutions of a cell alone."""
    blocks = count(tensors, r"out\.(\d+)\.conv1\.")
    result = {}
    for theirs, tensor in tensors.items():
        name = theirs
        for pattern, replacement in _RULES:
            name = re.sub(pattern, replacement, name)
        name = re.sub(rf"^out\.{blocks + 1}\.", "head.", name)  # after the blocks, and an ELU
        name = re.sub(r"^cond_resnet\.blocks\.(\d+)\.", lambda found: f"{_MAP}.blocks.{int(found[1]) - 1}.", name)
        linear = ".attention." in name and name.endswith(("weight_v", "weight_g")) and len(tensor.shape) == 2
        result[name] = _as_convolution(tensor) if linear else tensor
    return result


def _as_convolution(tensor: Stored) -> Stored:
    """Weights (out, in) -> (out, in, 1, 1)."""
    shape = (*tensor.shape, 1, 1)
    return tensor._replace(shape=shape, load=lambda: tensor.load().view(shape))


def _config(weights: Mapping[str, Stored], background: Stored | None, where: str) -> PriorConfig:
    """The architecture, from the shapes of our tensors and of the positions."""

    def side(name: str, dimension: int) -> int:
        if name not in weights or dimension >= len(weights[name].shape):
            raise BadFileError(f"{where} is not a supported PixelSNAIL: it has no {name}")
        return weights[name].shape[dimension]

    if background is None or len(background.shape) != 4:
        raise BadFileError(f"{where} is not a supported PixelSNAIL: it has no {_BACKGROUND} of four dimensions")
    first, conv = "blocks.0.resblocks.0.conv1.weight_v", f"{_MAP}.conv.weight_v"
    conditional = conv in weights
    top = ConditionSpec(kind=TOP_CONDITION, vocabulary=side(conv, 1) if conditional else 1, form="grid", scale=SCALE)
    return build_config(
        PriorConfig,
        where,
        arch="pixelsnail",
        level="bottom" if conditional else "top",
        n_layer=count(weights, r"blocks\.(\d+)\."),
        n_head=HEADS,
        n_embd=side("horizontal.weight_v", 0),
        window=Size(background.shape[3], background.shape[2]),
        res_blocks=count(weights, r"blocks\.0\.resblocks\.(\d+)\."),
        kernel=side("horizontal.weight_v", 3),
        res_width=side(first, 0),
        attention="blocks.0.attention.query.weight_v" in weights,
        out_blocks=count(weights, r"out\.(\d+)\."),
        map_blocks=count(weights, rf"{re.escape(_MAP)}\.blocks\.(\d+)\.") if conditional else 3,
        map_width=side(conv, 0) if conditional else 0,
        map_kernel=side(conv, 2) if conditional else 3,
        codebook_size=side("head.weight_v", 0),
        conditions=(top,) if conditional else (),
    )


def _check_background(background: Stored | None, prior: PriorConfig, where: str) -> None:
    """BadFileError unless the positions in the file are those that are computed."""
    assert background is not None
    own = PixelSNAIL(prior).background
    if tuple(own.shape) != background.shape or not torch.allclose(own, background.load().float(), atol=1e-5):
        raise BadFileError(f"{where} has other positions in {_BACKGROUND} than those of its grid")
