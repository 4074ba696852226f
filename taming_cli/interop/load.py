"""Which kind of foreign model a file is, by what it holds; then to the room that knows it."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from taming_cli.errors import BadFileError
from taming_cli.interop import compvis, diffusers, llamagen
from taming_cli.interop.ledger import Imported
from taming_cli.interop.pickles import read
from taming_cli.interop.published import OtherConfigError
from taming_cli.interop.wrappers import bare
from taming_cli.runtime.finite import MARK, non_finite, refused_when_read
from taming_cli.runtime.stored import Stored

PRIOR = "transformer.tok_emb.weight"
STATES = ("state_dict", "ema", "model", "module", "params")
"""Where trainers put the weights, the ones to prefer first."""
_DEPTH = 3
"""How deep these may lie in each other."""


def import_file(path: Path, config: Path | None = None, *, allow_non_finite: bool = False) -> Imported:
    """A published checkpoint as ours, its tensors still in the file. `config` is the yaml that came with it.

    BadFileError, in one line, for a file that is damaged, of no kind known here, or that holds anything that cannot be
    accounted for. A tensor that is NaN or infinite raises it as soon as it is loaded; with `allow_non_finite` the
    model's `about` lists all such tensors instead, and the file that is made of them can be loaded.
    """
    found = _imported(path, config)
    if not allow_non_finite:
        remedy = "the model computes nothing with it; fetch the file again, or insist with --allow-non-finite"
        return replace(found, tensors=refused_when_read(found.tensors, str(path), remedy))
    names = non_finite(found.tensors)
    if not names:
        return found
    return replace(found, model=replace(found.model, about={**found.model.about, MARK: names}))


def _imported(path: Path, config: Path | None) -> Imported:
    if path.is_dir():
        return diffusers.import_folder(path)
    tensors, about = _open(path)
    known = read_yaml(config) if config is not None else {}
    try:
        return _of_kind(path, tensors, known, about)
    except OtherConfigError as error:
        raise BadFileError(f"{config} {error}; give the config that came with the checkpoint") from None


def _of_kind(path: Path, tensors: Mapping[str, Stored], known: Mapping[str, Any], about: Mapping[str, Any]) -> Imported:
    if PRIOR in tensors:
        return compvis.import_prior(tensors, known, str(path), about)
    if "encoder.conv_blocks.0.res.0.conv1.weight" in tensors:
        return llamagen.import_codec(tensors, str(path), about)
    if "encoder.conv_in.weight" in tensors or "first_stage_model.encoder.conv_in.weight" in tensors:
        return compvis.import_codec(tensors, known, str(path), about)
    names = ", ".join(list(tensors)[:3])
    raise BadFileError(f"{path} is no model known here: it holds {len(tensors)} tensors, the first are {names}")


def describe(path: Path, config: Path | None = None) -> dict[str, Any]:
    """What a foreign file is: kind, config, parameters, step; of a prior without `config`, what the weights tell."""
    if config is None and not path.is_dir():
        tensors, about = _open(path)
        if PRIOR in tensors:
            return {"kind": "prior", **about, **compvis.outline(tensors)}
    found = _imported(path, config)
    sizes: Counter[str] = Counter()
    for name, tensor in found.tensors.items():
        part = name.partition(".")[0] if found.model.format == "taming-prior" else "codec"
        sizes["kept" if name.startswith("extra.") else part] += math.prod(tensor.shape)
    return {
        "kind": found.model.format.removeprefix("taming-"),
        **{f"{part}_parameters": count for part, count in sizes.items() if part != "kept"},
        **found.model.about,
        "config": dict(found.model.config),
    }


def read_yaml(path: Path) -> Mapping[str, Any]:
    """A yaml file as nested plain containers. BadFileError where it is none."""
    try:
        value = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise BadFileError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(value, Mapping):
        raise BadFileError(f"{path} is no model's config")
    return value


def _open(path: Path) -> tuple[dict[str, Stored], dict[str, Any]]:
    """A file's weights by name, and what it says of its training."""
    value = read(path)
    about: dict[str, Any] = {"imported_from": path.name}
    for theirs, ours in (("global_step", "step"), ("epoch", "epoch"), ("steps", "step")):
        if isinstance(value, Mapping) and type(value.get(theirs)) is int:
            about[ours] = value[theirs]
    return _tensors(value, path), about


def _tensors(value: Any, path: Path) -> dict[str, Stored]:
    """The weights by name, wherever the file keeps them, without what training put before the names."""
    if isinstance(value, Mapping):
        for _ in range(_DEPTH):
            value = next((value[key] for key in STATES if isinstance(value.get(key), Mapping)), value)
        found = {name: tensor for name, tensor in value.items() if isinstance(tensor, Stored)}
        if found and all(isinstance(name, str) for name in found):
            return bare(found, str(path))
    raise BadFileError(f"{path} holds no weights")
