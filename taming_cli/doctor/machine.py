"""Check processors, memory and devices, and that each device computes correctly in the precisions in use."""

import contextlib
import copy
import math
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from taming_cli.codec.norm import GroupNorm
from taming_cli.data.workers import cores
from taming_cli.doctor.findings import Finding, first_line
from taming_cli.errors import UsageError
from taming_cli.runtime.device import autocast, pick_device, pick_precision, precision_name
from taming_cli.runtime.memory import memory_bytes

LEAST_MEMORY = 2 * 2**30
"""Bytes for training `tiny`, including torch itself."""

TOLERANCES = {"fp32": 2e-3, "bf16": 3e-2, "fp16": 1e-2}
"""The largest relative error by precision. fp32 allows for TF32, which convolutions use on CUDA."""


def devices() -> Iterator[Finding]:
    """Processors, memory, loader processes, CUDA devices, Apple's GPU, and the device that commands use."""
    usable, total = cores(), os.cpu_count() or 1
    counted = f"{usable} of {total} cores" if usable != total else f"{total} core{'s' * (total > 1)}"
    threads = torch.get_num_threads()
    used = f"torch uses {threads} thread{'s' * (threads > 1)}"
    yield Finding("ok", "cpu", f"{counted}, {torch.backends.cpu.get_cpu_capability()}; {used}", {"cores": usable})
    yield _memory()
    yield _processes()
    yield from _cuda()
    if torch.backends.mps.is_available():
        yield Finding("ok", "mps", "Apple's GPU")
    with contextlib.suppress(UsageError):  # of $TAMING_DEVICE; the check of variables reports it
        requested = os.environ.get("TAMING_DEVICE")
        device = pick_device(requested or "auto")
        yield Finding("ok", "in use", f"{device}{' ($TAMING_DEVICE)' if requested else ''}", {"device": str(device)})


def precision() -> Iterator[Finding]:
    """The numerical error of a small network on each device, in each precision that is used there."""
    for device in _devices():
        auto = pick_precision("auto", device)
        dtypes = {torch.float32, auto} | ({torch.float16} if device.type == "cuda" else set())
        for dtype in sorted(dtypes, key=lambda each: (each != auto, str(each))):
            name = precision_name(dtype)
            chosen = "; auto selects this" if dtype == auto else ""
            label = f"{device} {name}"
            try:
                error_size = numerical_error(device, dtype)
            except Exception as error:
                yield Finding(
                    "FAIL", label, f"cannot compute ({first_line(error)}); use another --device or --precision"
                )
                continue
            if error_size <= TOLERANCES[name]:
                yield Finding(
                    "ok", label, f"computes correctly (error {error_size:.0e}){chosen}", {"error": error_size}
                )
            else:
                message = f"computes wrongly: the error is {error_size:.0e}, more than {TOLERANCES[name]:.0e}"
                yield Finding("FAIL", label, f"{message}; use another --device or --precision", {"error": error_size})
        if auto == torch.float32 and device.type != "mps":
            reason = "has no instructions for it and would be slow: auto selects fp32"
            yield Finding("note", f"{device} bf16", f"the {'CPU' if device.type == 'cpu' else 'device'} {reason}")


def numerical_error(device: torch.device, dtype: torch.dtype) -> float:
    """The error of convolution, GroupNorm, activation and convolution against torch's own layers in float64: the
    largest |a - b| / |b| over the output and all gradients."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), GroupNorm(8, 32), nn.SiLU(), nn.Conv2d(32, 8, 3))
        picture = torch.randn(2, 8, 24, 24)
    reference = copy.deepcopy(network).double()
    reference[1] = nn.GroupNorm(8, 32).double()  # ours is initialised like torch's
    expected = _forward_backward(reference, picture.double(), torch.device("cpu"), torch.float32)
    network = network.to(device).to(memory_format=torch.channels_last)
    actual = _forward_backward(network, picture.to(device, memory_format=torch.channels_last), device, dtype)
    errors = [((a.cpu().double() - b).norm() / b.norm()).item() for a, b in zip(actual, expected, strict=True)]
    return max(math.inf if math.isnan(error) else error for error in errors)


def _forward_backward(network: nn.Module, x: Tensor, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The output, and the gradients of its sum of squares with respect to the input and all weights."""
    x = x.requires_grad_()
    with autocast(device, dtype):
        y = network(x)
    total = y.to(torch.promote_types(y.dtype, torch.float32)).square().sum()
    return [y.detach(), *torch.autograd.grad(total, [x, *network.parameters()])]


def _devices() -> list[torch.device]:
    devices = [torch.device("cpu")]
    devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return devices + ([torch.device("mps")] if torch.backends.mps.is_available() else [])


def _memory() -> Finding:
    total, free = memory_bytes()
    message = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB are free"
    values = {"bytes": total, "free_bytes": free}
    if free < LEAST_MEMORY:
        return Finding("note", "memory", f"{message}; training tiny takes {LEAST_MEMORY / 2**30:.0f} GiB", values)
    return Finding("ok", "memory", message, values)


def _processes() -> Finding:
    """Loader processes (`--workers`) need the system's semaphores."""
    try:
        with multiprocessing.get_context("spawn").Lock():
            return Finding("ok", "processes", "can be started to read pictures")
    except Exception as error:
        return Finding(
            "FAIL",
            "processes",
            f"cannot be started to read pictures ({first_line(error)}); check /dev/shm, or use --workers 0",
        )


def _cuda() -> Iterator[Finding]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available, count = torch.cuda.is_available(), torch.cuda.device_count()
    if not available or not count:
        yield _no_cuda([str(each.message).splitlines()[0] for each in caught])
        return
    for index in range(count):
        about = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        yield Finding(
            "ok",
            f"cuda:{index}",
            f"{about.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, compute capability"
            f" {about.major}.{about.minor}",
            {"bytes": total, "free_bytes": free, "capability": [about.major, about.minor]},
        )


def _no_cuda(warned: list[str]) -> Finding:
    """A note: there is no device, or torch cannot use it, and why."""
    driver = _nvidia_driver()
    if driver and torch.version.cuda is None:
        message = "an NVIDIA driver is installed, but this torch is built for the CPU only"
        return Finding("note", "cuda", f"{message}: install torch and torchvision for CUDA, see https://pytorch.org")
    if driver or warned:
        reason = warned[0] if warned else "no device is visible; check `nvidia-smi` and $CUDA_VISIBLE_DEVICES"
        return Finding("note", "cuda", f"torch cannot use the NVIDIA driver: {reason}")
    return Finding("note", "cuda", "no device; the preset tiny is made for the CPU")


def _nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()
