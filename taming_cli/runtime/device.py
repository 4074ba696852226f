"""Which device, and in which precision the heavy arithmetic runs there."""

import contextlib
import ctypes
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
    processes on a machine each has a CUDA device of its own: its number among them says which.

    On the CPU, freed memory is kept from then on (`keep_freed_memory`). Raises UsageError where this machine does not
    have what was asked for.
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
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda" and device.index is not None:
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


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """Have glibc keep what was freed, up to 2 GiB, rather than give it back and ask for it anew.

    torch asks for each activation by itself, and the system clears every page of what it gives: a third of the time of
    a large codec on two cores. Blocks above 256 MiB still come and go. Elsewhere than with glibc, nothing happens.
    """
    library = _glibc()
    if library is None:
        return
    if not library.mallopt(_MMAP_THRESHOLD, 2**28):  # before glibc 2.35 it may not be so high
        library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    library.mallopt(_TOP_PAD, 2**26)


@contextlib.contextmanager
def freed_memory_given_back(device: torch.device) -> Iterator[None]:
    """Meanwhile, on a CPU, what is freed goes back to the system at once, as glibc has it by itself: the parts of a
    large picture come in many sizes, and what one leaves would not do for the next."""
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    for name, value in ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**26), (_TOP_PAD, 2**17)):
        library.mallopt(name, value)
    library.malloc_trim(0)
    try:
        yield
    finally:
        keep_freed_memory()


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        assert library.mallopt
        assert library.malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return library


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


def peak_memory() -> int:
    """The most memory that this process has held at once on the machine's own side, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
