"""Import of checkpoints: identify the kind of model by its tensors, and convert it with the matching module."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from taming_cli.errors import BadFileError, UsageError
from taming_cli.interop import compvis, diffusers, dvae, llamagen, pixelsnail, vqvae2
from taming_cli.interop.ledger import ImportedModel
from taming_cli.interop.modules import weights_of
from taming_cli.interop.pickles import read
from taming_cli.interop.published import OtherConfigError
from taming_cli.interop.unpickler import Placeholder
from taming_cli.interop.wrappers import unwrapped
from taming_cli.runtime.finite import MARK, non_finite, refused_when_read
from taming_cli.runtime.stored import Stored

PRIOR = "transformer.tok_emb.weight"
STATES = ("state_dict", "ema", "model", "module", "params")
"""The keys under which trainers save the weights, in order of preference."""
_LONGEST_YAML, _MOST_VALUES = 2**16, 10_000
"""Bytes and values of the largest config."""
_DEPTH = 3
"""The depth to which these keys may be nested."""


def import_file(
    path: Path,
    config: Path | None = None,
    *,
    more: Sequence[Path] = (),
    codec: Path | None = None,
    allow_non_finite: bool = False,
) -> ImportedModel:
    """Import a published checkpoint; its tensors stay in the file. `config` is the yaml published with it, and `more`
    are the other files of a model that was published in several. `codec` is the model file of the codec of a prior that
    was published without it.

    BadFileError, in one line, if the file is damaged, of an unknown kind, or has tensors that cannot be accounted for.
    Loading a tensor with NaN or infinite values raises it too. With `allow_non_finite`, the model's `about` lists such
    tensors instead, and the converted file can be loaded.
    """
    imported = _imported(path, config, more, codec)
    if not allow_non_finite:
        remedy = "the model cannot compute with it; fetch the file again, or import it with --allow-non-finite"
        return replace(imported, tensors=refused_when_read(imported.tensors, str(path), remedy))
    names = non_finite(imported.tensors)
    if not names:
        return imported
    return replace(imported, model=replace(imported.model, about={**imported.model.about, MARK: names}))


def _imported(path: Path, config: Path | None, more: Sequence[Path] = (), codec: Path | None = None) -> ImportedModel:
    if path.is_dir() and not more:
        return diffusers.import_folder(path)
    tensors, about = _open(path)
    for other in more:
        _join(tensors, path, _open(other)[0], other)
    settings = read_yaml(config) if config is not None else {}
    if pixelsnail.MARK in tensors:
        return pixelsnail.import_prior(tensors, codec, str(path), about)
    if codec is not None:
        raise UsageError(f"{path} is no prior that was published without its codec; leave --codec out")
    try:
        return _convert(path, tensors, settings, about)
    except OtherConfigError as error:
        raise BadFileError(f"{config} {error}; give the config that came with the checkpoint") from None


def _convert(
    path: Path, tensors: Mapping[str, Stored], settings: Mapping[str, Any], about: Mapping[str, Any]
) -> ImportedModel:
    if PRIOR in tensors:
        return compvis.import_prior(tensors, settings, str(path), about)
    if "encoder.conv_blocks.0.res.0.conv1.weight" in tensors:
        return llamagen.import_codec(tensors, str(path), about)
    if "encoder.conv_in.weight" in tensors or "first_stage_model.encoder.conv_in.weight" in tensors:
        return compvis.import_codec(tensors, settings, str(path), about)
    if dvae.ENCODER in tensors or dvae.DECODER in tensors:
        return dvae.import_codec(tensors, str(path), about)
    if any(name in tensors for name in vqvae2.MARKS):
        return vqvae2.import_codec(tensors, str(path), about)
    names = ", ".join(list(tensors)[:3])
    raise BadFileError(f"{path} is not a supported model: it has {len(tensors)} tensors, the first are {names}")


def describe(path: Path, config: Path | None = None) -> dict[str, Any]:
    """Describe a checkpoint: kind, config, parameters, step; for a prior without `config`, what shapes determine."""
    if config is None and not path.is_dir():
        tensors, about = _open(path)
        if PRIOR in tensors:
            return {"kind": "prior", **about, **compvis.outline(tensors)}
        if pixelsnail.MARK in tensors:
            return {"kind": "prior", **about, **pixelsnail.outline(tensors, str(path))}
    imported = _imported(path, config)
    sizes: Counter[str] = Counter()
    for name, tensor in imported.tensors.items():
        part = name.partition(".")[0] if imported.model.format == "taming-prior" else "codec"
        sizes["kept" if name.startswith("extra.") else part] += math.prod(tensor.shape)
    return {
        "kind": imported.model.format.removeprefix("taming-"),
        **{f"{part}_parameters": count for part, count in sizes.items() if part != "kept"},
        **imported.model.about,
        "config": dict(imported.model.config),
    }


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read a yaml file as nested plain containers. BadFileError if it is not a mapping, or longer than any config, as
    such or with its references replaced by what they refer to."""
    try:
        with path.open("rb") as stream:
            text = stream.read(_LONGEST_YAML + 1)
        if len(text) > _LONGEST_YAML:
            raise BadFileError(f"{path} is longer than any config, {_LONGEST_YAML} bytes")
        value = _parse_yaml(text)
    except BadFileError:
        raise
    except Exception as error:  # yaml raises many kinds, such as ValueError for a date in month 99
        raise BadFileError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(value, Mapping):
        raise BadFileError(f"{path} is not the config of a model")
    return value


def _parse_yaml(text: bytes) -> Any:
    """`yaml.safe_load`, with a ValueError for references that repeat more values than any config has."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None or _values_in(node, {}) > _MOST_VALUES:
            raise ValueError("it is empty" if node is None else "it repeats itself too often")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _values_in(node: Any, known: dict[int, float]) -> float:
    """The number of values below a node, each reference counted as what it refers to; infinite if that is itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf  # while it is being counted
        pairs = isinstance(node, yaml.MappingNode)
        below = [each for pair in node.value for each in pair] if pairs else node.value
        known[id(node)] = 1 + sum(_values_in(each, known) for each in below)
    return known[id(node)]


def _open(path: Path) -> tuple[dict[str, Stored], dict[str, Any]]:
    """A file's weights by name, and the training step and epoch that it records."""
    value = read(path)
    about: dict[str, Any] = {"imported_from": path.name}
    for theirs, ours in (("global_step", "step"), ("epoch", "epoch"), ("steps", "step")):
        if isinstance(value, Mapping) and type(value.get(theirs)) is int:
            about[ours] = value[theirs]
    return _tensors(value, path), about


def _join(tensors: dict[str, Stored], path: Path, others: Mapping[str, Stored], other: Path) -> None:
    """Add the weights of another file of the same model."""
    if twice := next((name for name in others if name in tensors), None):
        raise BadFileError(f"{path} and {other} both have {twice}; give the files of one model, each once")
    tensors.update(others)


def _tensors(value: Any, path: Path) -> dict[str, Stored]:
    """The weights by name, from the key or the module that holds them, without the prefixes of training wrappers."""
    if isinstance(value, Placeholder):
        value = weights_of(value, str(path))
    if isinstance(value, Mapping):
        for _ in range(_DEPTH):
            value = next((value[key] for key in STATES if isinstance(value.get(key), Mapping)), value)
        tensors = {name: tensor for name, tensor in value.items() if isinstance(tensor, Stored)}
        if tensors and all(isinstance(name, str) for name in tensors):
            tensors = unwrapped(tensors, str(path))
            return dvae.named(tensors, str(path)) if dvae.FIRST in tensors else tensors
    raise BadFileError(f"{path} holds no weights")
