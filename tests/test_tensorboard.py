"""TensorBoard: event files say what metrics.jsonl says, once, also where a training was stopped or killed."""

import json
import math
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.size import Size
from taming_cli.data.images import read_image
from taming_cli.data.tokens.header import TokenHeader
from taming_cli.data.tokens.writer import TokenJob
from taming_cli.errors import Interrupted
from taming_cli.prior import train as prior_training
from taming_cli.runtime.checkpoint import ModelFile
from taming_cli.runtime.pacing import Progress
from taming_cli.runtime.run.folder import Place, Run
from tests.test_cli import CODEC, picture, taming

Points = dict[str, list[tuple[int, float]]]


def events(folder: Path) -> list[Any]:
    """Every event of a folder's files, the oldest file first: each is its length, a checksum, itself, a checksum."""
    event = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed").Event
    found = []
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            found.append(event())
            found[-1].ParseFromString(data[place + 12 : place + 12 + length])
            place += 16 + length
    return found


def points(folder: Path) -> tuple[Points, dict[int, bytes]]:
    """What TensorBoard shows: (step, value) by tag, and the sheets by step; a session that starts at a step takes back
    what was there from that step on."""
    scalars: Points = {}
    sheets: dict[int, bytes] = {}
    for event in events(folder):
        if event.HasField("session_log"):
            scalars = {tag: [point for point in line if point[0] < event.step] for tag, line in scalars.items()}
            sheets = {step: sheet for step, sheet in sheets.items() if step < event.step}
        for value in event.summary.value:
            if value.HasField("image"):
                assert value.tag == "samples"
                sheets[event.step] = value.image.encoded_image_string
            else:
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars, sheets


def logged(run: Path) -> Points:
    """The same from metrics.jsonl."""
    found: Points = {}
    for line in (json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()):
        for name, value in line.items():
            if name not in ("kind", "step", "images", "seconds") and not isinstance(value, list):  # a figure
                found.setdefault(f"{line['kind']}/{name}", []).append((line["step"], value))
    return found


def assert_as_logged(run: Path) -> None:
    scalars, sheets = points(run / "tensorboard")
    wanted = logged(run)
    assert scalars.keys() == wanted.keys()
    for tag, line in wanted.items():
        assert [step for step, _ in scalars[tag]] == [step for step, _ in line], tag
        assert [value for _, value in scalars[tag]] == pytest.approx([value for _, value in line], rel=1e-6), tag
    validated = {step for tag, line in wanted.items() if tag.startswith("validation/") for step, _ in line}
    pictures = {step: run / "samples" / f"step_{step:07d}.png" for step in validated}
    assert sheets.keys() == pictures.keys()
    for step, sheet in sheets.items():
        assert torch.equal(read_image(sheet, "sheet"), read_image(pictures[step].read_bytes(), "picture")), step


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(6):
        picture(tmp_path / "in" / f"{number}.png", (40 * number, 90, 10))
    return tmp_path / "in"


# --- trainings --------------------------------------------------------------------------------------------------------


