"""Two processes on gloo against one: the same losses, the same model, and what becomes of a process that is killed."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.cli.app import main
from taming_cli.codec.estimate import estimate as codec_estimate
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.prior import PriorTrainConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.prior.estimate import estimate as prior_estimate
from taming_cli.runtime.checkpoint import load_model
from taming_cli.runtime.distributed import World
from tests import toys
from tests.exchanged import DISCRIMINATOR, TOY
from tests.processes import children, python, ranks, together, torchrun
from tests.test_cli import PRIOR
from tests.test_token_writer import assert_equal_datasets

# Small, and with everything on that processes have to agree on.
CODEC = shlex.split(
    "--ch 32 --ch-mult 1 --num-res-blocks 1 --z-channels 4 --resolution 32 --codebook-size 64 --codebook-dim 4 "
    "--disc-ndf 4 --size 32x32 --batch-size 4 --perceptual none --precision fp32 --device cpu --minutes 0 "
    "--val-every 0.5 --workers 0 --seed 1 --disc-train-start 0.1 --disc-start 0.2 --disc-ramp 0.1 --revive 0.5"
)
ANY_ORDER = ["--arch", "any-order"]


def taming(*line: object, processes: int = 1) -> None:
    """Run a command in this process, or in several that begin as `--nproc` starts them."""
    if processes == 1:
        assert main([*map(str, line), "-q"]) == 0
    else:
        together(*line, "--nproc", processes, "-q", processes=processes)


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def close(one: Path, other: Path) -> None:
    """The same losses and the same model to 1e-4, whatever the time that they took."""
    for a, b in zip(logged(one), logged(other), strict=True):
        assert a.keys() == b.keys()
        assert a["kind"] == b["kind"]
        for name in a.keys() - {"kind", "seconds", "images_per_second", "waiting_seconds"}:
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-6), name
    models = [load_model(folder / "checkpoints" / "last.safetensors").tensors for folder in (one, other)]
    assert models[0].keys() == models[1].keys()
    for name, tensor in models[0].items():
        torch.testing.assert_close(models[1][name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("wide")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(root)
        assert main(["demo-data", "scenes", "-n", "16", "--size", "48x40", "-q"]) == 0
        taming("train-vqgan", "scenes/images", *CODEC, "--steps", 12, "--out", "one")
        line = ["tokenize", "scenes/images", "--ckpt", "one/checkpoints/last.safetensors", "-o", "t.h5", "-q"]
        assert main([*line, "--device", "cpu"]) == 0
        yield root


def test_a_codec_learns_in_two_processes_as_in_one(house: Path) -> None:
    taming("train-vqgan", "scenes/images", *CODEC, "--steps", 12, "--out", "two", processes=2)
    close(house / "one", house / "two")
    assert any("adaptive" in line for line in logged(house / "two"))


def test_so_do_two_levels_of_codes(house: Path) -> None:
    levels = ["--network", "vq-vae-2", "--n-res-channel", 4, "--disc-weight", 0, "--steps", 6]
    for processes in (1, 2):
        taming("train-vqgan", "scenes/images", *CODEC, *levels, "--out", f"levels{processes}", processes=processes)
    close(house / "levels1", house / "levels2")
    assert all("top_codes_used" in line for line in logged(house / "levels2"))


@pytest.mark.parametrize("more", [[], ["--prior", "drawn/checkpoints/last.safetensors"]], ids=["near", "prior"])
def test_so_does_a_decoder_on_perturbed_codes(house: Path, more: list[str]) -> None:
    if more and not Path("drawn").exists():
        taming("train-prior", "t.h5", *PRIOR, "--steps", 2, "--out", "drawn")
    line = ["train-vqgan", "scenes/images", *CODEC, "--steps", 4, "--init", "one/checkpoints/last.safetensors"]
    line += ["--train", "decoder", "--perturb", "1", *more]
    for processes in (1, 2):
        taming(*line, "--out", f"decoder{processes}{len(more)}", processes=processes)
    close(house / f"decoder1{len(more)}", house / f"decoder2{len(more)}")
    assert all("perturbed_psnr" in line for line in logged(house / f"decoder2{len(more)}") if "psnr" in line)


def test_so_it_does_with_a_perceptual_network(house: Path) -> None:
    line = ["train-vqgan", "scenes/images", *CODEC, "--perceptual", "efficientnet-lite0", "--steps", 6]
    line += ["--quantize-start", 0.2]
    line += ["--lecam-weight", 0.5]
    line += ["--logits-weight", 0.1]
    line += ["--disc-augment", "colour,translation,cutout"]
    for processes in (1, 2):
        taming(*line, "--out", f"seen{processes}", processes=processes)
    close(house / "seen1", house / "seen2")
    about = load_model(house / "seen1" / "checkpoints" / "last.safetensors").about
    assert about["classifier"] == about["perceptual"]


@pytest.mark.parametrize("more", [[], ["--accumulate", "2"], ANY_ORDER], ids=["", "parts", "any-order"])
def test_a_prior_learns_in_two_processes_as_in_one(house: Path, more: list[str]) -> None:
    line = ["train-prior", "t.h5", *PRIOR, "--batch-size", 4, "--steps", 12, "--dropout", 0, *more]
    for processes in (1, 2):
        taming(*line, "--out", f"prior{processes}{''.join(more)}", processes=processes)
    close(house / f"prior1{''.join(more)}", house / f"prior2{''.join(more)}")


@pytest.mark.parametrize("more", [[], ANY_ORDER], ids=["", "any-order"])
def test_a_sharded_prior_learns_the_same_and_ends_in_the_same_files(house: Path, more: list[str]) -> None:
    line = ["train-prior", "t.h5", *PRIOR, "--batch-size", 4, "--dropout", 0, "--gradient-checkpointing", *more]
    whole, sharded = (f"{name}{''.join(more)}" for name in ("whole", "sharded"))
    for steps in (6, 12):
        taming(*line, "--steps", steps, "--out", whole, processes=2)
        taming(*line, "--steps", steps, "--out", sharded, "--fsdp", processes=2)
    close(house / whole, house / sharded)
    trainers = [torch.load(house / name / "trainer.pt", weights_only=True) for name in (whole, sharded)]
    torch.testing.assert_close(trainers[1]["gpt"], trainers[0]["gpt"], rtol=1e-3, atol=1e-4)
    states = [trainer["optimizer"]["state"] for trainer in trainers]
    assert states[0].keys() == states[1].keys()
    assert all(one.keys() == other.keys() for one, other in zip(states[0].values(), states[1].values(), strict=True))
    taming(*line, "--steps", 13, "--out", sharded)  # and one process goes on with it
    assert load_model(house / sharded / "checkpoints" / "last.safetensors").about["step"] == 13


@pytest.mark.parametrize("stage", ["codec", "prior"])
def test_a_training_goes_on_with_another_number_of_processes(house: Path, stage: str) -> None:
    codec = ["train-vqgan", "scenes/images", *CODEC]
    prior = ["train-prior", "t.h5", *PRIOR, "--batch-size", 4, "--dropout", 0]
    line = codec if stage == "codec" else prior
    for first, then in ((1, 1), (2, 1), (1, 2)):
        out = f"{stage}-{first}-{then}"
        taming(*line, "--steps", 6, "--out", out, processes=first)
        taming(*line, "--steps", 12, "--out", out, processes=then)
    close(house / f"{stage}-1-1", house / f"{stage}-2-1")
    close(house / f"{stage}-1-1", house / f"{stage}-1-2")


def test_processes_tokenize_and_sample_their_parts(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codec = ["--ckpt", "one/checkpoints/last.safetensors", "--device", "cpu", "-q"]
    said = torchrun("tokenize", "scenes/images", *codec, "-o", "wide.h5").split()
    assert sorted(said) == ["wide.1-of-2.h5", "wide.2-of-2.h5"]
    assert main(["tokens", "merge", "wide.2-of-2.h5", "wide.1-of-2.h5", "-o", "wide.h5", "-q"]) == 0
    assert_equal_datasets(house / "wide.h5", house / "t.h5")
    taming("train-prior", "t.h5", *PRIOR, "--steps", 2, "--out", "small")
    line = ["sample", "--ckpt", "small/checkpoints/last.safetensors", "-n", "5", "--device", "cpu", "-q", "-o"]
    torchrun(*line, "by-two")
    assert main([*line, "by-one"]) == 0
    names = [f"{number:06d}.png" for number in range(5)]
    for name in names:
        pictures = [np.asarray(Image.open(house / folder / name)).astype(int) for folder in ("by-one", "by-two")]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1  # rounding, in another batch
    capsys.readouterr()
    assert main(["tokenize", "scenes/images", *codec, "-o", "x.h5", "--shard", "1/17"]) == 2
    assert "use fewer parts" in capsys.readouterr().err


def test_a_killed_process_ends_the_others_with_a_word_and_what_was_saved_goes_on(house: Path) -> None:
    line = ["train-vqgan", "scenes/images", *CODEC, "--out", "killed"]
    command = [sys.executable, "-m", "taming_cli", *map(str, line), "--steps", "100000", "--save-every", "0.02"]
    launcher = subprocess.Popen([*command, "--nproc", "2"], stderr=subprocess.PIPE, text=True)
    try:
        _until((house / "killed" / "trainer.pt").exists)
        os.kill(children(launcher.pid)[-1], signal.SIGKILL)
        killed = time.monotonic()
        _, said = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
    assert time.monotonic() - killed < 60
    assert launcher.returncode != 0
    assert "another process has ended" in said
    saved = torch.load(house / "killed" / "trainer.pt", weights_only=True)["step"]
    taming(*line, "--steps", saved + 1, processes=2)
    assert logged(house / "killed")[-1]["step"] == saved + 1


def test_a_first_ctrl_c_saves_once_for_all(house: Path) -> None:
    line = ["train-prior", "t.h5", *PRIOR, "--batch-size", 4, "--out", "stopped", "--steps", "100000"]
    command = [python(), "-m", "taming_cli", *map(str, line), "--nproc", "2"]
    launcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        _until(lambda: (house / "stopped" / "metrics.jsonl").exists() and logged(house / "stopped"))
        launcher.send_signal(signal.SIGINT)
        _, said = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
    assert launcher.returncode == 130
    assert said.count("everything is saved; resume with") == 1
    assert "Traceback" not in said
    saved = torch.load(house / "stopped" / "trainer.pt", weights_only=True)["step"]
    assert saved >= logged(house / "stopped")[-1]["step"] > 0


def test_what_the_first_process_refuses_is_said_once(house: Path) -> None:
    for line, words in (
        (["--batch-size", "3", "--out", "odd"], "is not a multiple of 2"),
        (["--out", "one", "--seed", "7"], "seed"),
    ):
        command = [python(), "-m", "taming_cli", "train-vqgan", "scenes/images", *CODEC, "--steps", "9", *line]
        command += ["--nproc", "2"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 128 + signal.SIGABRT:  # rarely torch's own threads abort a process that ends this early
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (house / "odd").exists()


@pytest.fixture(scope="module")
def of_two() -> list[list[Any]]:
    """What each of two processes has found, in order: see tests/exchanged.py."""
    ended = ranks(module="tests.exchanged", cwd=Path(__file__).parents[1])
    assert [process.returncode for process in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    return [json.loads(process.stdout) for process in ended]


def test_a_step_exchanges_what_was_reckoned(of_two: list[list[Any]]) -> None:
    counted = [4 * floats for floats in of_two[0][:2]]
    train = CodecTrainConfig(perceptual="none", revive=0.0, size=Size(32, 32))
    reckoned = [
        codec_estimate(toys.CODEC, DISCRIMINATOR, train, None, torch.float32).exchanged,
        prior_estimate(TOY, PriorTrainConfig(), torch.float32).exchanged,
    ]
    assert counted == pytest.approx(
        reckoned, rel=0.02
    )  # the rest: terms, the discriminator's statistics, the last layer
    assert all(one >= other for one, other in zip(counted, reckoned, strict=True))


def test_a_gradient_that_is_not_finite_in_one_process_stops_all(of_two: list[list[Any]]) -> None:
    for told in of_two:
        assert [reason.partition(" is ")[0] for reason in told[2:]] == ["step 3: disc_gradient", "step 3: gradient"]


def _until(true: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_batch_is_shared_evenly() -> None:
    assert [World(rank, 4).share(12) for rank in range(4)] == [3] * 4
    with pytest.raises(UsageError, match="use 12"):
        World(0, 4).share(11)
