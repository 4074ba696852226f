"""fp32 as IEEE 754 has it: torch's default for convolutions on CUDA is TF32, of ten bits, which flips codes that lie
near the border between two entries of a codebook."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch


class _Shared:
    """What all contexts of the process share: how many are open, and what puts torch's settings back after the last."""

    def __init__(self) -> None:
        self.lock, self.open = threading.Lock(), 0
        self.undo: list[Callable[[], None]] = []


_SHARED = _Shared()


@contextmanager
def ieee() -> Iterator[None]:
    """Meanwhile what is computed in fp32 keeps all its 24 bits: on CUDA no TF32, in convolutions and in products of
    matrices, and on a CPU no bf16 in their place, whatever the host program has set. Autocast is as it was.

    torch's settings are of the whole process, so that threads share them. The first context that is entered sets them,
    and the last one that is left puts back what was there: another thread's context is never cut short. What other
    threads compute in fp32 meanwhile is exact too.
    """
    with _SHARED.lock:
        if not _SHARED.open:
            _SHARED.undo = _set()
        _SHARED.open += 1
    try:
        yield
    finally:
        with _SHARED.lock:
            _SHARED.open -= 1
            if not _SHARED.open:
                for put_back in _SHARED.undo:
                    put_back()


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """fp32 as it is written: no autocast, and no TF32."""
    with ieee(), torch.autocast(device.type, enabled=False):
        yield


def promised(precision: torch.dtype) -> AbstractContextManager[None]:
    """`ieee` where the precision asked for is fp32, else nothing: for a backward pass, which no autocast surrounds."""
    return ieee() if precision == torch.float32 else nullcontext()


def _set() -> list[Callable[[], None]]:
    """Have fp32 exact; how to put everything back, in that order.

    Both of torch's interfaces are set, the old one first: each refuses to say what only the other one has set.
    """
    undo: list[Callable[[], None]] = []
    operations = _operations()
    before = [operation.fp32_precision for operation in operations]
    for old_interface in (_Products, _Convolutions):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some versions of torch call this interface deprecated
            try:
                old = old_interface.read()
            except RuntimeError:  # only the new one has been set
                continue
            old_interface.write(old_interface.exact)
        undo.append(partial(_quietly, old_interface.write, old))
    for operation, precision in zip(operations, before, strict=True):
        operation.fp32_precision = "ieee"
        undo.append(partial(setattr, operation, "fp32_precision", precision))
    return undo


class _Products:
    """torch's old interface for products of matrices."""

    exact: Any = "highest"

    @staticmethod
    def read() -> Any:
        return torch.get_float32_matmul_precision()

    @staticmethod
    def write(value: Any) -> None:
        torch.set_float32_matmul_precision(value)


class _Convolutions:
    """The old one for convolutions on CUDA."""

    exact: Any = False

    @staticmethod
    def read() -> Any:
        return torch.backends.cudnn.allow_tf32

    @staticmethod
    def write(value: Any) -> None:
        torch.backends.cudnn.allow_tf32 = value


def _quietly(write: Callable[[Any], None], value: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(value)


def _operations() -> list[Any]:
    """What torch's new interface (2.9) sets one by one; nothing before."""
    backends: Any = torch.backends
    if not hasattr(getattr(backends.cudnn, "conv", None), "fp32_precision"):
        return []
    return [
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.cuda.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.matmul,
    ]
