"""The contract of the command line: help, exit codes, one-line errors, what goes to stdout, and where values come from.

The main job runs once, in toy sizes, through the program itself; most tests look at what it printed and left.
"""

import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import typer
from PIL import Image

from taming_cli.cli.app import app, main
from taming_cli.codec.state import CodecState
from taming_cli.codec.vqgan import codec_from
from taming_cli.config.annotate import DepthConfig, PoseConfig, SegmentationConfig
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.fields import kinds
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.sampling import SampleConfig
from taming_cli.prior.state import PriorState
from taming_cli.runtime.checkpoint import load_model, read_header
from tests.processes import python

CODEC = shlex.split(
    "--ch 32 --ch-mult 1 --num-res-blocks 1 --z-channels 4 --resolution 32 --codebook-size 16 --codebook-dim 4 "
    "--disc-ndf 4 --size 32x32 --batch-size 2 --perceptual none --precision fp32 --device cpu --minutes 0 "
    "--val-every 0.5 --workers 0 --seed 1"
)
PRIOR = shlex.split(
    "--n-layer 1 --n-head 2 --n-embd 16 --window 16x16 --batch-size 2 --precision fp32 --device cpu --minutes 0 "
    "--val-every 0.5 --samples 2 --seed 1 --held 0.3"
)


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        (line,) = self.out.splitlines()
        value = json.loads(line)
        assert isinstance(value, dict)
        return value

    @property
    def refusal(self) -> str:
        """The error, which has to be one line on stderr, with nothing on stdout."""
        assert self.out == ""
        assert self.err.startswith("taming: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        return self.err


def taming(*arguments: object, stdin: Any = None) -> Said:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.stdin
    try:
        sys.stdin = before if stdin is None else stdin
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
    finally:
        sys.stdin = before
    return Said(code, out.getvalue(), err.getvalue())


def program(*arguments: object, cwd: Path, interpreter: str | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start the program as a process of its own, by default a forked one."""
    command = [interpreter or python(), "-m", "taming_cli", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    options["env"] = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, text=True, cwd=cwd, **options)


class House(NamedTuple):
    """What the main job left, and what each command said when asked for JSON."""

    root: Path
    pictures: Path
    codec: Path
    tokens: Path
    prior: Path
    said: dict[str, Said]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("house")
    pictures, tokens = root / "scenes" / "images", root / "t.h5"
    said = {"demo-data": taming("demo-data", root / "scenes", "-n", 6, "--size", "48x40", "--json")}
    said["train-vqgan"] = taming("train-vqgan", pictures, *CODEC, "--steps", 12, "--out", root / "vq", "--json")
    codec = root / "vq" / "checkpoints" / "best.safetensors"
    said["tokenize"] = taming("tokenize", pictures, "--ckpt", codec, "-o", tokens, "--device", "cpu", "--json")
    said["train-prior"] = taming("train-prior", tokens, *PRIOR, "--steps", 12, "--out", root / "prior", "--json")
    prior = root / "prior" / "checkpoints" / "best.safetensors"
    said["sample"] = taming("sample", "-n", 2, "--ckpt", prior, "-o", root / "new", "--device", "cpu", "--json")
    said["reconstruct"] = taming("reconstruct", pictures, root / "rec", "--ckpt", codec, "--device", "cpu", "--json")
    said["decode"] = taming("decode", tokens, root / "dec", "--device", "cpu", "--json")
    said["info"] = taming("info", prior, "--json")
    said["info of tokens"] = taming("info", tokens, "--json")
    said["tokens verify"] = taming("tokens", "verify", tokens, "--json")
    said["presets ls"] = taming("presets", "ls", "--json")
    said["presets show"] = taming("presets", "show", "tiny", "--json")
    return House(root, pictures, codec, tokens, prior, said)


def picture(path: Path, colour: tuple[int, int, int] = (200, 40, 90), size: tuple[int, int] = (40, 36)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group, with its path, from the tree that the program itself uses."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        yield path, command
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*path, name))

    yield from walk(typer.main.get_command(app), ())


COMMANDS = dict(commands())


# --- help and usage ---------------------------------------------------------------------------------------------------


def test_the_commands_of_the_main_job_are_there() -> None:
    wanted = {"train-vqgan", "tokenize", "train-prior", "sample", "reconstruct", "decode", "info", "demo-data"}
    assert {(name,) for name in wanted} | {("tokens", "verify"), ("presets", "show"), ("annotate", "edges")} <= set(
        COMMANDS
    )


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "taming")
def test_help_of_every_command_names_each_of_its_flags(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("COLUMNS", "TERMINAL_WIDTH"):
        monkeypatch.setenv(variable, "240")
    long, short = taming(*path, "--help"), taming(*path, "-h")
    assert (long.code, long.err) == (0, "")
    assert long == short
    assert f"Usage: {' '.join(('taming', *path))}" in long.out
    for parameter in COMMANDS[path].params:
        assert parameter.help, f"{parameter.name} has no help text"
        if parameter.param_type_name == "option":
            assert all(flag in long.out for flag in parameter.opts), parameter.name
    assert "<bool>" not in long.out  # a switch takes nothing
    for name in getattr(COMMANDS[path], "commands", {}):
        assert name in long.out


@pytest.mark.parametrize(
    ("path", "configs"),
    [
        ("train-vqgan", (CodecConfig, DiscriminatorConfig, CodecTrainConfig)),
        ("train-prior", (PriorConfig, PriorTrainConfig)),
        ("sample", (SampleConfig,)),
        *((f"annotate {config.kind}", (config,)) for config in (SegmentationConfig, DepthConfig, PoseConfig)),
    ],
)
def test_every_setting_has_a_flag(path: str, configs: Sequence[type[Any]]) -> None:
    known = {parameter.name for parameter in COMMANDS[tuple(path.split())].params}
    hidden = {
        "in_channels",
        "out_ch",
        "neighbour_features",
        "res_width",
        "attention",
        "out_blocks",
        "map_blocks",
        "map_width",
        "map_kernel",
        "conditions",
        "vocabulary",
        "vocab_size",
        "block_size",
        "order",
        "sos_token",
    }
    settings = {name for config in configs for name in kinds(config)} - hidden
    settings -= {"codebook_size"} if path == "train-prior" else set()
    assert settings <= known


def test_taming_alone_prints_its_usage_on_stderr_and_exits_2() -> None:
    said = taming()
    assert (said.code, said.out) == (2, "")
    assert "Usage: taming" in said.err


@pytest.mark.parametrize("group", ["tokens", "presets", "annotate"])
def test_a_group_alone_is_a_usage_error_that_leaves_stdout_empty(group: str) -> None:
    said = taming(group)
    assert (said.code, said.out) == (2, "")
    assert said.err


def test_version_is_one_line_on_stdout() -> None:
    said = taming("--version")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("taming 0.") or said.out.startswith("taming 1.")
    assert said.out.count("\n") == 1


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("tokenise x", "tokenize"),
        ("tokens verfy x", "verify"),
        ("train-vqgan x --lerning-rate 1", "--learning-rate"),
        ("sample --top-q 3", "--top-p"),
        ("tokenize x --vews 2", "--views"),
        ("train-vqgan x --quantizer emma", "'ema'"),
        ("train-vqgan x --perceptual lpips-vg", "'lpips-vgg'"),
        ("train-vqgan x --preset tinny", "'tiny'"),
        ("train-vqgan x --train decodr", "'decoder'"),
        ("train-vqgan x --precision fp23", "'fp32'"),
        ("train-prior t.h5 --arch modrn", "'modern'"),
        ("presets show smal", "'small'"),
        ("demo-data out --kind figur", "'figure'"),
        ("train-vqgan x --size 12by4", "256x256"),
        ("train-vqgan x --steps 1.5", "--steps"),
        ("train-vqgan x --betas 0.5", "0.5,0.9"),
        ("train-vqgan x --ch 33 --norm-groups 32", "32"),
        ("train-vqgan x --steps -1", "steps"),
        ("sample -n many", " -n"),
        ("train-vqgan", "train-vqgan IMAGES"),
        ("info", "FILE"),
        ("tokenize - x --ckpt c.safetensors", "stdin"),
        ("reconstruct x", "OUT"),
    ],
)
def test_what_is_refused_is_refused_in_one_line_that_names_the_remedy(
    line: str, nearest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "x" / "a.png")
    said = taming(*shlex.split(line))
    assert said.code == 2
    assert nearest in said.refusal
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["tokenize", "reconstruct", "decode", "sample"])
@pytest.mark.parametrize("how", ["flag", "environment"])
def test_an_unknown_precision_is_refused_with_the_nearest_valid_one(
    command: str, how: str, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {
        "tokenize": [house.pictures, "--ckpt", house.codec, "-o", tmp_path / "t.h5"],
        "reconstruct": [house.pictures, tmp_path / "out", "--ckpt", house.codec],
        "decode": [house.tokens, tmp_path / "out"],
        "sample": ["--ckpt", house.prior, "-o", tmp_path / "out"],
    }
    flag: list[object] = ["--precision", "fp23"] if how == "flag" else []
    if how == "environment":
        monkeypatch.setenv("TAMING_PRECISION", "fp23")
    said = taming(command, *inputs[command], *flag)
    assert said.code == 2
    assert "fp32" in said.refusal
    assert "defect" not in said.err


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("lerning_rate = 0.1", "'learning_rate'"),
        ("[train]\nbatchsize = 3", "'batch_size'"),
        ("quantizer = 'emma'", "'ema'"),
        ("batch_size = 'two'", "batch_size"),
        ("batch_size = ", "settings.toml"),
        ("size = '12by4'", "256x256"),
        ("betas = 0.5", "betas"),
        ("flip = 1", "flip"),
    ],
)
def test_what_a_config_file_may_not_contain_is_refused(text: str, nearest: str, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(text)
    said = taming("train-vqgan", picture(tmp_path / "a.png"), "--config", tmp_path / "settings.toml", "--dry-run")
    assert said.code == 2
    assert nearest in said.refusal


def test_a_config_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    said = taming("train-vqgan", picture(tmp_path / "a.png"), "--config", tmp_path / "no.toml", "--dry-run")
    assert said.code == 2
    assert "no.toml" in said.refusal


@pytest.mark.parametrize(
    "flags", [["--train", "decoder"], ["--size", "33x33"], ["--device", "warp"], ["--val", "nowhere"]]
)
def test_a_refused_training_leaves_no_run_behind(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = taming("train-vqgan", picture(tmp_path / "a.png"), *CODEC, "--steps", 2, *flags)
    assert said.code == 2
    assert said.refusal
    assert not (tmp_path / "runs").exists()


def test_pictures_too_small_for_the_discriminator_are_refused_before_training(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "in" / f"{number}.png", (number, 1, 1))
    small = ["--size", "16x16", "--disc-num-layers", 3, "--steps", 2, "--disc-train-start", 0, "--disc-start", 0]
    said = taming("train-vqgan", tmp_path / "in", *CODEC, *small, "--out", tmp_path / "run")
    assert said.code == 2
    assert "disc_num_layers" in said.refusal or "disc-num-layers" in said.refusal


def test_missing_and_damaged_files_fail_with_1_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"not a model")
    (tmp_path / "bad.h5").write_bytes(b"not tokens")
    for name in ("no.safetensors", "bad.safetensors", "bad.h5"):
        said = taming("info", tmp_path / name)
        assert said.code == 1
        assert name in said.refusal


def test_our_own_defects_are_one_line_and_with_debug_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise ValueError("first line\nsecond line")

    monkeypatch.setattr("taming_cli.cli.commands.info._describe", breaks)
    said = taming("info", "x")
    assert said.code == 1
    assert "ValueError: first line second line" in said.refusal
    assert "--debug" in said.err
    with pytest.raises(ValueError, match="first line"):
        taming("info", "x", "--debug")


@pytest.mark.parametrize(("line", "code"), [("info nowhere.h5", 1), ("train-vqgan nowhere --preset tinny", 2)])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(line: str, code: int, tmp_path: Path) -> None:
    process = program(*line.split(), "--debug", cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert "Traceback" in err
    assert out == ""
    assert process.returncode == code


# --- results and everything else --------------------------------------------------------------------------------------


@torch.no_grad()
def _damage(layer: torch.nn.Module) -> None:
    for weight in layer.parameters():
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.ndim)))


def test_a_new_prior_begins_with_the_codebook(house: House) -> None:
    prior, codec = (load_model(path) for path in (house.prior, house.codec))
    entries = codec_from(codec, "codec").quantize.codebook
    table = prior.tensors["prior.tok_emb.weight"][: len(entries)]
    order = torch.cdist(entries, entries).argsort(1)
    alike = torch.cosine_similarity(table[:, None], table[order], dim=2).mean(0)
    assert alike[1] > alike[len(entries) // 2] + 0.1


@pytest.mark.parametrize("what", ["train-vqgan", "train-prior"])
def test_a_training_ends_with_the_figures_of_its_best_model_and_of_its_last(
    what: str, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The networks of which validations are made get worse and worse, so that the best model is not the last."""
    if what == "train-vqgan":
        monkeypatch.setattr(CodecState, "update_average", lambda self, decay: _damage(self.average.decoder.conv_out))
    else:
        true = PriorState.state_dict
        monkeypatch.setattr(PriorState, "state_dict", lambda self: (_damage(self.average.head), true(self))[1])
    inputs = [house.pictures, *CODEC, "--disc-weight", 0] if what == "train-vqgan" else [house.tokens, *PRIOR]
    line = [what, *inputs, "--steps", 8, "--learning-rate", 0]
    said = taming(*line, "--val-every", 0.25, "--out", tmp_path / "run", "--json").json
    figure = {"train-vqgan": "l1", "train-prior": "val_nats_per_token"}[what]
    best, last = (read_header(Path(said[name])).about for name in ("best", "last"))
    assert said[figure] == best["metrics"][figure] < last["metrics"][figure]
    assert (said["best_step"], said["step"]) == (best["step"], last["step"])
    assert (said["best_figures"], said["last_figures"]) == (best["metrics"], last["metrics"])
    again = taming(what, "--resume", "--out", tmp_path / "run").out.splitlines()  # nothing is left to do
    assert again[0] == said["best"]
    assert [each.partition(": ")[0] for each in again[1:]] == [f"best, step {best['step']}", "last, step 8"]
    assert f"{best['metrics'][figure]:#.3g}" in again[1]
    assert f"{last['metrics'][figure]:#.3g}" in again[2]


def test_the_main_job_ends_well_and_names_what_it_made(house: House) -> None:
    assert {name: said.code for name, said in house.said.items()} == dict.fromkeys(house.said, 0)
    assert house.said["demo-data"].json["images"] == str(house.pictures)
    assert house.said["train-vqgan"].json["best"] == str(house.codec)
    assert house.said["train-vqgan"].json["step"] == 12
    assert house.said["train-vqgan"].json["psnr"] > 0
    assert house.said["tokenize"].json == {"path": str(house.tokens), "count": 6, "skipped": {}}
    assert house.said["train-prior"].json["val_nats_per_token"] > 0
    assert house.said["reconstruct"].json["count"] == 6
    assert house.said["decode"].json["count"] == 6
    assert house.said["info"].json["kind"] == "prior"
    assert house.said["info of tokens"].json["kind"] == "token file"
    assert len(list((house.root / "rec").glob("**/*.png"))) == 6


ONE_OBJECT = ("demo-data", "train-vqgan", "tokenize", "train-prior", "reconstruct", "decode", "info", "info of tokens")


@pytest.mark.parametrize("name", [*ONE_OBJECT, "tokens verify", "presets ls", "presets show"])
def test_json_is_one_object_on_stdout(name: str, house: House) -> None:
    assert house.said[name].json


def test_sample_prints_one_json_line_per_picture(house: House) -> None:
    lines = [json.loads(line) for line in house.said["sample"].out.splitlines()]
    assert [line["sample"] for line in lines] == [0, 1]
    assert all(Path(line["path"]).exists() for line in lines)


def test_what_happens_on_the_way_is_printed_on_stderr_only(house: House) -> None:
    assert "held-out" in house.said["train-vqgan"].err
    assert str(house.codec) in house.said["train-prior"].err  # which codec it took
    assert "\x1b" not in "".join(said.err + said.out for said in house.said.values())


def test_quiet_prints_the_path_alone_and_nothing_on_stderr(house: House, tmp_path: Path) -> None:
    asked: dict[Path, list[object]] = {
        house.codec: ["train-vqgan", house.pictures, *CODEC, "--steps", 12, "--out", house.root / "vq"],
        house.tokens: ["tokenize", house.pictures, "--ckpt", house.codec, "-o", house.tokens, "--device", "cpu"],
        house.prior: ["train-prior", house.tokens, *PRIOR, "--steps", 12, "--out", house.root / "prior"],
        tmp_path / "rec": ["reconstruct", house.pictures, tmp_path / "rec", "--ckpt", house.codec, "--device", "cpu"],
        tmp_path / "dec": ["decode", house.tokens, tmp_path / "dec", "--device", "cpu"],
        tmp_path / "new": ["sample", "--ckpt", house.prior, "-o", tmp_path / "new", "--device", "cpu"],
    }
    for path, arguments in asked.items():
        assert taming(*arguments, "-q") == (0, f"{path}\n", ""), arguments[0]


def test_report_writes_a_runs_own_page_or_compares_several(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = house.root / "vq"
    (run / "report.html").unlink()
    assert taming("report", run, "-q") == (0, f"{run / 'report.html'}\n", "")
    assert (run / "report.html").exists()
    assert taming("report", house.root) == (0, "report.html: 1 codec of pictures, 1 prior\n", "")
    said = taming("report", run, house.root / "prior", "--by", "time", "--json").json  # the same runs: written anew
    assert (said["path"], [one["command"] for one in said["runs"]]) == ("report.html", ["train-vqgan", "train-prior"])
    assert said["runs"][0]["figures"]["psnr"] == house.said["train-vqgan"].json["psnr"]
    page = Path("report.html").read_text()
    assert all(title in page for title in ("Codec of pictures", "Prior", "minutes", "scenes/images"))


def test_report_refuses_in_one_line_and_lists_broken_runs(house: House, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("mine")
    for arguments, code, named in (
        ([tmp_path / "nowhere"], 1, "nowhere does not exist"),
        ([house.pictures], 1, "is not a run and contains no readable run"),
        ([house.root, "-o", tmp_path / "mine.html"], 2, "mine.html exists"),
        ([house.root, "--by", "steps"], 2, "'step'"),
        ([], 2, "RUN"),
    ):
        said = taming("report", *arguments)
        assert (said.code, named in said.refusal) == (code, True), said
    assert (tmp_path / "mine.html").read_text() == "mine"
    shutil.copytree(house.root / "vq", tmp_path / "runs" / "a")
    shutil.copytree(house.root / "vq", tmp_path / "runs" / "b")
    (tmp_path / "runs" / "b" / "config.json").write_text("{")
    said = taming("report", tmp_path / "runs", "-q")
    assert (said.code, said.out) == (3, f"{tmp_path / 'runs' / 'a' / 'report.html'}\n")
    assert "b/config.json cannot be read" in said.err


def test_merge_joins_token_files_and_reports_it_in_json(house: House, tmp_path: Path) -> None:
    parts = []
    for name in ("a", "b"):
        picture(tmp_path / name / f"{name}.png")
        parts.append(tmp_path / f"{name}.h5")
        taming("tokenize", tmp_path / name, "--ckpt", house.codec, "-o", parts[-1], "--device", "cpu")
    said = taming("tokens", "merge", *parts, "-o", tmp_path / "ab.h5", "--json")
    assert said.code == 0
    assert said.json == {"path": str(tmp_path / "ab.h5"), "count": 2}


def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "pictures" / "a.png")
    said = taming("train-vqgan", "pictures", *CODEC, "--steps", 7, "--dry-run", "--json")
    assert said.code == 0
    assert (said.json["pictures"], said.json["steps"], said.json["codes_per_picture"]) == (1, 7, 256)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_a_dry_run_estimates_the_time_on_another_device(house: House) -> None:
    line = ("train-prior", house.tokens, "--n-layer", 1, "--n-head", 2, "--n-embd", 32, "--steps", 1000, "--dry-run")

    def on(name: str, precision: str = "auto") -> dict[str, Any]:
        return taming(*line, "--device-name", name, "--precision", precision, "--json").json

    h100, fp32 = on("h100"), on("h100", "fp32")
    read, own = 3.35e12, h100["flops_per_step"] / (0.4 * 989e12)
    assert h100["device_name"] == "h100"
    assert own < h100["seconds_per_step"] < own + 20 * h100["memory_bytes"] / read
    assert h100["hours"] == pytest.approx(1000 * h100["seconds_per_step"] / 3600)
    slower = fp32["flops_per_step"] / (0.4 * 67e12) - own
    assert fp32["seconds_per_step"] - h100["seconds_per_step"] == pytest.approx(slower, rel=1)
    lines = taming(*line, "--device-name", "h100").out
    assert "s on h100;" in lines
    assert "an estimate for one h100, not a measurement: from its published rates, 989 TFLOP/s in bf16" in lines
    refused = {
        ("--device-name", "h1000"): "device name 'h1000' is unknown; did you mean 'h100'",
        ("--scale", "7"): "scale is 7; give 1 (tiny) to 6",
        ("--scale", "1", "--preset", "tiny"): "leave one of them out",
    }
    for flags, message in refused.items():
        assert message in taming(*line, *flags).refusal
    assert "add --dry-run" in taming(*line[:-1], "--device-name", "h100").refusal


def test_a_dry_run_of_a_prior_reckons_and_writes_nothing(house: House, tmp_path: Path) -> None:
    line = ("train-prior", house.tokens, "--n-layer", 3, "--n-head", 2, "--n-embd", 32, "--batch-size", 4, "--steps", 7)
    found = taming(*line, "--out", tmp_path / "run", "--device", "cpu", "--dry-run", "--json").json
    assert not (tmp_path / "run").exists()
    parameters, tokens = found["parameters"], found["tokens_per_step"]
    assert found["flops_per_step"] > 6 * 12 * 3 * 32**2 * tokens  # of the blocks' products alone
    assert found["memory_bytes"] > 4 * 4 * parameters  # weights, average, AdamW's two
    assert (found["steps"], found["exchanged_bytes_per_step"]) == (7, 0)
    assert found["hours"] == pytest.approx(7 * found["seconds_per_step"] / 3600)
    parts = taming(*line, "--accumulate", 4, "--nproc", 2, "--device", "cpu", "--dry-run", "--json").json
    assert parts["memory_bytes"] < found["memory_bytes"]
    assert parts["flops_per_step"] == pytest.approx(found["flops_per_step"], rel=1e-3)  # tables, once for each part
    assert parts["exchanged_bytes_per_step"] == 4 * parameters


@pytest.mark.parametrize("line", ["presets ls", "--help", "--version", "presets show tiny --json"])
def test_a_closed_pipe_is_a_quiet_0(line: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = program(*line.split(), cwd=tmp_path, interpreter=sys.executable, stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")


# --- skipped inputs, signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["tokenize", "reconstruct", "train-vqgan"])
def test_a_broken_picture_is_listed_and_the_exit_code_is_3(command: str, house: House, tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / "in" / f"{number}.png", (number, 50, 90))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    arguments: dict[str, list[object]] = {
        "tokenize": ["--ckpt", house.codec, "-o", tmp_path / "t.h5", "--device", "cpu"],
        "reconstruct": [tmp_path / "out", "--ckpt", house.codec, "--device", "cpu"],
        "train-vqgan": [*CODEC, "--steps", 4, "--out", tmp_path / "run"],
    }
    said = taming(command, tmp_path / "in", *arguments[command], "--json")
    assert said.code == 3
    assert list(said.json["skipped"]) == ["broken.jpg"]
    assert "broken.jpg" in said.err
    assert "1 inputs were skipped" in said.err or "1 input was skipped" in said.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_prints_the_command_that_resumes(
    number: signal.Signals, code: int, house: House, tmp_path: Path
) -> None:
    folder = tmp_path / "a run"  # the space has to survive being printed
    process = program("train-vqgan", house.pictures, *CODEC, "--steps", 5000, "--out", folder, cwd=tmp_path)
    log = folder / "metrics.jsonl"
    until(lambda: log.exists() and log.stat().st_size > 0, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (code, "")
    last = err.splitlines()[-1]
    assert "everything is saved" in last
    assert (folder / "trainer.pt").exists()
    (step,) = {int(word) for word in last.replace(",", " ").split() if word.isdecimal()}
    command = shlex.split(last.partition("resume with: ")[2])
    assert command[0] == "taming"
    resumed = taming(*command[1:], "--steps", step + 3, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["step"] == step + 3


def until(true: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


# --- where values come from -------------------------------------------------------------------------------------------


def test_flag_before_environment_before_config_file_before_preset_before_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        picture(tmp_path / "pictures" / f"{number}.png", (number, 9, 9))
    (tmp_path / "settings.toml").write_text(
        "steps = 11\nbatch_size = 3\nch = 32\nch_mult = [1, 1]\nsize = '32x32'\nz_channels = 4\nperceptual = 'none'\n"
        "workers = 0\n[codec]\ncodebook_size = 8\ncodebook_dim = 4\nnum_res_blocks = 1\n[discriminator]\ndisc_ndf = 4\n"
    )
    monkeypatch.setenv("TAMING_STEPS", "9")
    monkeypatch.setenv("TAMING_BATCH_SIZE", "2")
    monkeypatch.setenv("TAMING_PRESET", "f16-1024")
    flags = ["--steps", "2", "--preset", "small", "--config", "settings.toml", "--precision", "fp32", "--device", "cpu"]
    said = taming("train-vqgan", "pictures", *flags, "--name", "layers", "--json")
    assert said.code == 0, said.err
    written = json.loads((tmp_path / "runs/train-vqgan/layers/config.json").read_text())
    config = {name: value for group in written["config"].values() for name, value in group.items()}
    origins = written["origins"]
    assert (config["steps"], origins["steps"]) == (2, "flag")
    assert (config["batch_size"], origins["batch_size"]) == (2, "environment")
    assert (config["ch_mult"], origins["ch_mult"]) == ([1, 1], "config file settings.toml")
    assert (config["codebook_size"], origins["codebook_size"]) == (8, "config file settings.toml")
    assert (config["warmup"], origins["warmup"]) == (500, "preset small")
    assert (config["held"], origins["held"]) == (CodecTrainConfig(steps=1).held, "default")
    assert set(origins) == set(config)

    again = taming("train-vqgan", "--resume", "--steps", "3", "--json")
    assert again.code == 0, again.err
    assert again.json["step"] == 3
    kept = json.loads((tmp_path / "runs/train-vqgan/layers/config.json").read_text())["origins"]
    assert kept["warmup"] == "preset small"  # a resume does not forget where the values came from


@pytest.mark.parametrize("value", ["yess", "2"])
def test_a_bad_environment_variable_is_named(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAMING_FLIP", value)
    said = taming("train-vqgan", picture(tmp_path / "a.png"), *CODEC, "--steps", 1, "--dry-run")
    assert said.code == 2
    assert "TAMING_FLIP" in said.refusal


def test_sample_takes_its_settings_from_the_environment_too(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAMING_SEED", "77")
    monkeypatch.setenv("TAMING_DEVICE", "cpu")
    said = taming("sample", "--ckpt", house.prior, "-o", tmp_path / "out", "--json")
    assert said.code == 0, said.err
    assert said.json["seed"] == 77


def test_taming_ckpt_replaces_ckpt_and_is_printed(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAMING_CKPT", str(house.codec))
    said = taming("tokenize", picture(tmp_path / "a.png"), "--device", "cpu")
    assert said.code == 0, said.err
    assert str(house.codec) in said.err
    assert (tmp_path / "tokens.h5").exists()


def test_without_ckpt_the_newest_run_is_taken_and_printed(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TAMING_CKPT", raising=False)
    with monkeypatch.context() as without:
        without.setattr("taming_cli.runtime.model_files.path", lambda: tmp_path / "none")
        said = taming("tokenize", picture(tmp_path / "a.png"), "--device", "cpu")
        assert said.code == 2
        assert "--ckpt" in said.refusal
    for age, name in ((100, "new"), (200, "old")):
        path = tmp_path / f"runs/train-vqgan/{name}/checkpoints/best.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(house.codec.read_bytes())
        os.utime(path, (time.time() - age,) * 2)
        settings = {"command": "train-vqgan", "inputs": [], "config": {}}
        (path.parents[1] / "config.json").write_text(json.dumps(settings))
    said = taming("tokenize", picture(tmp_path / "a.png"), "--device", "cpu")
    assert said.code == 0, said.err
    assert "runs/train-vqgan/new/checkpoints/best.safetensors" in said.err


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(("command", "what"), [("train-vqgan", "picture"), ("train-prior", "tokens")])
def test_what_presets_show_prints_is_a_config_file(
    form: str, command: str, what: str, house: House, tmp_path: Path
) -> None:
    shown = taming("presets", "show", "tiny", *(["--json"] if form == "json" else []))
    file = tmp_path / ("tiny.json" if form == "json" else "tiny.toml")
    file.write_text(shown.out)
    inputs = picture(tmp_path / "a.png") if what == "picture" else house.tokens
    toy = [*PRIOR, "--steps", 1, "--out", tmp_path / "run"] if command == "train-prior" else ["--dry-run"]
    said = taming(command, inputs, "--config", file, *toy)
    assert said.code == 0, said.err


def test_a_runs_own_config_serves_as_a_config_file(house: House, tmp_path: Path) -> None:
    said = taming(
        "train-vqgan", house.pictures, "--config", house.root / "vq/config.json", "--out", tmp_path / "run", "--json"
    )
    assert said.code == 0, said.err
    ours = json.loads((tmp_path / "run" / "config.json").read_text())
    theirs = json.loads((house.root / "vq" / "config.json").read_text())
    assert ours["config"] == theirs["config"]


# --- paths on stdin ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def piped(data: bytes) -> Iterator[Any]:
    """A text stream over a real pipe that holds `data`."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with os.fdopen(reading) as stream:
        yield stream


@pytest.mark.parametrize("how", ["-", "a pipe", "a file", "-0"])
def test_tokenize_reads_paths_from_stdin(how: str, house: House, tmp_path: Path) -> None:
    first, second = picture(tmp_path / "cats" / "one two.png"), picture(tmp_path / "dogs" / "b.png", (1, 2, 3))
    paths = [first, second]
    if how == "-0":
        paths.append(picture(tmp_path / "dogs" / "new\nline.png"))
    data = b"".join(os.fsencode(path) + (b"\0" if how == "-0" else b"\n") for path in paths)
    (tmp_path / "list").write_bytes(data)
    named = {"-": ["-"], "-0": ["-0"]}.get(how, [])
    with (tmp_path / "list").open() if how == "a file" else piped(data) as stdin:
        out = tmp_path / "t.h5"
        said = taming("tokenize", *named, "--ckpt", house.codec, "-o", out, "--device", "cpu", "--json", stdin=stdin)
    assert said.code == 0, said.err
    assert said.json["count"] == len(paths)
    from taming_cli.data.tokens.file import TokenFile

    with TokenFile(out) as file:
        assert file.names() == [path.relative_to(tmp_path).as_posix() for path in paths]
        assert file.label_names == ("cats", "dogs")


def test_a_listed_path_that_is_not_there_is_skipped_with_3(house: House, tmp_path: Path) -> None:
    here = picture(tmp_path / "a.png")
    with piped(f"{here}\n{tmp_path / 'gone.png'}\n".encode()) as stdin:
        out = tmp_path / "t.h5"
        said = taming("tokenize", "--ckpt", house.codec, "-o", out, "--device", "cpu", "--json", stdin=stdin)
    assert said.code == 3
    assert list(said.json["skipped"]) == ["gone.png"]


def test_nul_separated_paths_without_0_and_an_empty_list_are_usage_errors(house: House, tmp_path: Path) -> None:
    for data, remedy in ((b"a.png\0b.png\0", "-0"), (b"", "picture")):
        with piped(data) as stdin:
            said = taming("tokenize", "--ckpt", house.codec, "-o", tmp_path / "t.h5", stdin=stdin)
        assert said.code == 2
        assert remedy in said.refusal


def test_inputs_on_the_command_line_win_over_a_pipe(house: House, tmp_path: Path) -> None:
    with piped(b"/nowhere.png\n") as stdin:
        out = tmp_path / "t.h5"
        arguments = ["tokenize", picture(tmp_path / "a.png"), "--ckpt", house.codec, "-o", out, "--device", "cpu"]
        assert taming(*arguments, stdin=stdin).code == 0


def test_at_a_terminal_without_inputs_the_codecs_own_pictures_are_tokenized(house: House, tmp_path: Path) -> None:
    said = taming("tokenize", "--ckpt", house.codec, "-o", tmp_path / "t.h5", "--device", "cpu", "--json")
    assert said.code == 0, said.err
    assert said.json["count"] == 6
    assert str(house.pictures) in said.err
