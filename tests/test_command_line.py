"""The command line as people expect it: shared flags where they mean something, -v, dry runs, parts, refusals, signals.

`test_cli.py` holds the contract on the main job; this file goes through what is promised of every command.
"""

import fcntl
import json
import logging
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import termios
import threading
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image

from taming_cli.cli.app import app
from taming_cli.cli.console import LOG
from taming_cli.cli.program import COMMANDS as LISTED
from taming_cli.cli.settings import Settings
from taming_cli.codec import train as training
from taming_cli.codec.vqgan import codec_file
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.prior import ConditionSpec, PriorConfig, PriorTrainConfig
from taming_cli.config.size import Size
from taming_cli.data.tokens.file import TokenFile
from taming_cli.prior.model import prior_file
from taming_cli.prior.networks.gpt import GPT
from taming_cli.runtime.checkpoint import save_model
from tests.processes import python
from tests.test_cli import CODEC, COMMANDS, Said, picture, program, taming
from tests.toys import toy_codec

LEAVES = {" ".join(path): command for path, command in COMMANDS.items() if not hasattr(command, "commands")}
GROUPS = [" ".join(path) for path, command in COMMANDS.items() if path and hasattr(command, "commands")]
ANNOTATE = {f"annotate {kind}" for kind in ("segmentation", "depth", "pose", "edges")}
NETWORKS = ANNOTATE - {"annotate edges"}
EVAL = {
    f"eval {name}" for name in ("fid", "is", "kid", "prc", "rfid", "recon", "codebook", "nll", "memorization", "all")
}
TRAIN = {"train-vqgan", "train-prior"}
CODES = {"tokenize", "reconstruct", "decode"}
TAKES = {
    "--preset": TRAIN,
    "--size": {"train-vqgan", "tokenize", "reconstruct", "sample", "demo-data", *EVAL} - {"eval nll"},
    "--steps": TRAIN,
    "--minutes": TRAIN,
    "--batch-size": TRAIN | CODES | {"sample"} | EVAL,
    "--seed": TRAIN | {"sample", "demo-data", "eval is", "eval kid"},
    "--device": TRAIN | CODES | {"sample"} | EVAL | NETWORKS,
    "--precision": TRAIN | CODES | {"sample", "eval nll"},
    "--workers": {"train-vqgan", "tokenize", "reconstruct", "demo-data"} | EVAL | ANNOTATE,
    "--name": TRAIN | {"sample"},
    "--resume": TRAIN,
    "--config": TRAIN | CODES | {"sample", "import", "info"} | EVAL | ANNOTATE,
    "--dry-run": TRAIN | CODES | {"sample"} | ANNOTATE,
    "--offline": {"train-vqgan", "sample"} | EVAL - {"eval codebook", "eval nll"} | NETWORKS,
    "--weights": {"train-vqgan", "sample"} | EVAL - {"eval codebook", "eval nll"} | NETWORKS,
    "--shard": CODES | {"sample"} | ANNOTATE,
    "--nproc": TRAIN,
    "--tensorboard": TRAIN,
}
"""Which commands take a flag that means the same everywhere; those made since are asked only for what all have."""
MEANT = {
    "train-vqgan": "--perceptual --quantizer --kind --val --init --train --accumulate --gradient-checkpointing",
    "tokenize": "--ckpt --cond --cond-ckpt --views -0",
    "train-prior": "--arch --init --cond",
    "sample": "--ckpt -n --class --cond --greedy --temperature --top-k --top-p --min-p --guidance --stride "
    "--accept-rate --classifier --tokens --complete --mask --first",
}
SETTINGS = ("device", "precision", "workers", "batch_size", "weights", "offline", "shard", "views", "stride", "nproc")


def flags(command: Any) -> set[str]:
    return {flag for parameter in command.params for flag in parameter.opts if flag.startswith("-")}


