"""What work costs before it is done: operations and bytes as torch counts them, and what this machine does of them in a
second. `--dry-run` and `scripts/bench` reckon with the same numbers.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_SIDE = 2048
"""Of the matrices that the rate is taken with."""


class Cost(NamedTuple):
    """Floating-point operations of matrix products and convolutions, two for each multiply-add; and the bytes of what
    is kept for the way back, weights left out."""

    flops: int
    kept: int


def cost(run: Callable[[], object]) -> Cost:
    """Of one call, which must not be in inference mode: products hide in larger operations there. Under
    `torch._subclasses.FakeTensorMode` nothing is computed, and it takes next to no memory."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor if tensor._base is None else tensor._base, torch.nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor  # a view and its base are kept once
        return tensor

    counting = _Counting()  # type: ignore[no-untyped-call]
    with counting, saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return Cost(counting.flops, sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's own formulas. Its FlopCounterMode knows modules too, and stumbles over `autograd.grad`."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=found)
        return found


def flop_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Floating-point operations in a second, of large matrix products: what no network exceeds."""
    a, b = (torch.randn(_SIDE, _SIDE, device=device).to(dtype) for _ in range(2))
    return 2 * _SIDE**3 * _rate(lambda: a @ b, device, seconds)


def read_rate(device: torch.device, seconds: float = 0.5) -> float:
    """Bytes that are read from memory in a second, by a matrix times a vector that is much larger than any cache."""
    matrix = torch.ones(2**28 // 4 // 4096, 4096, device=device)
    vector = torch.ones(4096, device=device)
    return matrix.untyped_storage().nbytes() * _rate(lambda: matrix @ vector, device, seconds)


def _rate(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Calls in a second, the best of several rounds: other work on the machine only ever makes them slower."""
    run()
    best, end = float("inf"), time.monotonic() + seconds
    while time.monotonic() < end:
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 1 / best


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
