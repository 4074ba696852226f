"""The cost of a computation before it runs: operations and bytes as torch counts them, and the rates of this machine.
`--dry-run` and `scripts/bench` use the same numbers.
"""

import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

_SIDE = 2048
"""Side of the matrices with which the rate is measured."""


class Cost(NamedTuple):
    """`flops` of matrix products and convolutions, two for each multiply-add; `peak`, the largest number of bytes of
    intermediate tensors at any time; `moved`, the bytes that all operations read and write."""

    flops: int
    peak: int
    moved: int


class Estimate(NamedTuple):
    """The cost of a training: `parameters` of the network, bytes of `memory`, `flops` of a step, the bytes that a step
    reads and writes (`moved`), and those that each of several processes exchanges in a step (`exchanged`): gradients
    and codebook statistics."""

    parameters: int
    memory: int
    flops: int
    moved: int
    exchanged: int

    def seconds(self, device: torch.device, dtype: torch.dtype) -> float:
        """The duration of a step, from the present speed of large products and of the memory of this machine."""
        return self.seconds_at(PRODUCTS * flop_rate(device, dtype), read_rate(device))

    def seconds_at(self, products: float, read: float) -> float:
        """The duration of a step at so many operations and so many bytes read per second."""
        return self.flops / products + (FROM_MEMORY * self.moved + SWEEPS * 4 * self.parameters) / read


PRODUCTS, FROM_MEMORY = 0.8, 0.6
"""The fraction of the machine's rate that products reach, and the fraction of the bytes moved that are not cached. With
these, the duration of steps of six networks (0.3 to 5 s) was within 30 % of the estimate."""
SWEEPS = 14
"""Number of passes of an update over all weights: clipping, the optimiser, the average."""


def cost(run: Callable[[], object]) -> Cost:
    """The cost of one call; see `fake_tensors`. Not in inference mode, which hides products in larger operations."""
    counting = _Counting()  # type: ignore[no-untyped-call]
    with counting:
        run()
    return Cost(counting.flops, counting.peak, counting.moved)


def fake_tensors() -> FakeTensorMode:
    """A context in which nothing is computed and no memory is allocated, except for tensors that exist already.
    `copy.deepcopy` of a tensor created in it would copy memory that does not exist; create the tensor twice instead."""
    return FakeTensorMode(allow_non_fake_inputs=True)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums torch's own formulas (its FlopCounterMode, which tracks modules too, fails on `autograd.grad`), and the
    sizes of storages from their first use until they are freed."""

    flops = held = peak = moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        inputs = {each.untyped_storage()._cdata for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)}
        outputs = [each for each in tree_iter(result) if isinstance(each, Tensor)]
        if outputs and not func.is_view:
            read = (each.nbytes for each in tree_iter((args, kwargs)) if isinstance(each, Tensor))
            self.moved += sum(read) + sum(each.nbytes for each in outputs)
        for each in outputs:
            if (storage := each.untyped_storage())._cdata not in inputs:
                size = storage.nbytes()
                self.held += size
                self.peak = max(self.peak, self.held)
                weakref.finalize(storage, self._freed, size)
        return result

    def _freed(self, size: int) -> None:
        self.held -= size


def flop_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Floating-point operations per second of large matrix products, which no network exceeds."""
    a, b = (torch.randn(_SIDE, _SIDE, device=device).to(dtype) for _ in range(2))
    return 2 * _SIDE**3 * _rate(lambda: a @ b, device, seconds)


def read_rate(device: torch.device, seconds: float = 0.5) -> float:
    """Bytes read from memory per second, by a matrix-vector product much larger than any cache."""
    matrix = torch.ones(2**28 // 4 // 4096, 4096, device=device)
    vector = torch.ones(4096, device=device)
    return matrix.untyped_storage().nbytes() * _rate(lambda: matrix @ vector, device, seconds)


def _rate(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Calls per second, the best of several rounds, since other work on the machine can only slow them down."""
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
    """Wait until the device has completed all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
