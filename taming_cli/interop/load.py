"""Which kind of foreign model a file is, by what it holds; then to the room that knows it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from taming_cli.errors import BadFileError
from taming_cli.interop import compvis, diffusers, llamagen
from taming_cli.interop.ledger import Imported
from taming_cli.interop.pickles import read
from taming_cli.runtime.checkpoint import Stored

STATES = ("state_dict", "ema", "model", "module", "params")
"""Where trainers put the weights, the ones to prefer first."""


def import_file(path: Path, config: Path | None = None) -> Imported:
    """A published checkpoint as ours, its tensors still in the file. `config` is the yaml that came with it.

    BadFileError, in one line, for a file that is damaged, of no kind known here, or that holds anything that cannot be
    accounted for.
    """
    if path.is_dir():
        return diffusers.import_folder(path)
    value = read(path)
    tensors = _tensors(value, path)
    about: dict[str, Any] = {"imported_from": path.name}
    for theirs, ours in (("global_step", "step"), ("epoch", "epoch"), ("steps", "step")):
        if isinstance(value, Mapping) and type(value.get(theirs)) is int:
            about[ours] = value[theirs]
    known = read_yaml(config) if config is not None else {}
    if "transformer.tok_emb.weight" in tensors:
        return compvis.import_prior(tensors, known, str(path), about)
    if "encoder.conv_blocks.0.res.0.conv1.weight" in tensors:
        return llamagen.import_codec(tensors, str(path), about)
    if "encoder.conv_in.weight" in tensors or "first_stage_model.encoder.conv_in.weight" in tensors:
        return compvis.import_codec(tensors, known, str(path), about)
    names = ", ".join(list(tensors)[:3])
    raise BadFileError(f"{path} is no model known here: it holds {len(tensors)} tensors, the first are {names}")


def read_yaml(path: Path) -> Mapping[str, Any]:
    """A yaml file as nested plain containers. BadFileError where it is none."""
    try:
        value = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise BadFileError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(value, Mapping):
        raise BadFileError(f"{path} is no model's config")
    return value


def _tensors(value: Any, path: Path) -> dict[str, Stored]:
    """The weights by name, wherever the file keeps them."""
    if isinstance(value, Mapping):
        for key in STATES:
            if isinstance(value.get(key), Mapping):
                value = value[key]
                break
        found = {name: tensor for name, tensor in value.items() if isinstance(tensor, Stored)}
        if found and all(isinstance(name, str) for name in found):
            return found
    raise BadFileError(f"{path} holds no weights")