def option(command: Any, flag: str) -> Any:
    (found,) = (parameter for parameter in command.params if flag in parameter.opts)
    return found


class Files(NamedTuple):
    """Small files of each kind, with random weights."""

    root: Path
    pictures: Path
    codec: Path
    prior: Path
    tokens: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    root = tmp_path_factory.mktemp("files")
    pictures = root / "pictures"
    for number in range(5):
        picture(pictures / f"{number}.png", (40 * number, 90, 10 * number), (32, 32))
    codec = codec_file(toy_codec(), {"size": "32x32", "images": [str(pictures)]})
    save_model(root / "codec.safetensors", codec)
    conditions = (ConditionSpec(kind="class", vocabulary=3),)
    torch.manual_seed(0)
    gpt = GPT(
        PriorConfig(
            arch="modern", n_layer=1, n_head=2, n_embd=16, window=Size(4, 4), codebook_size=64, conditions=conditions
        )
    )
    about = {"grid": "4x4", "label_names": ["cat", "dog", "7"], "label_counts": [6, 2, 1]}
    save_model(root / "prior.safetensors", prior_file(gpt, codec, about))
    made = Files(root, pictures, root / "codec.safetensors", root / "prior.safetensors", root / "t.h5")
    said = taming("tokenize", pictures, "--ckpt", made.codec, "-o", made.tokens, "--device", "cpu", "-q")
    assert said == (0, f"{made.tokens}\n", "")
    return made


# --- flags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_has_the_flags_of_what_is_printed(name: str) -> None:
    assert {"--json", "-q", "--quiet", "-v", "--verbose", "--debug"} <= flags(LEAVES[name])


@pytest.mark.parametrize("flag", TAKES)
def test_a_shared_flag_is_there_where_it_means_something(flag: str) -> None:
    assert {name for name in TAKES[flag] if flag not in flags(LEAVES[name])} == set()
    known = set().union(*TAKES.values())
    assert {name for name in known - TAKES[flag] if flag in flags(LEAVES[name])} == set()


@pytest.mark.parametrize("name", MEANT)
def test_a_commands_own_flags_are_there(name: str) -> None:
    assert set(MEANT[name].split()) <= flags(LEAVES[name])


def test_every_command_that_writes_takes_where_by_one_flag() -> None:
    writing = TRAIN | {"tokenize", "sample", "reconstruct", "import", "export", "tokens merge"} | EVAL | ANNOTATE
    assert all({"-o", "--out"} <= flags(LEAVES[name]) for name in writing)


@pytest.mark.parametrize("flag", ["--size", "--shard", "--device", "--config", "--weights"])
def test_a_shared_flag_takes_the_same_everywhere(flag: str) -> None:
    assert len({option(command, flag).metavar for command in LEAVES.values() if flag in flags(command)}) == 1


@pytest.mark.parametrize("name", LEAVES)
def test_each_setting_has_its_environment_variable(name: str) -> None:
    command = LEAVES[name]
    settled = getattr(command.callback, "settled", frozenset())
    for parameter in command.params:
        if parameter.name in SETTINGS and parameter.name not in settled:
            assert parameter.envvar == f"TAMING_{parameter.name.upper()}", parameter.name


