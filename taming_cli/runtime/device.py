"""The device of a computation, its precision, and transfers between host and device."""

import contextlib
import logging
import resource
import sys
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch

from taming_cli.config.fields import one_of
from taming_cli.errors import UsageError
from taming_cli.runtime.fp32 import ieee
from taming_cli.runtime.processes import started

_log = logging.getLogger(__name__)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device of that name, as torch spells it; `auto` is the first CUDA device, or else Apple's, or else the CPU.

    Each of several processes on a machine gets its own CUDA device, by its local rank, which becomes torch's current
    device. UsageError where this machine does not have the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and torch.cuda.device_count() and (this := started()).size > 1:
        name = f"cuda:{_own_gpu(this.local_rank)}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r} is unknown; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} is not available: torch finds {torch.cuda.device_count()} CUDA devices; use cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' is not available; use cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {name!r} is not supported; use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and device.index is not None and started().size > 1:
        torch.cuda.set_device(device)  # used by FSDP2 and NCCL
    if _log.isEnabledFor(logging.INFO):
        _log.info("device: %s", _described(device))
    return device


def _own_gpu(local_rank: int | None) -> int:
    """The CUDA device of one of several processes on this machine. Slurm may make only one visible to each."""
    count = torch.cuda.device_count()
    if count == 1:
        return 0
    if local_rank is None:
        raise UsageError(
            f"torch finds {count} CUDA devices, but LOCAL_RANK is not set, so the device is ambiguous; start the "
            "processes with torchrun, or name one with --device cuda:N"
        )
    return local_rank


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device}, {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    threads = torch.get_num_threads()
    return f"{device}, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else str(device)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The autocast dtype for `auto`, `fp32`, `bf16` or `fp16`; float32 means no autocast.

    `auto` is bf16 where the hardware supports it (CUDA from Ampere on, CPUs with bf16 instructions), else fp32.
    fp16 would need loss scaling in training, which is not implemented: it is for sampling on older GPUs. UsageError for
    other names.
    """
    if name == "auto":
        name = "bf16" if _supports_bf16(device) else "fp32"
    if name not in _DTYPES:
        raise UsageError(f"precision {name!r} is unknown; {one_of(['auto', *_DTYPES], name)}")
    _log.info("precision: %s", name)
    return _DTYPES[name]


def _supports_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


@cache
def has_amx() -> bool:
    """Whether the CPU has matrix instructions for bf16 (AMX)."""
    return bool(torch.cpu._is_amx_tile_supported())


def precision_name(dtype: torch.dtype) -> str:
    """`fp32`, `bf16` or `fp16`, as the flag spells it."""
    return next(name for name, known in _DTYPES.items() if known == dtype)


@contextlib.contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Autocast to `dtype` on `device`; for float32, full fp32 precision without TF32 (see `fp32.ieee`)."""
    if dtype == torch.float32:
        with ieee():
            yield
        return
    with torch.autocast(device.type, dtype):
        yield


def full_precision(device: torch.device) -> torch.autocast:
    """A context without autocast: for quantisation, losses, and other computations in the dtype of their input."""
    return torch.autocast(device.type, enabled=False)


def seed_of(seed: int, process: int) -> int:
    """The seed of torch's generators in each of several processes, counted from 0; that of the first one is `seed`.

    The generator of a CPU reads only the low 32 bits of a seed. So the two numbers are mixed into these.
    """
    return int(np.random.SeedSequence((seed, process)).generate_state(1)[0]) if process else seed


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on `device`. A plain copy from the CPU to a GPU waits for all work queued there; this one does not."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` on the CPU. This waits for all work queued on its device; training loops read values only by this."""
    return tensor.cpu()


def peak_memory() -> int:
    """The peak resident memory of this process on the host, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
