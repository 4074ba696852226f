"""Detection of NaN and infinite weights, with which a network computes wrong results, mostly without an error."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from taming_cli.errors import BadFileError
from taming_cli.runtime.stored import Stored

MARK = "non_finite"
"""The key in a model file's `about` that lists tensors whose import was allowed although they are not finite."""


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; integer tensors never do."""
    return bool(_finite(tensor))


def non_finite(tensors: Mapping[str, Tensor | Stored]) -> list[str]:
    """The names of the tensors that are not finite, in order. Waits once for each device."""
    flags = {name: _finite(tensor if isinstance(tensor, Tensor) else tensor.load()) for name, tensor in tensors.items()}
    finite: dict[str, bool] = {}
    for device in {flag.device for flag in flags.values()}:
        names = [name for name, flag in flags.items() if flag.device == device]
        finite |= zip(names, torch.stack([flags[name] for name in names]).tolist(), strict=True)
    return [name for name in tensors if not finite[name]]


def _finite(tensor: Tensor) -> Tensor:
    """`is_finite`, a scalar on the tensor's device.

    One pass without a copy: minimum and maximum are finite only if all values are, and both are NaN if one value is.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return torch.ones((), dtype=torch.bool)
    low, high = torch.aminmax(tensor)
    return low.isfinite() & high.isfinite()


def refuse(names: Sequence[str], where: str, remedy: str) -> None:
    """Raise BadFileError, which names the first of these tensors and counts the others, if there are any."""
    if names:
        others = len(names) - 1
        more = f", as {'does' if others == 1 else 'do'} {others} other{'s' * (others > 1)}" if others else ""
        raise BadFileError(
            f"{where}: tensor {names[0]} holds values that are not finite (NaN or infinite){more}; {remedy}"
        )


def refuse_tensors(tensors: Mapping[str, Tensor], where: str, remedy: str) -> None:
    """Raise BadFileError if a tensor is not finite."""
    refuse(non_finite(tensors), where, remedy)


def refused_when_read(tensors: Mapping[str, Stored], where: str, remedy: str) -> dict[str, Stored]:
    """The same tensors, each of which is checked when it is read: BadFileError where it is not finite."""

    def checked(load: Callable[[], Tensor]) -> Tensor:
        tensor = load()
        if not is_finite(tensor):
            refuse(non_finite(tensors), where, remedy)
        return tensor

    return {name: tensor._replace(load=partial(checked, tensor.load)) for name, tensor in tensors.items()}


def named_tensors(state: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested containers, with their dotted paths."""
    if isinstance(state, Tensor):
        yield path, state
    elif isinstance(state, Mapping):
        for name, value in state.items():
            yield from named_tensors(value, f"{path}.{name}" if path else str(name))
    elif isinstance(state, list | tuple):
        for place, value in enumerate(state):
            yield from named_tensors(value, f"{path}.{place}")


def marked(about: Mapping[str, Any]) -> Collection[str]:
    """The tensors of a model file that are not finite and whose import was allowed."""
    names = about.get(MARK, ())
    return names if isinstance(names, list) else ()
