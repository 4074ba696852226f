"""Which device, and in which precision the heavy arithmetic runs there."""

import contextlib
import logging
import resource
import sys
from collections.abc import Iterator

import torch

from taming_cli.config.fields import one_of
from taming_cli.errors import UsageError
from taming_cli.runtime.fp32 import ieee
from taming_cli.runtime.processes import started

_log = logging.getLogger(__name__)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """`auto` -> the first CUDA device, else Apple's, else the CPU; any other name as torch spells it. Of several
    processes on a machine each has a CUDA device of its own, which becomes torch's current one: its number among them
    says which. Raises UsageError where this machine does not have what was asked for.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and torch.cuda.device_count() and (found := started()).size > 1:
        name = f"cuda:{_own_gpu(found.local_rank)}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r} is unknown; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' is not available here; use cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {name!r} is not supported; use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and device.index is not None and started().size > 1:
        torch.cuda.set_device(device)  # FSDP2 and NCCL go by it
    if _log.isEnabledFor(logging.INFO):
        _log.info("device: %s", _described(device))
    return device


def _own_gpu(local_rank: int | None) -> int:
    """The CUDA device of one of several processes of this machine; Slurm may show each of them its only one."""
    count = torch.cuda.device_count()
    if count == 1:
        return 0
    if local_rank is None:
        raise UsageError(
            f"torch sees {count} CUDA devices, but LOCAL_RANK does not say which one to use; start the processes "
            "by torchrun, or name one with --device cuda:N"
        )
    return local_rank


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return f"{device}, {found.name}, {found.total_memory / 2**30:.0f} GiB"
    threads = torch.get_num_threads()
    return f"{device}, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else str(device)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The autocast dtype for `auto`, `fp32`, `bf16` or `fp16`; float32 means no autocast.

    `auto` is bf16 where the hardware multiplies it (CUDA from Ampere on; CPUs with bf16 instructions), else fp32. fp16
    needs loss scaling, which training here does not do: it is for sampling on older cards. UsageError for other names.
    """
    if name == "auto":
        name = "bf16" if _multiplies_bf16(device) else "fp32"
    if name not in _DTYPES:
        raise UsageError(f"precision {name!r} is unknown; {one_of(['auto', *_DTYPES], name)}")
    _log.info("precision: %s", name)
    return _DTYPES[name]


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def precision_name(dtype: torch.dtype) -> str:
    """`fp32`, `bf16` or `fp16`, as the flag spells it."""
    return next(name for name, known in _DTYPES.items() if known == dtype)


@contextlib.contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """torch's autocast to `dtype` on `device`; for float32 that is fp32 in full, without TF32 (see `fp32.ieee`)."""
    if dtype == torch.float32:
        with ieee():
            yield
        return
    with torch.autocast(device.type, dtype):
        yield


def full_precision(device: torch.device) -> torch.autocast:
    """Autocast off: for quantisation, losses, and whatever else must be computed in the dtype it is given."""
    return torch.autocast(device.type, enabled=False)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on `device`. A plain copy from the CPU to a GPU first waits for all work queued there; this one does
    not."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` on the CPU, which waits for all work queued on its device. Training loops read values only through
    this."""
    return tensor.cpu()


def peak_memory() -> int:
    """The most memory that this process has held at once on the machine's own side, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
