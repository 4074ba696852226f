"""The library leaves its host's process as it was, and one pipeline may draw in several threads."""

import copy
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch

from taming_cli.data.images import write_png
from taming_cli.prior.raster.buffers import BufferCache
from taming_cli.sampling.pipeline import Pipeline
from tests.test_pipeline import saved
from tests.toys import pictures

HOST = '''
import ctypes, json, locale, os, signal, sys, threading, warnings

asked = []
real = ctypes.CDLL


class Watched:
    """The C library, which notes what is asked of the allocator."""

    def __init__(self, name, *more, **options):
        self.__dict__["library"] = real(name, *more, **options)

    def __getattr__(self, name):
        found = getattr(self.library, name)
        return (lambda *given: (asked.append(name), found(*given))[1]) if "mall" in name else found


def state():
    return {
        "environment": dict(os.environ),
        "warnings": [str(each) for each in warnings.filters],
        "handlers": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "dtype": str(torch.get_default_dtype()),
        "tf32": (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.enabled),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "random": torch.get_rng_state().sum().item(),
        "numpy": np.geterr() | {"random": str(np.random.get_state()[1][:4])},
        "locale": locale.setlocale(locale.LC_ALL),
        "pixels": PIL.Image.MAX_IMAGE_PIXELS,
        "truncated": PIL.ImageFile.LOAD_TRUNCATED_IMAGES,
        "recursion": sys.getrecursionlimit(),
        "folder": os.getcwd(),
    }


import cv2  # which writes into the environment itself
import numpy as np
import PIL.Image
import PIL.ImageFile
import torch
import torchvision

ctypes.CDLL = Watched
before = state()
if sys.argv[1] == "library":
    from taming_cli import VQGAN, Pipeline

    pipeline = Pipeline.load(sys.argv[2], device="cpu", **json.loads(sys.argv[4]))
    samples = pipeline.sample(n=1, size="40x24")
    pipeline.encode(samples.images)
    pipeline.decode(samples.codes)
    VQGAN.load(sys.argv[2])
    pipeline.complete(sys.argv[3], "upper-half")
else:
    from taming_cli.__main__ import run

    sys.argv = ["taming", "sample", "--ckpt", sys.argv[2], "--device", "cpu", "-q", "-o", sys.argv[3]]
    run()
after = state()
print(json.dumps({"allocator": asked, "changed": [name for name in before if before[name] != after[name]]}))
'''


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("prior") / "prior.safetensors", classes=False)


def host(*arguments: object) -> dict[str, list[str]]:
    """What a fresh process says of itself after it has used the library, or been the executable."""
    line = [sys.executable, "-c", HOST, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=dict(os.environ))
    said: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_the_library_changes_nothing_of_its_hosts_process(ckpt: Path, tmp_path: Path) -> None:
    picture = tmp_path / "photo.png"
    write_png(picture, pictures(16, 16, 1)[0])
    assert host("library", ckpt, picture, json.dumps({"memory": 0.0003})) == {"allocator": [], "changed": []}


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_the_executable_sets_its_own(ckpt: Path, tmp_path: Path) -> None:
    found = host("executable", ckpt, tmp_path / "out")
    assert "mallopt" in found["allocator"]
    assert found["changed"] == ["warnings"]


@pytest.mark.parametrize("speculate", ["off", "2"])
def test_two_threads_draw_with_one_pipeline_what_one_would(ckpt: Path, speculate: str) -> None:
    pipeline = Pipeline.load(ckpt, device="cpu")
    asked = [{"n": 3, "size": "8x8", "seed": 1}, {"n": 1, "size": "24x12", "seed": 2, "batch_size": 4}]
    asked = [{**each, "speculate": speculate} for each in asked]
    alone = [pipeline.sample(**each) for each in asked]
    together = Barrier(2, timeout=60)

    def draw(number: int) -> list[torch.Tensor]:
        found = []
        for _ in range(3):
            steps = 0

            def in_turns(done: int, total: int) -> None:  # both are at work, neither ahead
                nonlocal steps
                steps += 1
                if steps <= 8:
                    together.wait()

            found.append(pipeline.sample(**asked[number], on_progress=in_turns).codes)
        return found

    with ThreadPoolExecutor(2) as threads:
        for one, drawn in zip(alone, threads.map(draw, range(2)), strict=True):
            assert all(torch.equal(one.codes, codes) for codes in drawn)


def test_a_copy_of_a_buffer_cache_starts_empty() -> None:
    buffers = BufferCache()
    assert isinstance(copy.deepcopy(buffers), BufferCache)
    assert copy.copy(buffers) is not buffers
