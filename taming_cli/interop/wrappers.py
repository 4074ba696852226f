"""Names of tensors without what training wrapped around the network."""

from collections.abc import Mapping
from typing import Any, TypeVar

from taming_cli.errors import BadFileError

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""How DDP and DataParallel, torch.compile, FSDP, and activation checkpointing call the network that they wrap."""
MARKERS = ("transformer.tok_emb.weight", "encoder.conv_in.weight", "encoder.conv_blocks.0.res.0.conv1.weight")
"""A tensor of each kind of model that is known here."""
STAGES = ("first_stage_model.", "cond_stage_model.")
T = TypeVar("T", bound=Any)


def bare(tensors: Mapping[str, T], where: str) -> dict[str, T]:
    """The same tensors by the names that they have in the network itself, in their order.

    A wrapper leaves its name wherever it stood, at the beginning or within: `module._orig_mod.encoder.conv_in.weight`
    is `encoder.conv_in.weight`. So does a training module whose attribute the network was: `model.encoder.conv_in...`.
    BadFileError where two tensors get one name.
    """
    found: dict[str, T] = {}
    before: dict[str, str] = {}
    for name, tensor in tensors.items():
        plain = ".".join(part for part in str(name).split(".") if part not in WRAPPERS)
        _place(found, before, plain, name, tensor, where)
    prefix = _attribute(found)
    if not prefix:
        return found
    inner: dict[str, T] = {}
    names: dict[str, str] = {}
    for name, tensor in found.items():
        _place(inner, names, name.removeprefix(prefix), before[name], tensor, where)
    return inner


def _place(found: dict[str, T], before: dict[str, str], name: str, original: str, tensor: T, where: str) -> None:
    if name in found:
        raise BadFileError(
            f"{where} has both {before[name]} and {original}, which are one tensor of the network; give a checkpoint "
            "that holds it once"
        )
    found[name], before[name] = tensor, original


def _attribute(tensors: Mapping[str, object]) -> str:
    """The one prefix under which a known model stands, where none stands by itself: `model.`; else nothing."""
    for marker in MARKERS:
        prefixes = {name.removesuffix(marker) for name in tensors if name == marker or name.endswith(f".{marker}")}
        prefixes -= set(STAGES)
        prefixes = {prefix for prefix in prefixes if not prefix.endswith(STAGES)}
        if prefixes:
            return prefixes.pop() if len(prefixes) == 1 else ""
    return ""