@pytest.mark.parametrize(("device", "chosen"), [("cpu", "tiny"), ("cuda", "small"), ("mps", "small")])
def test_the_preset_follows_the_device_and_the_length_the_preset(
    device: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taming_cli.runtime.device.pick_device", lambda _: torch.device(device))
    monkeypatch.delenv("TAMING_PRESET", raising=False)
    for command, classes in (
        ("train-vqgan", (CodecConfig, DiscriminatorConfig, CodecTrainConfig)),
        ("train-prior", (PriorConfig, PriorTrainConfig)),
    ):
        found, asked = (Settings(command=command, flags={}, preset=name).resolve(*classes) for name in (None, chosen))
        assert found == asked
        train = found.configs[-1]
        assert (train.steps, train.minutes) == ((0, 8.0) if chosen == "tiny" else (50_000, 0.0))


def test_the_flags_of_sample_reach_the_picture_and_its_text(files: Files, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"class": "dog", "temperature": 0.5, "top-k": 9, "top-p": 0.9, "min-p": 0.01}
    asked |= {"guidance": 2.0, "stride": 1, "seed": 7}
    given = [word for name, value in asked.items() for word in (f"--{name}", value)]
    line = ["sample", "--ckpt", files.prior, "--device", "cpu", "-n", 2, "--first", 3, "--size", "16x8", "-o", tmp_path]
    assert taming(*line, *given, "--tokens", tmp_path / "s.h5").code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"000003.png", "000004.png", "grid.png", "s.h5"}
    with Image.open(tmp_path / "000003.png") as drawn:
        assert drawn.size == (16, 8)
        text = json.loads(drawn.text["taming"])  # type: ignore[attr-defined]
    assert {name: text[name.replace("-", "_")] for name in asked} == asked
    assert text["greedy"] is False
    other = ["--greedy", "-o", tmp_path / "greedy", "--class", "dog"]
    assert taming(*line, *other).code == 0
    with Image.open(tmp_path / "greedy" / "000003.png") as drawn:
        assert json.loads(drawn.text["taming"])["greedy"] is True  # type: ignore[attr-defined]