def test_a_codecs_training_writes_scalars_by_their_names_and_its_sheets(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    run = tmp_path / "run"
    assert taming("train-vqgan", pictures, *CODEC, "--steps", 20, "--out", run, "--tensorboard").code == 0
    assert_as_logged(run)
    scalars, sheets = points(run / "tensorboard")
    assert {"train/l1", "train/codes_used", "validation/psnr"} <= scalars.keys()
    assert len(sheets) == 2


def test_a_resumed_run_logs_nothing_twice(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    run = tmp_path / "run"
    assert taming("train-vqgan", pictures, *CODEC, "--steps", 40, "--out", run, "--tensorboard").code == 0
    said = points(run / "tensorboard")
    (run / "trainer.pt").rename(tmp_path / "later.pt")
    shorter = tmp_path / "shorter"
    assert taming("train-vqgan", pictures, *CODEC, "--steps", 20, "--out", shorter).code == 0
    (shorter / "trainer.pt").rename(run / "trainer.pt")  # as if it had been killed right after the save of step 20
    assert taming("train-vqgan", "--resume", "--out", run, "--steps", 60).code == 0
    assert_as_logged(run)
    again = points(run / "tensorboard")[0]
    assert [step for step, _ in again["train/l1"]] == [10, 20, 30, 40, 50, 60]
    assert sum(step == 30 for step, _ in said[0]["train/l1"]) == 1
    doubled = [value.tag for event in events(run / "tensorboard") for value in event.summary.value if event.step == 30]
    assert doubled.count("train/l1") == 2  # what was taken back is in the older file still


def test_a_run_that_gets_a_board_later_has_its_beginning_there_too(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    run = tmp_path / "run"
    assert taming("train-vqgan", pictures, *CODEC, "--steps", 20, "--out", run).code == 0
    assert not (run / "tensorboard").exists()
    assert taming("train-vqgan", "--resume", "--out", run, "--steps", 30, "--tensorboard").code == 0
    scalars, _ = points(run / "tensorboard")
    assert [step for step, _ in scalars["train/l1"]] == [10, 20, 30]


def test_a_prior_writes_the_same_and_a_stopped_one_continues(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    header = TokenHeader(
        codec_sha256="0" * 64,
        codec_path="",
        codebook_size=8,
        downsample_factor=4,
        preprocess={},
        created_by="test",
        views=1,
        height=4,
        width=4,
    )
    job = TokenJob(tmp_path / "t.h5", header=header, plan={}, total=12, shard_size=12)
    codes = np.random.default_rng(0).integers(0, 8, (12, 1, 4, 4))
    with job:
        names = [f"{number}.png" for number in range(12)]
        job.write(job.pending()[0], codes=codes, names=names, labels=[None] * 12, conditions={}, skipped=[])
        job.finish()
    train = PriorTrainConfig(
        steps=30,
        minutes=0,
        batch_size=2,
        held=0.3,
        samples=2,
        device="cpu",
        precision="fp32",
        tensorboard=True,
        val_every=0.5,
    )

    def stop(progress: Progress) -> None:
        if progress.step == 24 and not progress.validation:
            os.kill(os.getpid(), signal.SIGINT)

    def go(on_step: Callable[[Progress], None] | None = None) -> Path:
        done = prior_training.fit(
            [tmp_path / "t.h5"],
            prior=PriorConfig(n_layer=1, n_head=2, n_embd=16, window=Size(4, 4)),
            train=train,
            codec=ModelFile(
                format="taming-codec", config={"codec": {"ch": 32}}, about={"codec_sha256": "0" * 64}, tensors={}
            ),
            place=Place(out=tmp_path / "run"),
            render=lambda codes, given: torch.full((len(codes), 3, 16, 16), 9, dtype=torch.uint8),
            on_step=on_step,
        )
        return done.run

    with pytest.raises(Interrupted):
        go(stop)
    assert_as_logged(tmp_path / "run")
    run = go()
    assert_as_logged(run)
    scalars, sheets = points(run / "tensorboard")
    assert [step for step, _ in scalars["train/nats_per_token"]] == [10, 20, 30]
    assert sorted(sheets) == [15, 30]


def test_what_is_logged_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    with Run("train-vqgan", tmp_path, None, tensorboard=True) as run:
        run.samples.mkdir()
        run.rewind_log(0)
        run.log(kind="train", step=10, images=20, seconds=1.5, l1=0.5, discriminator=math.nan)
        scalars, _ = points(tmp_path / "tensorboard")
        assert scalars == {"train/l1": [(10, 0.5)]}  # a kill would leave it there; what is no number is left out
        run.show(10, torch.zeros(3, 4, 6, dtype=torch.uint8))
    with Image.open(tmp_path / "samples" / "step_0000010.png") as kept:
        assert kept.size == (6, 4)
    assert list(points(tmp_path / "tensorboard")[1]) == [10]


def test_without_it_a_run_needs_no_package(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    assert taming("train-vqgan", pictures, *CODEC, "--steps", 2, "--out", tmp_path / "run").code == 0


@pytest.mark.parametrize("command", ["train-vqgan", "train-prior"])
def test_a_missing_package_is_one_line_before_anything_starts(
    command: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "tensorboardX" else find(name))
    monkeypatch.chdir(tmp_path)
    toy = [*CODEC, "--steps", 2] if command == "train-vqgan" else ["--steps", 2, "--device", "cpu"]
    inputs = pictures
    if command == "train-prior":
        assert taming("train-vqgan", pictures, *CODEC, "--steps", 2, "--out", tmp_path / "vq", "-q").code == 0
        inputs = tmp_path / "t.h5"
        ckpt = tmp_path / "vq" / "checkpoints" / "last.safetensors"
        assert taming("tokenize", pictures, "--ckpt", ckpt, "-o", inputs, "--device", "cpu", "-q").code == 0
    said = taming(command, inputs, *toy, "--tensorboard", "-q")
    assert said.code == 1
    assert "pip install tensorboardX" in said.refusal
    assert not (tmp_path / "runs").exists()
