"""The commands that the drills disturb, with what they read."""

import shlex
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from forked import SHARD, Ended, Prepare, Process, Watch, call, run, start
from PIL import Image

from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.config.codec import CodecConfig
from taming_cli.interop.compvis_export import export_checkpoint
from taming_cli.runtime.checkpoint import save_model

PICTURES = 5 * SHARD
CODEC = CodecConfig(ch=32, ch_mult=(1, 1), attn_resolutions=(), z_channels=4, codebook_size=16, codebook_dim=4)
PUBLISHED = replace(CODEC, norm_groups=32)
TRAINING = shlex.split("--steps 12 --minutes 0 --precision fp32 --device cpu --val-every 0.25 --seed 1")
VQGAN_FLAGS = shlex.split(
    "--ch 32 --ch-mult 1 --z-channels 4 --codebook-size 16 --codebook-dim 4 --disc-ndf 4 --size 32x32 --batch-size 2 "
    "--perceptual none --disc-train-start 0.3 --disc-start 0.5 --quantizer ema --workers 0"
)
PRIOR_FLAGS = shlex.split("--n-layer 1 --n-head 2 --n-embd 16 --batch-size 4 --samples 1 --dropout 0.2 --snapshots")
_kept: list[tempfile.TemporaryDirectory[str]] = []


@dataclass(frozen=True)
class Job:
    """A command and the folder in which it begins.

    `line` names what it writes relative to that folder. `resume` is the command that continues it once `trainer` is
    there. A command that `refuses` does not replace a complete result. `begin` fills the folder before the command.
    It runs in `ranks` processes.
    """

    name: str
    line: Sequence[str]
    resume: Sequence[str] = ()
    trainer: str = ""
    refuses: bool = False
    begin: Callable[[Path], object] | None = None
    ranks: int = 1

    def prepare(self, folder: Path) -> None:
        """Create the folder."""
        folder.mkdir()
        if self.begin is not None:
            self.begin(folder)

    def start(self, folder: Path, prepare: Prepare | None = None, *, resume: bool = False) -> list[Process]:
        """Start the command, or the one that resumes it, in all its processes; `prepare` is for the first one."""
        line = self.resume if resume else self.line
        if self.ranks == 1:
            return [start(line, folder, prepare)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            shared = {
                "WORLD_SIZE": str(self.ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free.getsockname()[1]),
            }
        own = [{**shared, "GLOO_SOCKET_IFNAME": "lo", "RANK": str(rank)} for rank in range(self.ranks)]
        return [
            start(line, folder, None if rank else prepare, environment=variables) for rank, variables in enumerate(own)
        ]

    def run(self, folder: Path, prepare: Prepare | None = None, *, resume: bool = False) -> Ended:
        """Run the command to its end; returns that of the first process, or the first one that failed."""
        ended = [process.wait() for process in self.start(folder, prepare, resume=resume)]
        return next((each for each in ended if each.code), ended[0])


def kept(name: str) -> Path:
    """A new folder that is removed when this process ends; other users may read it."""
    _kept.append(tempfile.TemporaryDirectory(prefix=f"drill-{name}-"))
    folder = Path(_kept[-1].name)
    folder.chmod(0o755)
    return folder


@cache
def jobs() -> dict[str, Job]:
    """The jobs by name. What they read is written once, and removed when this process ends."""
    folder = kept("material")
    call(lambda: _write_inputs(folder))
    words = {name: str(folder / name) for name in ("pictures", "few", "vq.safetensors", "published.ckpt", "t.h5")}
    codec = ["--ckpt", words["vq.safetensors"], "--device", "cpu", "--workers", "1", "-q"]
    tokenize = ["tokenize", words["pictures"], *codec, "--batch-size", "4", "--views", "2", "-o", "t.h5"]
    _need(run([*tokenize[:-1], words["t.h5"]], folder))
    for part in (1, 2, 3):
        _need(run([*tokenize[:-1], "part.h5", "--shard", f"{part}/3"], folder))
    shards = folder / "shards"
    shards.mkdir()
    _stop_before_merge(tokenize, shards)
    prior = ["train-prior", words["t.h5"], *TRAINING, *PRIOR_FLAGS, "--codec", words["vq.safetensors"], "-q"]
    _need(run([*prior, "--out", str(folder / "prior")], folder))
    model = str(folder / "prior" / "checkpoints" / "last.safetensors")
    sample = ["sample", "--ckpt", model, "-n", "6", "--device", "cpu", "--precision", "fp32", "-q", "-o", "out"]
    vqgan = ["train-vqgan", words["few"], *TRAINING, *VQGAN_FLAGS, "-q"]
    parts = [str(folder / f"part.{part}-of-3.h5") for part in (1, 2, 3)]
    again = ["--resume", "--out", "run", "-q"]
    made = [
        Job("tokenize", tokenize),
        Job("tokenize, its merge", tokenize, begin=lambda new: _copy(shards, new)),
        Job("tokens merge", ["tokens", "merge", *parts, "-o", "m.h5", "-q"], refuses=True),
        Job("train-vqgan", [*vqgan, "--out", "run"], ["train-vqgan", *again], "run/trainer.pt"),
        Job(
            "train-prior",
            [*prior, "--out", "run"],
            ["train-prior", *again, "--codec", words["vq.safetensors"]],
            "run/trainer.pt",
        ),
        Job("sample", [*sample, "--tokens", "codes.h5", "--npz", "out.npz"]),
        Job("decode", ["decode", words["t.h5"], "out", "--codec", words["vq.safetensors"], "--device", "cpu", "-q"]),
        Job("annotate", ["annotate", "edges", words["few"], "maps", "--workers", "1", "-q"]),
        Job("import", ["import", words["published.ckpt"], "-o", "imported.safetensors", "-q"], refuses=True),
    ]
    return {job.name: job for job in made}


def _write_inputs(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, count, size in (("pictures", PICTURES, (10, 10)), ("few", 6, (36, 40))):
        for number in range(count):
            path = folder / name / ("even", "odd")[number % 2] / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    torch.manual_seed(0)
    model = codec_file(VQGAN(CODEC), {"size": "8x8"})
    save_model(folder / "vq.safetensors", model)
    export_checkpoint(codec_file(VQGAN(PUBLISHED), {"size": "8x8"}), folder / "published.ckpt")


def _stop_before_merge(tokenize: Sequence[str], folder: Path) -> None:
    """Leave all shards of a job, and not its token file."""
    for nth in range(1, 1000):
        run(tokenize, folder, Watch(folder, nth=nth))
        if len(list(folder.glob("t.h5.parts/shard-*.h5"))) == PICTURES // SHARD:
            return
    raise AssertionError("the shards were never complete")


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def _need(ended: Ended) -> None:
    assert ended.code == 0, ended
