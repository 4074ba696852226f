"""Tensor names without the prefixes of the wrappers that training puts around a network."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from taming_cli.errors import BadFileError

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""The attribute names of a network wrapped by DDP and DataParallel, torch.compile, FSDP, activation checkpointing."""
MARKERS = ("transformer.tok_emb.weight", "encoder.conv_in.weight", "encoder.conv_blocks.0.res.0.conv1.weight")
"""A tensor of each supported kind of model."""
STAGES = ("first_stage_model.", "cond_stage_model.")
T = TypeVar("T", bound=Any)


def unwrapped(tensors: Mapping[str, T], where: str) -> dict[str, T]:
    """The same tensors, in order, by their names in the unwrapped network.

    Wrappers add their names at any depth: `module._orig_mod.encoder.conv_in.weight` is `encoder.conv_in.weight`. A
    training module adds the attribute that holds the network: `model.encoder.conv_in.weight`. BadFileError if two
    tensors get the same name.
    """
    plain = {name: ".".join(part for part in str(name).split(".") if part not in WRAPPERS) for name in tensors}
    prefix = _attribute(set(plain.values()))
    renamed: dict[str, T] = {}
    originals: dict[str, str] = {}
    for original, tensor in tensors.items():
        name = plain[original].removeprefix(prefix)
        if name in renamed:
            raise BadFileError(
                f"{where} has both {originals[name]} and {original}, which are the same tensor of the network; give a "
                "checkpoint that has it once"
            )
        renamed[name], originals[name] = tensor, original
    return renamed


def _attribute(tensors: Collection[str]) -> str:
    """The only prefix of a supported model, such as `model.`; empty if there are several, or a model without one."""
    for marker in MARKERS:
        prefixes = {name.removesuffix(marker) for name in tensors if name == marker or name.endswith(f".{marker}")}
        prefixes -= set(STAGES)
        prefixes = {prefix for prefix in prefixes if not prefix.endswith(STAGES)}
        if prefixes:
            return prefixes.pop() if len(prefixes) == 1 else ""
    return ""
