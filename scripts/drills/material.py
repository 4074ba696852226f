"""Small files of every kind, written by the commands themselves: pictures, codec, token file, prior, their runs."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

COUNT = 12
COMMON = """
steps = 4
minutes = 0
precision = "fp32"
device = "cpu"
seed = 1
val_every = 0.5
"""
CODEC = """
workers = 0
size = "16x16"
batch_size = 2
perceptual = "none"
quantizer = "ema"
[codec]
ch = 8
patch_size = 1
ch_mult = [1, 2]
norm_groups = 2
num_res_blocks = 1
attn_resolutions = []
z_channels = 4
codebook_size = 16
codebook_dim = 4
[discriminator]
disc_ndf = 4
"""
PRIOR = """
batch_size = 2
samples = 1
n_layer = 1
n_head = 2
n_embd = 16
"""


class Material(NamedTuple):
    """The paths of the files."""

    pictures: Path
    codec_settings: Path
    codec_run: Path
    tokens: Path
    prior_settings: Path
    prior_run: Path

    @property
    def codec(self) -> Path:
        """The codec's model file."""
        return self.codec_run / "checkpoints" / "last.safetensors"

    @property
    def prior(self) -> Path:
        """The prior's model file."""
        return self.prior_run / "checkpoints" / "last.safetensors"


def draw(folder: Path, count: int = COUNT, side: int = 18) -> Path:
    """Small pictures in two folders, which are their classes."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / ("even", "odd")[number % 2] / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side + 2, 3), dtype=np.uint8)).save(path)
    return folder


def make(folder: Path) -> Material:
    """Write all files below a folder."""
    pictures = draw(folder / "pictures")
    material = Material(
        pictures=pictures,
        codec_settings=folder / "codec.toml",
        codec_run=folder / "codec",
        tokens=folder / "tokens.h5",
        prior_settings=folder / "prior.toml",
        prior_run=folder / "prior",
    )
    material.codec_settings.write_text(COMMON + CODEC)
    material.prior_settings.write_text(COMMON + PRIOR)
    codec = ["train-vqgan", pictures, "--config", material.codec_settings, "--out", material.codec_run]
    tokens = ["tokenize", pictures, "--ckpt", material.codec_run, "--device", "cpu", "-o", material.tokens]
    prior = ["train-prior", material.tokens, "--config", material.prior_settings, "--out", material.prior_run]

    def run() -> None:
        from taming_cli.cli.app import main

        for arguments in (codec, tokens, prior):
            code = main([*map(str, arguments), "-q"])
            assert code == 0, (code, arguments)

    apart(run)
    return material


def apart(work: Callable[[], None]) -> None:
    """Call `work` in a forked process, so that this one keeps a single thread; its stdout is discarded."""
    process = os.fork()
    if not process:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    assert status == 0, "the drill's own files could not be made"
