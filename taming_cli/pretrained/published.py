"""Networks published by torchvision: identify the version of a weights file, and load one strictly into a network."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from taming_cli.errors import BadFileError
from taming_cli.runtime.weights import LocalWeights, published_file

# torchvision's DenseNet files date from when a module name could contain a dot: norm.1 is norm1 today.
_DOTTED = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


class Version(NamedTuple):
    """One of torchvision's published versions of a network's weights. `known` is False if the file is none of them."""

    weights: Any
    known: bool


def version(name: str, file: LocalWeights) -> Version:
    """The published weights of network `name` that have the file's sha256; the default ones if none has."""
    from torchvision import models  # slow; a training without such networks does not wait for it

    versions = [each for each in models.get_model_weights(name) if each.meta.get("categories")]
    matching = [each for each in versions if published_file(name, each.url).matches(file.sha256)]
    return Version(matching[0], True) if matching else Version(models.get_model_weights(name).DEFAULT, False)


def classes_in(tensors: Mapping[str, Tensor], network: nn.Module, default: int) -> int:
    """The number of classes of a state dict: the rows of its last layer."""
    head = list(network.state_dict())[-1].rpartition(".")[0] + ".weight"
    rows = tensors[head].shape[:1] if head in tensors else ()
    return rows[0] if rows and rows[0] > 0 else default  # `fill` reports what does not fit


def fill(
    network: nn.Module, tensors: Mapping[str, Tensor], name: str, path: Path, *, without: Sequence[str] = ()
) -> None:
    """Load a state dict into a torchvision network, strictly by name and shape.

    Batch counters, which old files do not have, are ignored, and so are tensors of the file whose names start with one
    of `without` (auxiliary heads). BadFileError names the first tensor that is missing, unexpected or of another shape.
    """
    renamed = {_DOTTED.sub(r"\1\2", key): value for key, value in tensors.items()}
    copy_strictly(network.state_dict(), renamed, name, path, without=without)


def copy_strictly(
    targets: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    name: str,
    path: Path,
    *,
    without: Sequence[str] = (),
) -> None:
    """Copy tensors into `targets` of the same names and shapes; see `fill`. `path` is the file of network `name`."""
    expected, offered = (
        {key: value for key, value in each.items() if not key.endswith("num_batches_tracked")}
        for each in (targets, tensors)
    )
    for key, target in expected.items():
        shape = str(tuple(offered[key].shape)) if key in offered else "missing"
        if shape != str(tuple(target.shape)):
            raise BadFileError(
                f"{path}: tensor {key} is {shape} where {tuple(target.shape)} is expected;"
                f" give a state dict of torchvision's {name}"
            )
    for key in offered:
        if key not in expected and not key.startswith(tuple(without)):
            raise BadFileError(f"{path}: tensor {key} is not part of {name}; these are the weights of another network")
    with torch.no_grad():
        for key, target in expected.items():
            target.copy_(offered[key])
