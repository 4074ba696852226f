"""The network with which a training begins: a new one, or that of a file, completed from the token files."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from taming_cli.config.prior import ConditionSpec, PriorConfig, PriorTrainConfig, recorded_prior
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.prior.any_order.start import from_raster, with_conditions
from taming_cli.prior.batches import TokenSet
from taming_cli.prior.codebook_features import begin_with_codebooks
from taming_cli.prior.model import Network, new_network, prior_from
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.networks.pixelsnail import PixelSNAIL
from taming_cli.prior.raster.widen import widened
from taming_cli.runtime.checkpoint import ModelFile, load_model


def first_prior(
    prior: PriorConfig,
    train: PriorTrainConfig,
    data: TokenSet,
    codebooks: Mapping[str, Tensor] = MappingProxyType({}),
) -> Network:
    """A new prior for the token files, or the one that `train.init` names, to which conditions that only the files have
    are added (if its vocabularies are separate). UsageError where settings or files do not fit it.

    A new prior begins with `codebooks` (see `begin_with_codebooks`), except that one of the published form and a
    PixelSNAIL begin at random, as published.
    """
    if train.init is None:
        gpt = new_network(fitted(prior, data), dropout=train.dropout)
        if not isinstance(gpt, PixelSNAIL) and prior.arch != "published":
            begin_with_codebooks(gpt, codebooks)
        return gpt
    model = load_model(Path(train.init), "taming-prior")
    gpt = prior_from(model, train.init, dropout=train.dropout)
    converted = prior.arch == "any-order" and isinstance(gpt, GPT)
    for name in ("n_layer", "n_head", "n_embd", *(() if converted else ("arch",))):
        value, requested = getattr(gpt.config, name), getattr(prior, name)
        if value != requested:
            raise UsageError(f"{train.init} has {name} {value}, not {requested}; leave that setting out")
    if model.about["codec_sha256"] != data.header.codec_sha256:
        raise UsageError(
            f"{train.init} was trained on tokens of another codec; give tokens of the codec with hash "
            f"{model.about['codec_sha256'][:12]}; see: taming guide own-pictures"
        )
    most = data.smallest
    if prior.arch != "any-order" and (gpt.config.window.width > most.width or gpt.config.window.height > most.height):
        raise UsageError(f"{train.init} needs grids of {gpt.config.window} cells; the tokens have {most}")
    _refuse_other_conditions(gpt.config, model, train, data)
    new = [spec for spec in data.specs() if spec.kind not in {has.kind for has in gpt.config.conditions}]
    if new and train.cond and (gpt.config.vocabulary == "shared" or isinstance(gpt, PixelSNAIL)):
        why = "is a PixelSNAIL" if isinstance(gpt, PixelSNAIL) else "has one token table for all vocabularies"
        raise UsageError(f"{train.init} {why}, so {new[0].kind} cannot be added; use --cond none")
    return _extended(gpt, new, prior, train, data)


def _extended(
    gpt: Network, new: Sequence[ConditionSpec], prior: PriorConfig, train: PriorTrainConfig, data: TokenSet
) -> Network:
    """The network of a file with `new` conditions, where it can take them, as a prior for any order if that is what
    the training is for."""
    if isinstance(gpt, PixelSNAIL) or gpt.config.vocabulary == "shared":
        new = ()
    if isinstance(gpt, AnyOrder):
        gpt = with_conditions(gpt, new, dropout=train.dropout) if new else gpt
    elif isinstance(gpt, GPT):
        gpt = widened(gpt, new, dropout=train.dropout) if new else gpt
        gpt = from_raster(gpt, prior, dropout=train.dropout) if prior.arch == "any-order" else gpt
    if isinstance(gpt, AnyOrder):  # the window is no part of its architecture
        gpt.config = replace(gpt.config, window=_fitting(prior, data))
    return gpt


def fitted(prior: PriorConfig, data: TokenSet) -> PriorConfig:
    """The architecture of a new prior, completed from the token files."""
    if prior.vocabulary == "shared":
        raise UsageError("vocabulary is 'shared', which is for imported priors only; use 'separate'")
    window = _fitting(prior, data)
    return replace(prior, window=window, codebook_size=data.header.codebook_size, conditions=data.specs())


def _fitting(prior: PriorConfig, data: TokenSet) -> Size:
    """The prior's window where all grids have as many cells, or for a prior for any order, where any grid has."""
    most = data.largest if prior.arch == "any-order" else data.smallest
    return Size(min(prior.window.width, most.width), min(prior.window.height, most.height))


def saved_prior(state: dict[str, Any], train: PriorTrainConfig, where: str) -> Network:
    """The network that a trainer file describes, without its weights and regardless of `train.init`."""
    return new_network(recorded_prior(state["prior"], where), dropout=train.dropout)


def _refuse_other_conditions(prior: PriorConfig, model: ModelFile, train: PriorTrainConfig, data: TokenSet) -> None:
    offered = {spec.kind: spec for spec in data.specs()}
    for spec in prior.conditions:
        about, given = model.about.get("conditions", {}).get(spec.kind, {}), data.conditions.get(spec.kind)
        if about.get("codec_sha256") and given is not None:
            if about["codec_sha256"] != given.codec_sha256:
                raise UsageError(f"{train.init} was trained on {spec.kind} codes of another codec than the tokens have")
            if about.get("factor", 0) != given.factor:
                raise UsageError(
                    f"{train.init} was trained on {spec.kind} by {about.get('factor', 0)}, the tokens have "
                    f"{given.factor}; use --cond {spec.kind}:{about.get('factor', 0)} of tokenize"
                )
        same = offered.get(spec.kind, spec) == spec
        if not same or (spec.kind == "class" and model.about["label_names"] != list(data.label_names)):
            raise UsageError(f"{train.init} was trained on another {spec.kind} vocabulary than the tokens have")
        if spec.form == "grid" and spec.kind not in offered:
            raise UsageError(
                f"{train.init} needs {spec.kind}, which the tokens do not have: tokenize with --cond {spec.kind}, and "
                "include it in --cond of this command where that is given"
            )
        everywhere = spec.kind in offered and (spec.kind != "class" or data.all_labelled)
        if prior.vocabulary == "shared" and (train.condition_dropout or not everywhere):
            raise UsageError(
                f"{train.init} has no token for 'no {spec.kind}': use --condition-dropout 0 and tokens that all have it"
            )
