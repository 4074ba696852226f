"""What work costs before it is done: operations and bytes as torch counts them, and what this machine does of them in a
second. `--dry-run` and `scripts/bench` reckon with the same numbers.
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
"""Of the matrices that the rate is taken with."""


class Cost(NamedTuple):
    """Floating-point operations of matrix products and convolutions, two for each multiply-add; the most bytes that
    what is made on the way takes at once; and the bytes that all operations together read and write."""

    flops: int
    peak: int
    moved: int


class Estimate(NamedTuple):
    """What a training will take: `parameters` of its network, bytes of `memory`, operations of a step (`flops`), the
    bytes that these read and write (`moved`), and those that each of several processes has to add up with the others'
    in a step, `exchanged`: gradients, and what a codebook learns from."""

    parameters: int
    memory: int
    flops: int
    moved: int
    exchanged: int

    def seconds(self, device: torch.device, dtype: torch.dtype) -> float:
        """Of a step, by how fast large products are on this machine now, and how fast its memory."""
        products = self.flops / (PRODUCTS * flop_rate(device, dtype))
        return products + (FROM_MEMORY * self.moved + SWEEPS * 4 * self.parameters) / read_rate(device)


PRODUCTS, FROM_MEMORY = 0.8, 0.6
"""The share of a machine's rate that products come to, and of the bytes moved that no cache holds: with these, steps of
six networks (0.3 to 5 s) took within 30 % of what was said."""
SWEEPS = 14
"""Times that an update goes through all weights: clipping, the optimiser, the average."""


def cost(run: Callable[[], object]) -> Cost:
    """Of one call, which must not be in inference mode: products hide in larger operations there. See
    `pretending`."""
    counting = _Counting()  # type: ignore[no-untyped-call]
    with counting:
        run()
    return Cost(counting.flops, counting.peak, counting.moved)


def pretending() -> FakeTensorMode:
    """Nothing is computed within, and no memory taken, but for tensors that are there already. `copy.deepcopy` of what
    is made there copies memory that does not exist: build twice."""
    return FakeTensorMode(allow_non_fake_inputs=True)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's own formulas (its FlopCounterMode knows modules too, and stumbles over `autograd.grad`), and the
    storages of tensors from their first sight to their end."""

    flops = held = peak = moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=found)
        given = {each.untyped_storage()._cdata for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)}
        made = [each for each in tree_iter(found) if isinstance(each, Tensor)]
        if made and not func.is_view:
            read = (each.nbytes for each in tree_iter((args, kwargs)) if isinstance(each, Tensor))
            self.moved += sum(read) + sum(each.nbytes for each in made)
        for each in made:
            if (storage := each.untyped_storage())._cdata not in given:
                size = storage.nbytes()
                self.held += size
                self.peak = max(self.peak, self.held)
                weakref.finalize(storage, self._freed, size)
        return found

    def _freed(self, size: int) -> None:
        self.held -= size


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