def test_pictures_may_be_folders_files_and_archives(files: Files, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(files.pictures / "0.png", "cats/a.png")
    line = ["tokenize", files.pictures, tmp_path / "more.zip", picture(tmp_path / "alone.png"), "--ckpt", files.codec]
    assert taming(*line, "-o", tmp_path / "t.h5", "--device", "cpu", "--json").json["count"] == 7
    with TokenFile(tmp_path / "t.h5") as held:
        assert held.names()[-2:] == ["more/cats/a.png", "alone.png"]


def test_offline_names_file_source_hash_and_place_and_starts_nothing(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    monkeypatch.delenv("TAMING_WEIGHTS_DIR", raising=False)
    line = ["train-vqgan", files.pictures, *CODEC, "--steps", 1, "--perceptual", "lpips-vgg"]
    for how in (["--offline"], []):
        if not how:
            monkeypatch.setenv("TAMING_OFFLINE", "1")
        said = taming(*line, *how)
        assert said.code == 1
        for part in ("vgg16-397923af.pth", "https://download.pytorch.org", "sha256 397923af", "--weights", "nothing"):
            assert part in said.refusal
    assert list(tmp_path.iterdir()) == []


# --- -v ---------------------------------------------------------------------------------------------------------------


def test_verbose_prints_versions_settings_with_their_origins_devices_and_files(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text("batch_size = 3\nprecision = 'bf16'\nworkers = 1\n")
    monkeypatch.setenv("TAMING_PRECISION", "fp32")
    monkeypatch.setenv("TAMING_WORKERS", "2")
    line = ["reconstruct", files.pictures, tmp_path / "out", "--ckpt", files.codec, "--device", "cpu", "--workers", 0]
    said = taming(*line, "--config", tmp_path / "mine.toml", "-v", "--json")
    assert said.code == 0, said.err
    assert said.json["count"] == 5
    first, *rest = said.err.splitlines()
    assert first.startswith("taming 0.") or first.startswith("taming 1.")
    assert f"torch {torch.__version__.split('+')[0]}" in first
    origins = {line.partition(": ")[0]: line for line in rest if line.startswith("set by ")}
    flagged = set(origins["set by flag"].partition(": ")[2].split(", "))
    assert {f"ckpt {files.codec}", "device cpu", "workers 0"} <= flagged
    assert origins["set by environment"] == "set by environment: precision fp32"
    assert origins["set by config file"] == "set by config file: batch_size 3"
    assert "device: cpu, " in said.err
    assert f"read {files.codec}: a codec" in said.err
    assert f"found 5 pictures in {files.pictures}" in said.err
    assert re.fullmatch(r"took [\d.]+ s and at most [\d.]+ GiB of memory", rest[-1])


def test_without_verbose_none_of_it_is_printed_and_afterwards_neither(files: Files) -> None:
    line = ("reconstruct", files.pictures, files.root / "quiet", "--ckpt", files.codec, "--device", "cpu", "--dry-run")
    assert taming(*line).err == ""
    assert taming(*line, "-v").err != ""
    assert taming(*line).err == ""
    assert (LOG.handlers, LOG.level) == ([], logging.NOTSET)


def test_verbose_prints_each_setting_of_a_training_by_its_origin(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAMING_WARMUP", "7")
    said = taming("train-vqgan", files.pictures, *CODEC, "--steps", 3, "--preset", "small", "--dry-run", "-v")
    assert said.code == 0, said.err
    said_by = [line.removeprefix("set by ") for line in said.err.splitlines() if line.startswith("set by ")]
    lines = [line.partition(": ") for line in said_by]
    said_of = {origin: values for origin, _, values in lines}
    assert lines[-1][0] == "default"
    assert "ch_mult 1," in said_of["flag"]
    assert said_of["environment"] == "warmup 7"
    assert "ema 0.999" in said_of["preset small"]
    assert "beta 0.25" in said_of["default"]


def test_a_training_prints_each_logged_step_with_verbose(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taming_cli.cli.progress.VERBOSE_SECONDS", 0.0)
    said = taming("train-vqgan", files.pictures, *CODEC, "--steps", 12, "--out", tmp_path / "run", "-v")
    lines = [line for line in said.err.splitlines() if line.startswith("training: ")]
    assert len(lines) == 12
    assert re.fullmatch(r"training: 83%  0:\d\d left  step 10  L1 [\d.]+  codes \d+%  [\d.]+ images/s.*", lines[9])
    assert f"wrote {tmp_path / 'run' / 'checkpoints' / 'last.safetensors'}" in said.err


def test_quiet_and_verbose_together_are_refused() -> None:
    said = taming("presets", "ls", "-q", "-v")
    assert said.code == 2
    assert "-q" in said.refusal


def test_of_several_processes_the_first_alone_is_verbose(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "29500")):
        monkeypatch.setenv(name, value)
    assert taming("presets", "ls", "-v").err == ""
    monkeypatch.setenv("RANK", "0")
    assert taming("presets", "ls", "-v").err.startswith("taming ")


def test_what_starts_several_processes_prints_nothing_itself(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taming_cli.cli.commands.train_vqgan.launched", lambda *_: 0)
    assert taming("train-vqgan", files.pictures, "--nproc", 2, "-v") == (0, "", "")


# --- where values come from -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("prcision = 'fp32'", "'precision'"),
        ("precision = 'fp23'", "'fp32'"),
        ("temperature = 1.0", "valid:"),  # which is a setting of another command
        ("workers = 'two'", "'two'"),
        ("batch_size = 0", "at least 1"),
        ("workers = 1.5", "whole number"),
        ("workers = true", "whole number"),
        ("batch_size = ", "mine.toml"),
    ],
)
def test_what_a_config_file_may_not_contain_is_refused(text: str, nearest: str, files: Files, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    line = ("reconstruct", files.pictures, tmp_path / "out", "--ckpt", files.codec, "--device", "cpu")
    said = taming(*line, "--config", tmp_path / "mine.toml")
    assert said.code == 2
    assert nearest in said.refusal
    assert not (tmp_path / "out").exists()


def test_a_config_file_holds_all_settings_of_a_command(files: Files, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("n = 3\ntemperature = 0.5\ndevice = 'cpu'\nprecision = 'bf16'\n")
    line = ("sample", "--ckpt", files.prior, "--config", tmp_path / "mine.toml", "--precision", "fp32")
    said = taming(*line, "--dry-run", "-v", "--json")
    assert said.code == 0, said.err
    assert said.json["count"] == 3
    assert "set by config file: device cpu\n" in said.err
    assert f"set by config file {tmp_path / 'mine.toml'}: temperature 0.5, n 3\n" in said.err


def test_a_presets_settings_do_for_every_command(files: Files, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(taming("presets", "show", "tiny").out)
    line = ("reconstruct", files.pictures, tmp_path / "out", "--ckpt", files.codec, "--device", "cpu", "--dry-run")
    assert taming(*line, "--config", tmp_path / "tiny.toml").code == 0


def test_two_places_for_one_run_are_refused(files: Files, tmp_path: Path) -> None:
    for line in (["train-vqgan", files.pictures, *CODEC, "--steps", 1], ["sample", "--ckpt", files.prior]):
        said = taming(*line, "--out", tmp_path / "a", "--name", "b")
        assert said.code == 2
        assert "--name b" in said.refusal
    assert not (tmp_path / "a").exists()


def test_samples_go_where_a_name_says(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = taming("sample", "--ckpt", files.prior, "--name", "mine", "--device", "cpu", "-q")
    assert (said.code, said.out) == (0, "runs/sample/mine\n")
    assert (tmp_path / "runs/sample/mine/000000.png").exists()


# --- dry runs and parts -----------------------------------------------------------------------------------------------


def using(files: Files) -> dict[str, list[object]]:
    """A command line of each command that has a dry run and is no training; the first word after it is its output."""
    codec, prior = ["--ckpt", files.codec, "--device", "cpu"], ["--ckpt", files.prior, "--device", "cpu"]
    return {
        "tokenize": ["-o", "made", files.pictures, *codec, "--views", 2],
        "reconstruct": ["-o", "made", files.pictures, *codec],
        "decode": [files.tokens, "made", "--device", "cpu"],
        "sample": ["-o", "made", "-n", 5, *prior],
        "annotate edges": ["-o", "made", files.pictures],
    }


@pytest.mark.parametrize("command", ["tokenize", "reconstruct", "decode", "sample", "annotate edges"])
def test_a_dry_run_writes_nothing_and_counts_what_the_command_then_makes(
    command: str, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = [*command.split(), *using(files)[command]]
    said = taming(*line, "--dry-run", "--json")
    assert said.code == 0, said.err
    assert list(tmp_path.iterdir()) == []
    plain, short = taming(*line, "--dry-run"), taming(*line, "--dry-run", "-q")
    assert (plain.code, short.code, short.err) == (0, 0, "")
    assert "made" in plain.out
    count = int(short.out)
    assert count in said.json.values()
    done = taming(*line, "-q")
    assert done.code == 0, done.err
    made = list(Path("made").rglob("*.png")) if Path("made").is_dir() else []
    assert len([path for path in made if path.name != "grid.png"]) in (count, 0)
    assert count == 5


def test_a_dry_run_of_tokenize_reports_what_the_file_then_holds(files: Files, tmp_path: Path) -> None:
    line = ["tokenize", files.pictures, "--ckpt", files.codec, "--device", "cpu", "-o", tmp_path / "t.h5", "--views", 3]
    line += ["--cond", "lowres", "--size", "24x16"]
    planned = taming(*line, "--dry-run", "--json").json
    assert (planned["count"], planned["done"], planned["conditions"]) == (5, False, ["lowres"])
    assert taming(*line).code == 0
    held = taming("info", tmp_path / "t.h5", "--json").json
    assert planned["grid"] == f"{held['width']}x{held['height']}"
    assert (planned["views"], planned["codebook_size"]) == (held["views"], held["codebook_size"])
    assert planned["bytes"] == 2 * 2 * 5 * 3 * held["width"] * held["height"]
    assert taming(*line, "--dry-run", "--json").json["done"]
    refused = taming(*line, "--dry-run", "--views", 1)
    assert refused.code == 2
    assert "other settings" in refused.refusal


def test_a_dry_run_of_sample_counts_what_runs_through_the_network(files: Files) -> None:
    line = ["sample", "--ckpt", files.prior, "--device", "cpu", "-n", 1, "--size", "16x8", "--stride", 1]
    planned = taming(*line, "--dry-run", "--json").json
    assert (planned["grid"], planned["window"], planned["stride"]) == ("8x4", "4x4", 1)
    by_hand = 0  # 8 x 4 cells, the window at clamp(column - 2): one token more where it is that of the cell before
    for row in range(4):
        for column in range(8):
            left = min(max(column - 2, 0), 4)
            shared = column > 0 and min(max(column - 3, 0), 4) == left
            by_hand += 1 if shared else 1 + 4 * row + column - left
    assert planned["tokens"] == by_hand
    assert taming(*line, "--guidance", 2, "--dry-run", "--json").json["tokens"] == 2 * by_hand
    many = taming(*line, "--accept-rate", 0.1, "--dry-run", "--json").json
    assert (many["count"], many["drawn"], many["tokens"]) == (1, 10, 10 * by_hand)


@pytest.mark.parametrize("command", ["reconstruct", "decode"])
def test_parts_are_together_what_one_makes(
    command: str, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = [command, *using(files)[command]]
    assert taming(*line, "-q").code == 0
    whole = {path.name: path.read_bytes() for path in Path("made").rglob("*.png")}
    Path("made").rename("whole")
    counts = [taming(*line, "--shard", f"{part}/3", "--json").json["count"] for part in (1, 2, 3)]
    assert sorted(counts) == [1, 2, 2]
    assert {path.name: path.read_bytes() for path in Path("made").rglob("*.png")} == whole
    dry = [taming(*line, "--shard", f"{part}/3", "--dry-run", "--json").json["count"] for part in (1, 2, 3)]
    assert dry == counts


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("reconstruct x out --workers two", "--workers is 'two'"),
        ("reconstruct x out --batch-size 0", "at least 1"),
        ("tokenize x --views 1.5", "--views is '1.5'"),
        ("demo-data out -n none", "-n is 'none'"),
        ("demo-data out --seed -1", "at least 0"),
        ("demo-data out --size 12by4", "256x256"),
        ("sample --first x", "--first is 'x'"),
        ("train-vqgan x --nproc 0", "--nproc is 0"),
        ("annotate dept x out", "'depth'"),
        ("eval fdi", "'fid'"),
        ("eval fid a b --features vgg61", "'vgg16'"),
        ("eval fid a b --resize cleen", "'clean'"),
        ("eval recon c x --pereptual none", "--perceptual"),
        ("export a -o b --to diffuser", "'diffusers'"),
        ("reconstruct x out --shard 5/4", "1/4"),
        ("tokenize x --shard one", "1/4"),
        ("info", "taming info --help"),
        ("decode t.h5", "taming decode --help"),
        ("blorp", "taming --help"),
        ("presets shwo tiny", "'show'"),
        ("--verson", "--version"),
        ("tokenize x --size", "--size"),
    ],
)
def test_a_refusal_names_the_thing_the_value_and_the_remedy(
    line: str, nearest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = taming(*shlex.split(line))
    assert said.code == 2
    assert nearest in said.refusal
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_condition_is_refused_with_the_nearest(files: Files, tmp_path: Path) -> None:
    line = ["tokenize", files.pictures, "--ckpt", files.codec, "--device", "cpu", "-o", tmp_path / "t.h5"]
    said = taming(*line, "--cond", f"segmentaton={files.pictures}")
    assert said.code == 2
    assert "'segmentation'" in said.refusal


@pytest.mark.parametrize("flag", ["--device", "--precision"])
def test_a_bad_environment_variable_is_refused_like_the_flag(
    flag: str, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TAMING_{flag.removeprefix('--').upper()}", "warp9")
    said = taming("reconstruct", files.pictures, tmp_path / "out", "--ckpt", files.codec)
    assert said.code == 2
    assert "warp9" in said.refusal


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_alone_names_its_help(group: str) -> None:
    said = taming(group)
    assert said.code == 2
    assert f"taming {group} --help" in said.refusal


@pytest.mark.parametrize("flag", ["--install-completion", "--show-completion"])
def test_what_typer_would_bring_along_is_off(flag: str) -> None:
    said = taming(flag)
    assert said.code == 2
    assert flag in said.refusal
    assert not app.pretty_exceptions_enable


# --- results and progress ---------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: object, columns: int = 80, stdout: Any = None, **environment: str) -> tuple[Said, str]:
    """Run the program with stderr, and stdout unless given, on a terminal; what it said by pipe, and what there."""
    master, slave = pty.openpty()
    os.set_inheritable(slave, True)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    given = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    given |= {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **environment}
    command = [python(), "-m", "taming_cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=slave, stdout=stdout or slave, stderr=slave, env=given, text=True)
    os.close(slave)
    seen: list[bytes] = []

    def listen() -> None:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # nobody writes any more
                return
            if not data:
                return
            seen.append(data)

    listener = threading.Thread(target=listen)
    listener.start()
    out, _ = process.communicate(timeout=300)
    listener.join()
    os.close(master)
    return Said(process.returncode, out or "", ""), b"".join(seen).decode()


def shown(terminal: str) -> list[str]:
    """What was written on each line of a terminal, one after the other, without colours."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal)
    return [line for line in re.split(r"[\r\n]+", plain) if line]


def test_a_terminal_sees_a_bar_that_never_wraps_and_what_is_read_elsewhere_does_not(
    files: Files, tmp_path: Path
) -> None:
    line = ["sample", "--ckpt", files.prior, "-n", 70, "--device", "cpu", "--json", "-o", tmp_path / "out"]
    said, terminal = on_a_terminal(*line, stdout=subprocess.PIPE)
    assert said.code == 0, terminal
    assert [json.loads(line)["sample"] for line in said.out.splitlines()] == list(range(70))
    bars = [line for line in shown(terminal) if line.startswith("sampling")]
    assert bars
    assert any(re.search(r"━ +\d+%  .*\d+/1120 cells", bar) for bar in bars), bars[-1]
    assert all(len(bar) < 80 for bar in bars)
    assert '"sample"' not in terminal
    assert terminal.count("\x1b[?25l") == terminal.count("\x1b[?25h") > 0  # the cursor is there again


def test_no_color_takes_the_colours_away(tmp_path: Path) -> None:
    colour = re.compile(r"\x1b\[([0-9;]*;)?(3[0-8]|9[0-7])[;m]")
    for place, (variables, coloured) in enumerate([({}, True), ({"NO_COLOR": "1"}, False)]):
        line = ("demo-data", tmp_path / str(place), "-n", 2, "--size", "32x32")
        _, terminal = on_a_terminal(*line, **variables)
        assert "drawing" in terminal
        assert bool(colour.search(terminal)) is coloured
        _, help_text = on_a_terminal("tokenize", "--help", **variables)
        assert bool(colour.search(help_text)) is coloured


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {}], ids=["a dumb terminal", "quiet"])
def test_no_line_moves_where_it_may_not(variables: dict[str, str], tmp_path: Path) -> None:
    quiet = [] if variables else ["-q"]
    said, terminal = on_a_terminal("demo-data", tmp_path / "d", "-n", 2, "--size", "32x32", *quiet, **variables)
    assert said.code == 0
    assert "\x1b" not in terminal


def test_the_rest_of_a_pipe_that_closes_is_not_complained_of(files: Files, tmp_path: Path) -> None:
    line = ["sample", "--ckpt", files.prior, "-n", 3, "--device", "cpu", "--json", "-o", tmp_path / "out"]
    process = program(*line, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=300), "Traceback" in err, "Error" in err) == (0, False, False), err


# --- signals ----------------------------------------------------------------------------------------------------------


def test_the_first_ctrl_c_reports_what_a_second_does_and_the_second_stops_at_once(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        for _again in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
        raise AssertionError("it went on")

    monkeypatch.setattr(training, "codec_step", stopped)
    said = taming("train-vqgan", files.pictures, *CODEC, "--steps", 5, "--out", tmp_path / "run")
    first, last = said.err.splitlines()
    assert said.code == 130
    assert first.startswith("SIGINT: ")
    assert "a second signal stops at once" in first
    assert last == "taming: stopped"
    assert not (tmp_path / "run" / "trainer.pt").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_with_nothing_to_save_ends_with_a_line(
    number: signal.Signals, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)
        raise AssertionError("it went on")

    monkeypatch.setattr("taming_cli.scenes.folder.write", stopped)
    before = signal.getsignal(signal.SIGTERM)
    assert taming("demo-data", tmp_path / "d") == (code, "", "taming: stopped\n")
    assert signal.getsignal(signal.SIGTERM) == before


def test_term_ends_a_process_that_was_forked_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []

    def forks(*_: object, **__: object) -> Path:
        ready, there = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(there, b".")
            for _attempt in range(600):  # a signal just before a sleep is handled after it
                time.sleep(0.1)
            os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        ended.append(os.waitpid(child, 0)[1])
        return tmp_path

    monkeypatch.setattr("taming_cli.scenes.folder.write", forks)
    assert taming("demo-data", tmp_path / "d").code == 0
    assert os.WTERMSIG(ended[0]) == signal.SIGTERM


# --- the program's start ----------------------------------------------------------------------------------------------


def test_the_installed_executable_and_the_module_are_the_program(tmp_path: Path) -> None:
    executable = shutil.which("taming", path=sysconfig.get_path("scripts"))
    for start in ([sys.executable, "-m", "taming_cli"], *([[executable]] if executable else [])):
        for word, code in (("--version", 0), ("nonsense", 2)):
            done = subprocess.run([*start, word], capture_output=True, text=True, cwd=tmp_path, check=False)
            assert done.returncode == code
            assert (done.stdout or done.stderr).startswith("taming")


def test_help_loads_nothing_that_help_does_not_need(tmp_path: Path) -> None:
    late = ["importlib.metadata", "rich.live", "rich.progress", "tomllib", "torch", "uuid", "taming_cli.runtime.device"]
    late += ["taming_cli.cli.command", "taming_cli.cli.commands.sample"]
    found = []
    for start in ("from taming_cli.cli.app import main\nmain(['--help'])", "import typer, typer.rich_utils"):
        code = f"import sys\n{start}\nprint([name for name in {late} if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
        found.append(done.stdout.splitlines()[-1])
    assert found[0] == found[1]


def test_a_command_imports_no_other_commands_module(tmp_path: Path) -> None:
    code = "import sys\nfrom taming_cli.cli.app import main\nmain(['presets', 'ls', '-q'])\n"
    code += "print(*[name for name in sys.modules if name.startswith('taming_cli.cli.commands.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "taming_cli.cli.commands.presets"


def test_the_program_lists_each_command_in_the_panel_and_with_the_help_of_the_command_itself() -> None:
    listed = {name: (panel, entry.help) for panel, entries in LISTED.items() for name, entry in entries.items()}
    own = {path[0]: command for path, command in COMMANDS.items() if len(path) == 1}
    first = {name: " ".join(command.help.split("\n\n")[0].split()) for name, command in own.items()}
    assert listed == {name: (command.rich_help_panel, first[name]) for name, command in own.items()}
