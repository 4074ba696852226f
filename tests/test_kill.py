"""kill -9 at exact moments of tokenising and of both trainings: the same command then ends as if nothing had happened.

At a moment, the process is about to give a file its final name, or to remove it. `scripts/drill kill` has random ones.
"""

import json
import math
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from taming_cli.cli.app import main
from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.config.codec import CodecConfig
from taming_cli.data.tokens.file import TokenFile, verify
from taming_cli.runtime.checkpoint import load_model, load_trainer, save_model
from tests.killed import NEVER, Before
from tests.processes import python

ROOT = Path(__file__).parents[1]
PICTURES = 520  # three shards
TINY = CodecConfig(ch=32, ch_mult=(1, 1), attn_resolutions=(), z_channels=4, codebook_size=16, codebook_dim=4)
COMMON = shlex.split("--steps 12 --minutes 0 --precision fp32 --device cpu --val-every 0.25 --snapshots --seed 1")
CODEC = COMMON + shlex.split(
    "--ch 32 --ch-mult 1 --z-channels 4 --codebook-size 16 --codebook-dim 4 --disc-ndf 4 --size 32x32 --batch-size 2 "
    "--perceptual none --disc-train-start 0.3 --disc-start 0.5 --quantizer ema"
)
PRIOR = COMMON + shlex.split("--n-layer 1 --n-head 2 --n-embd 16 --batch-size 4 --samples 1 --dropout 0.2")


@pytest.fixture
def execute(tmp_path: Path) -> Callable[..., int]:
    """Run a command as a process of its own, killed at a moment where one is given; its exit code (or -9)."""

    def run(arguments: Sequence[object], moment: Before = NEVER) -> int:
        command = [python(), "-m", "tests.killed", *map(str, moment), *map(str, arguments)]
        with (tmp_path / "log").open("ab") as log:
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, timeout=300, check=False)
        assert done.returncode in (0, -signal.SIGKILL), (tmp_path / "log").read_text()
        return done.returncode

    return run


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pictures in two folders, a codec with random weights, and a token file."""
    root = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        path = root / "pictures" / ("even", "odd")[number % 2] / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)).save(path, compress_level=0)
    for number in range(6):
        path = root / "few" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(path)
    torch.manual_seed(0)
    save_model(root / "vq.safetensors", codec_file(VQGAN(TINY), {"size": "8x8"}))
    return root


def tokenize_command(material: Path, out: Path) -> list[object]:
    codec = ["--ckpt", material / "vq.safetensors", "--device", "cpu", "--batch-size", 64]
    return ["tokenize", material / "pictures", *codec, "--views", 2, "--workers", 1, "-o", out, "--json"]


def datasets(path: Path) -> dict[str, Any]:
    """Everything that a token file says: datasets and attributes, by name."""
    found: dict[str, Any] = {}
    with h5py.File(path, "r") as file:

        def visit(name: str, thing: Any) -> None:
            found.update({f"{name}@{key}": value for key, value in thing.attrs.items()})
            if isinstance(thing, h5py.Dataset):
                found[name] = (thing.dtype.str, thing.shape, thing[()].tobytes())

        visit("", file)
        file.visititems(visit)
    return found


def tensors(value: Any, name: str = "") -> dict[str, Any]:
    """A nested state as a mapping from dotted names to tensors and numbers; the time it took is left out."""
    if isinstance(value, Mapping):
        return {k: v for key in value if key != "seconds" for k, v in tensors(value[key], f"{name}.{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for n, one in enumerate(value) for k, v in tensors(one, f"{name}.{n}").items()}
    return {name: value}


def differing(one: Any, other: Any) -> list[str]:
    a, b = tensors(one), tensors(other)
    return [
        name
        for name in sorted(a.keys() | b.keys())
        if name not in a
        or name not in b
        or not (torch.equal(a[name], b[name]) if isinstance(a[name], Tensor) else a[name] == b[name])
    ]


def assert_nothing_broken_is_there(folder: Path) -> None:
    """Whatever stands under its final name is whole."""
    for path in folder.rglob("*.h5"):
        verify(path)
    for path in folder.rglob("*.safetensors"):
        load_model(path)
    for path in folder.rglob("trainer.pt"):
        load_trainer(path)
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())


def logged(run: Path) -> list[dict[str, Any]]:
    """The lines of the log, without the time that the steps took."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = ("seconds", "images_per_second", "waiting_seconds")
    return [{name: value for name, value in line.items() if name not in times} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("checkpoints/last.safetensors", "checkpoints/best.safetensors"):
        a, b = load_model(one / name), load_model(other / name)
        assert differing(a.tensors, b.tensors) == []
        assert (a.config, a.about) == (b.config, b.about)
    assert differing(load_trainer(one / "trainer.pt"), load_trainer(other / "trainer.pt")) == []
    assert logged(one) == logged(other)
    kept = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (one, other)]
    assert kept[0] == kept[1]
    assert not [path for path in one.rglob("*") if path.suffix == ".tmp"]


