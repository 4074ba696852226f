"""torchvision's published networks: which version of one a file holds, and filling a network from it, strictly."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models

from taming_cli.errors import BadFileError
from taming_cli.runtime.weights import Found, published

# torchvision's DenseNet files are of a time when a name could hold a dot: norm.1 is norm1 today.
_DOTTED = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


class Version(NamedTuple):
    """One of the weights that torchvision publishes for a network, and whether a file holds just these."""

    weights: Any
    known: bool


def version(name: str, found: Found) -> Version:
    """The published version of network `name` that a file holds by its sha256; the default where it holds none."""
    versions = [each for each in models.get_model_weights(name) if each.meta.get("categories")]
    matching = [each for each in versions if published(name, each.url).has(found.sha256)]
    return Version(matching[0], True) if matching else Version(models.get_model_weights(name).DEFAULT, False)


def classes_in(tensors: Mapping[str, Tensor], network: nn.Module, default: int) -> int:
    """The number of classes in a file: the rows of its last layer, which is the last that torchvision names."""
    head = list(network.state_dict())[-1].rpartition(".")[0] + ".weight"
    rows = tensors[head].shape[:1] if head in tensors else ()
    return rows[0] if rows and rows[0] > 0 else default  # what does not fit, `fill` then names


def fill(
    network: nn.Module, tensors: Mapping[str, Tensor], name: str, path: Path, *, without: Sequence[str] = ()
) -> None:
    """Fill a torchvision network from a state dict, strictly by name and shape.

    Left out on both sides are batch counters, which old files do not carry; and of the file what begins with one of
    `without`: heads that exist to be trained. BadFileError names the first tensor that is missing, of another shape,
    or too many.
    """
    wanted = {key: place for key, place in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    offered = {
        _DOTTED.sub(r"\1\2", key): value
        for key, value in tensors.items()
        if not key.endswith("num_batches_tracked") and not key.startswith(tuple(without))
    }
    for key, place in wanted.items():
        there = str(tuple(offered[key].shape)) if key in offered else "missing"
        if there != str(tuple(place.shape)):
            raise BadFileError(
                f"{path}: tensor {key} is {there} where {tuple(place.shape)} is expected;"
                f" give a state dict of torchvision's {name}"
            )
    for key in offered:
        if key not in wanted:
            raise BadFileError(f"{path}: tensor {key} is not part of {name}; these are the weights of another network")
    with torch.no_grad():
        for key, place in wanted.items():
            place.copy_(offered[key])
