"""What computes: processors, memory, devices, and whether each computes rightly in the precisions that are used."""

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
"""Bytes that a training of `tiny` takes, torch itself included."""

TOLERANCES = {"fp32": 2e-3, "bf16": 3e-2, "fp16": 1e-2}
"""How far off a result may be, of its own length. fp32 allows for TF32, which convolutions have on CUDA."""


def devices() -> Iterator[Finding]:
    """Processors, memory, loading processes, each CUDA device, Apple's; and the one that commands use."""
    usable, there = cores(), os.cpu_count() or 1
    named = f"{usable} of {there} cores" if usable != there else f"{there} core{'s' * (there > 1)}"
    threads = torch.get_num_threads()
    used = f"torch uses {threads} thread{'s' * (threads > 1)}"
    yield Finding("ok", "cpu", f"{named}, {torch.backends.cpu.get_cpu_capability()}; {used}", {"cores": usable})
    yield _memory()
    yield _processes()
    yield from _cuda()
    if torch.backends.mps.is_available():
        yield Finding("ok", "mps", "Apple's GPU")
    with contextlib.suppress(UsageError):  # of $TAMING_DEVICE: the check of variables says it
        asked = os.environ.get("TAMING_DEVICE")
        device = pick_device(asked or "auto")
        yield Finding("ok", "in use", f"{device}{' ($TAMING_DEVICE)' if asked else ''}", {"device": str(device)})


def precision() -> Iterator[Finding]:
    """On each device, in each precision that is used there: a small network there and back."""
    for device in _devices():
        auto = pick_precision("auto", device)
        wanted = {torch.float32, auto} | ({torch.float16} if device.type == "cuda" else set())
        for dtype in sorted(wanted, key=lambda each: (each != auto, str(each))):
            name = precision_name(dtype)
            chosen = "; auto takes this" if dtype == auto else ""
            label = f"{device} {name}"
            try:
                off = computed(device, dtype)
            except Exception as error:
                yield Finding(
                    "FAIL", label, f"cannot compute ({first_line(error)}); use another --device or --precision"
                )
                continue
            if off <= TOLERANCES[name]:
                yield Finding("ok", label, f"computes rightly (error {off:.0e}){chosen}", {"error": off})
            else:
                says = f"computes wrongly: off by {off:.0e}, where {TOLERANCES[name]:.0e} is the most that may be"
                yield Finding("FAIL", label, f"{says}; use another --device or --precision", {"error": off})
        if auto == torch.float32 and device.type != "mps":
            reason = "has no instructions for it, so that it would be slow: auto is fp32"
            yield Finding("note", f"{device} bf16", f"the {'CPU' if device.type == 'cpu' else 'device'} {reason}")


def computed(device: torch.device, dtype: torch.dtype) -> float:
    """How far a convolution, a GroupNorm, an activation and a convolution, forward and backward, are from the same in
    float64 with torch's own: the largest of |a - b| / |b| over the output and all gradients."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), GroupNorm(8, 32), nn.SiLU(), nn.Conv2d(32, 8, 3))
        picture = torch.randn(2, 8, 24, 24)
    reference = copy.deepcopy(network).double()
    reference[1] = nn.GroupNorm(8, 32).double()  # new ones are all alike
    right = _there_and_back(reference, picture.double(), torch.device("cpu"), torch.float32)
    network = network.to(device).to(memory_format=torch.channels_last)
    ours = _there_and_back(network, picture.to(device, memory_format=torch.channels_last), device, dtype)
    off = [((a.cpu().double() - b).norm() / b.norm()).item() for a, b in zip(ours, right, strict=True)]
    return max(math.inf if math.isnan(value) else value for value in off)


def _there_and_back(network: nn.Module, x: Tensor, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The output, and the gradients of the sum of its squares in the input and in all weights."""
    x = x.requires_grad_()
    with autocast(device, dtype):
        y = network(x)
    total = y.to(torch.promote_types(y.dtype, torch.float32)).square().sum()
    return [y.detach(), *torch.autograd.grad(total, [x, *network.parameters()])]


def _devices() -> list[torch.device]:
    found = [torch.device("cpu")]
    found += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return found + ([torch.device("mps")] if torch.backends.mps.is_available() else [])


def _memory() -> Finding:
    total, free = memory_bytes()
    says = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB are free"
    values = {"bytes": total, "free_bytes": free}
    if free < LEAST_MEMORY:
        return Finding("note", "memory", f"{says}; a training of tiny takes {LEAST_MEMORY / 2**30:.0f} GiB", values)
    return Finding("ok", "memory", says, values)


def _processes() -> Finding:
    """Processes that read pictures (`--workers`) need the system's semaphores."""
    try:
        with multiprocessing.get_context("spawn").Lock():
            return Finding("ok", "processes", "can be started to read pictures")
    except Exception as error:
        return Finding(
            "FAIL",
            "processes",
            f"cannot be started to read pictures ({first_line(error)}); is /dev/shm there? Else use --workers 0",
        )


def _cuda() -> Iterator[Finding]:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        available, count = torch.cuda.is_available(), torch.cuda.device_count()
    if not available or not count:
        yield _no_cuda([str(each.message).splitlines()[0] for each in heard])
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


def _no_cuda(heard: list[str]) -> Finding:
    """A note: that there is none, or that torch cannot use the one that is there, and why."""
    driver = _nvidia_driver()
    if driver and torch.version.cuda is None:
        says = "an NVIDIA driver is here, but this torch is built for the CPU alone"
        return Finding("note", "cuda", f"{says}: install torch and torchvision as https://pytorch.org says for CUDA")
    if driver or heard:
        reason = heard[0] if heard else "no device is visible; look at `nvidia-smi` and $CUDA_VISIBLE_DEVICES"
        return Finding("note", "cuda", f"torch cannot use the NVIDIA driver: {reason}")
    return Finding("note", "cuda", "no device; the CPU computes, for which the preset tiny is made")


def _nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()