# --- tokenize ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_tokens(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "t.h5"
    assert main([str(one) for one in tokenize_command(material, out)]) == 0
    with TokenFile(out) as file:
        assert (len(file), file.header.views, file.label_names) == (PICTURES, 2, ("even", "odd"))
    return out


@pytest.mark.parametrize(
    "moment",
    [
        Before("plan.json"),
        Before("shard-00001.h5"),
        Before("t.h5"),
        Before("shard-00001.h5", event="os.remove"),
    ],
    ids=str,
)
def test_a_killed_tokenize_ends_with_the_same_file(
    moment: Before, material: Path, whole_tokens: Path, execute: Callable[..., int], tmp_path: Path
) -> None:
    out = tmp_path / "t.h5"
    command = tokenize_command(material, out)
    assert execute(command, moment) == -signal.SIGKILL, "the moment never came"
    assert_nothing_broken_is_there(tmp_path)
    kept = {path: path.stat().st_ino for path in tmp_path.glob("t.h5.parts/shard-*.h5") if not out.exists()}
    assert execute(command, Before("t.h5") if kept else NEVER) in (0, -signal.SIGKILL)
    for path, inode in kept.items():  # what was finished was not made again
        assert path.stat().st_ino == inode
    assert execute(command) == 0
    assert datasets(out) == datasets(whole_tokens)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "t.h5"]


# --- the two trainings ------------------------------------------------------------------------------------------------

LAST = 0
"""The last time that it happens: only what is left unwritten for good shows in the end."""

MOMENTS = [
    Before("trainer.pt", nth=2),
    Before("last.safetensors", nth=2),
    Before("best.safetensors", nth=LAST),
    Before("step_0000006.safetensors", event="os.link"),
]


def improvements(run: Path) -> int:
    """How often a validation was the best so far, and so how often best.safetensors was written: the smallest of those
    at which the adversarial term had its largest weight so far."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train = json.loads((run / "config.json").read_text())["config"]["train"]
    best, found = (0.0, math.inf), 0
    for line in lines:
        if line["kind"] == "validation":
            before = (line["step"] - 1) / train["steps"]
            ramp = (before - train["disc_start"]) / train["disc_ramp"] if train.get("disc_weight") else 0.0
            this = (-min(1.0, max(0.0, ramp)), line.get("val_nats_per_token", line.get("l1")))
            best, found = min(this, best), found + (this < best)
    return found


def training_command(what: str, material: Path, tokens: Path, out: Path) -> list[object]:
    if what == "train-vqgan":
        return [what, material / "few", *CODEC, "--out", out, "--json"]
    return [what, tokens, *PRIOR, "--codec", material / "vq.safetensors", "--out", out, "--json"]


@pytest.fixture(scope="module")
def whole_runs(material: Path, whole_tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    runs = {what: tmp_path_factory.mktemp("whole") / what for what in ("train-vqgan", "train-prior")}
    for what, out in runs.items():
        assert main([str(one) for one in training_command(what, material, whole_tokens, out)]) == 0
    return runs


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
@pytest.mark.parametrize("what", ["train-vqgan", "train-prior"])
def test_a_killed_training_ends_with_the_same_tensors(
    what: str,
    moment: Before,
    material: Path,
    whole_tokens: Path,
    whole_runs: dict[str, Path],
    execute: Callable[..., int],
    tmp_path: Path,
) -> None:
    if moment.nth == LAST:
        moment = moment._replace(nth=improvements(whole_runs[what]))
    out = tmp_path / "run"
    command = training_command(what, material, whole_tokens, out)
    assert execute(command, moment) == -signal.SIGKILL, "the moment never came"
    assert_nothing_broken_is_there(out)
    started = (out / "trainer.pt").exists()
    again = [what, "--resume", "--out", out, "--json"] if started else command
    assert execute([*again, "--codec", material / "vq.safetensors"] if what == "train-prior" else again) == 0
    assert_same_run(out, whole_runs[what])
