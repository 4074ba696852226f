"""Full-precision fp32. The default of torch for convolutions on CUDA is TF32, with ten bits of mantissa, which changes
codes that are near the boundary between two entries of a codebook."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch


class _Shared:
    """The state that all contexts of the process share: how many are open, and how to restore torch's settings."""

    def __init__(self) -> None:
        self.lock, self.open = threading.Lock(), 0
        self.undo: list[Callable[[], None]] = []


_SHARED = _Shared()


@contextmanager
def ieee() -> Iterator[None]:
    """A context in which fp32 has all its 24 bits, regardless of the host program's settings: convolutions and matrix
    products use no TF32 on CUDA and no bf16 on a CPU. Autocast is not changed.

    The settings of torch are global to the process, so threads share them. The first context to be entered changes
    them, and the last one to be left restores them, so that no thread affects another one's context. Meanwhile, other
    threads compute in full fp32 too.
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
                for restore in _SHARED.undo:
                    restore()


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """A context without autocast and without TF32."""
    with ieee(), torch.autocast(device.type, enabled=False):
        yield


def ieee_for(precision: torch.dtype) -> AbstractContextManager[None]:
    """`ieee` if `precision` is fp32, else a null context: for a backward pass, which runs outside of autocast."""
    return ieee() if precision == torch.float32 else nullcontext()


def _set() -> list[Callable[[], None]]:
    """Set full fp32 precision; returns the functions that restore the settings, to be called in that order.

    Both interfaces of torch are set, the old one first: each raises an error where only the other one was set.
    """
    undo: list[Callable[[], None]] = []
    operations = _operations()
    before = [operation.fp32_precision for operation in operations]
    for old_interface in (_Products, _Convolutions):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some versions of torch deprecate this interface
            try:
                old = old_interface.read()
            except RuntimeError:  # only the new interface was set
                continue
            old_interface.write(old_interface.exact)
        undo.append(partial(_quietly, old_interface.write, old))
    for operation, precision in zip(operations, before, strict=True):
        operation.fp32_precision = "ieee"
        undo.append(partial(setattr, operation, "fp32_precision", precision))
    return undo


class _Products:
    """The old interface of torch for matrix products."""

    exact: Any = "highest"

    @staticmethod
    def read() -> Any:
        return torch.get_float32_matmul_precision()

    @staticmethod
    def write(value: Any) -> None:
        torch.set_float32_matmul_precision(value)


class _Convolutions:
    """The old interface of torch for convolutions on CUDA."""

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
    """The operations that the new interface of torch (2.9) sets separately; empty for earlier versions."""
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
