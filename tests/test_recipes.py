"""`scripts/recipes`: variants of a codec's training, how differences are judged, and what a second start skips."""

import argparse
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from taming_cli.cli.app import main as taming
from taming_cli.errors import UsageError
from taming_cli.runtime.checkpoint import read_header
from tests.tables import TABLES, load, make_small, refuse_all, run_here, set_call

NAMES = ("at_once", "commands", "comparison", "held_out", "noise", "recipes", "sheet", "variants")
at_once, commands, comparison, held_out, noise, recipes, sheet, variants = load(*NAMES)
FLAGS = ["--minutes", "1", "--size", "32x32", "--jobs", "1", "--samples", "3", "--out", "out"]
pytestmark = pytest.mark.usefixtures("each_distance_once", "small")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve landscapes."""
    folder = tmp_path_factory.mktemp("data")
    assert taming(["demo-data", str(folder), "-n", "12", "--kind", "landscape", "--size", "48x48", "-q"]) == 0
    return folder / "images"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, and trainings of one step."""
    make_small(tmp_path, monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the script sets
    monkeypatch.setenv("TAMING_N_LAYER", "1")
    monkeypatch.setenv("TAMING_N_EMBD", "32")


def request(*words: object) -> Any:
    return recipes.read([*map(str, words), *FLAGS])


# --- the whole ----------------------------------------------------------------------------------------------------


def test_variants_and_priors_are_compared(
    images: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = run_here(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    words = [str(images), *FLAGS, "--variant", "own=--quantizer vq --learning-rate '0.03'", "--seeds", "2"]
    assert recipes.main(words) == 0
    assert os.environ["OMP_NUM_THREADS"] == "1"
    trained = [command for command in ran if command[0] == "train-vqgan"]
    names = ["default", "own"]
    assert [command[command.index("-o") + 1] for command in trained] == [
        f"out/codec-{name}-{seed}" for seed in (0, 1) for name in names
    ]
    for command, flags in zip(trained, [(), ("--quantizer", "vq", "--learning-rate", "0.03")] * 2, strict=True):
        seed = command[command.index("-o") + 1][-1]
        assert command[6:-1] == ["--preset", "tiny", *flags, "--minutes", "1", "--seed", seed]

    found = json.loads(Path("out/recipes.json").read_text())
    assert [row["variant"] for row in found["rows"]] == names
    assert [row["variant"] for row in found["differences"]] == names[1:]
    assert len(found["trainings"]) == 4
    keys = ("psnr", "ssim", "distance", "codes_used", "steps")
    measured = {key: {n: [found["measured"][n][s][key] for s in "01"] for n in names} for key in keys}
    assert len({value for values in measured["psnr"].values() for value in values}) == 4
    for key, values in measured.items():
        for row in found["rows"]:
            own = values[row["variant"]]
            assert row[key] == {"mean": pytest.approx(np.mean(own)), "deviation": pytest.approx(np.std(own, ddof=1))}
        judged = noise.differences(values, "default")
        assert {row["variant"]: row[key] for row in found["differences"]} == {n: vars(judged[n]) for n in names[1:]}
    assert found["measured"]["own"]["1"]["psnr"] == recon("out/codec-own-1", capfd)

    markdown = Path("out/recipes.md").read_text()
    for row in found["rows"]:
        line = next(line for line in markdown.splitlines() if line.startswith(f"| {row['variant']} | "))
        psnr = row["psnr"]
        assert f"| {psnr['mean']:.2f} ± {psnr['deviation']:.2f} |" in line
    assert "fd-efficientnet-lite0" in markdown
    assert "(2 - 1)(2 - 1) = 1 degrees of freedom" in markdown
    assert "Finished seeds: 2 of 2." in markdown
    assert "2 held-out ones" in markdown

    with Image.open("out/recipes.png") as image:
        sheet_of = image.convert("RGB")
    rebuilt = Image.open("out/pictures/own/1.png").convert("RGB")
    left, top = sheet.GAP + 32 + sheet.GAP, sheet.GAP + 2 * (sheet.LINE + 32 + sheet.GAP) + sheet.LINE
    assert sheet_of.crop((left, top, left + 32, top + 32)).tobytes() == rebuilt.tobytes()

    before = Path("out/recipes.png").read_bytes()
    refuse_all(monkeypatch)
    capfd.readouterr()
    assert recipes.main(words) == 0
    printed = capfd.readouterr()
    assert printed.out == markdown == Path("out/recipes.md").read_text()
    assert printed.err.count("== done before: taming ") == 4 * 4 + 2
    assert Path("out/recipes.png").read_bytes() == before

    ran = run_here(monkeypatch)  # priors come later, with another time, here of one seed
    assert recipes.main([*words[:-1], "1", "--priors", "1", "--prior-minutes", "2"]) == 0
    wanted = {"default", min(names, key=lambda name: measured["distance"][name][0])}
    assert [command[0] for command in ran] == ["tokenize", "train-prior", "sample", "eval"] * len(wanted)
    for command in ran[1::4]:
        assert command[command.index("--minutes") + 1] == "2"
        assert command[command.index("-o") + 1][-1] == command[command.index("--seed") + 1] == "0"
    found = json.loads(Path("out/recipes.json").read_text())
    assert {row["variant"] for row in found["priors"]} == wanted
    assert {row["variant"] for row in found.get("prior_differences", [])} == wanted - {"default"}
    for row in found["priors"]:
        own = found["measured_priors"][row["variant"]]["0"]
        assert row["distance"] == {"mean": own["distance"], "deviation": None}
        assert row["codec"]["mean"] == own["codec"] == measured["distance"][row["variant"]][0]
    assert len(list(Path("out/samples-default-0").rglob("*.png"))) >= 3

    ran = run_here(monkeypatch)  # and decoders, of the best codec that has a prior
    assert recipes.main([*words[:-1], "1", "--priors", "1", "--prior-minutes", "2", "--decoder-minutes", "3"]) == 0
    assert [command[0] for command in ran] == ["train-vqgan", "eval", "sample", "eval"] * 3
    found = json.loads(Path("out/recipes.json").read_text())
    assert [row["variant"] for row in found["decoders"]] == ["default", "true", "near", "prior"]
    of = min(wanted, key=lambda name: measured["distance"][name][0])
    before, *trained = (found["measured_decoders"][row["variant"]]["0"] for row in found["decoders"])
    assert before["distance"] == found["measured_priors"][of]["0"]["distance"]
    assert len({row["distance"] for row in (before, *trained)}) == 4
    hashes = {codec_hash(f"out/{name}-{of}-0") for name in ("codec", "decoder-true", "decoder-near", "decoder-prior")}
    assert len(hashes) == 1  # so tokens and priors stay valid
    for command, given in zip(ran[::4], ([], ["--perturb", "0.5"], ["--perturb", "0.5", "--prior"]), strict=True):
        assert command[command.index("decoder") + 1 :][: len(given)] == given
        assert command[command.index("--minutes") + 1] == "3"


def codec_hash(run: str) -> str:
    return str(read_header(Path(run) / "checkpoints/best.safetensors").about["codec_sha256"])


def recon(run: str, capfd: pytest.CaptureFixture[str]) -> float:
    capfd.readouterr()
    model = f"{run}/checkpoints/best.safetensors"
    assert taming(["eval", "recon", model, "out/held/images", "--size", "32x32", "--json"]) == 0
    return float(json.loads(capfd.readouterr().out)["psnr"])


def test_after_a_kill_finished_commands_are_not_run_again(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    ran = run_here(monkeypatch)
    whole = commands._call

    def killed(command: Sequence[str], log: Path | None) -> tuple[int, str]:
        result: tuple[int, str] = whole(command, log)
        if "out/codec-default-0" in command:  # trained, but the log does not say so
            raise KilledError
        return result

    set_call(monkeypatch, killed)
    words = [str(images), *FLAGS, "--variants", "default", "--seeds", "1"]
    with pytest.raises(KilledError):
        recipes.main(words)
    assert [command[0] for command in ran] == ["train-vqgan"]
    first, ran[:] = list(ran), []
    trained = Path("out/codec-default-0/checkpoints/best.safetensors").stat().st_mtime_ns

    set_call(monkeypatch, whole)
    assert recipes.main(words) == 0
    assert ran[0] == first[-1]
    assert [command[:2] for command in ran[1:]] == [
        ["eval", "rfid"],
        ["eval", "recon"],
        ["eval", "codebook"],
        ["reconstruct", "out/shown"],
    ]
    assert Path("out/codec-default-0/checkpoints/best.safetensors").stat().st_mtime_ns == trained
    assert "There is one variant, so nothing is compared." in Path("out/recipes.md").read_text()


def test_flags_of_the_variants_are_those_of_the_command(
    images: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("TAMING_")]:
        monkeypatch.delenv(name)
    asked = request(images)
    assert list(asked.variants) == list(variants.VARIANTS)
    for name in asked.variants:  # settings are checked before the pictures are looked for
        assert taming(["train-vqgan", "nowhere", "--preset", "tiny", *asked.flags(name)]) == 2
        assert capfd.readouterr().err == "taming: nowhere: no such file or folder\n", name
    flags = [text for name, text in variants.VARIANTS.items() if name != "default"]
    assert len(set(flags)) == len(flags)
    assert "" not in flags


# --- noise --------------------------------------------------------------------------------------------------------


def test_with_two_variants_it_is_the_paired_t_test() -> None:
    values = {"default": [1.0, 4.0, 2.5, 3.0], "other": [1.5, 4.1, 3.2, 2.9]}
    found = noise.differences(values, "default")
    test = stats.ttest_rel(values["other"], values["default"])
    low, high = test.confidence_interval(0.95)
    assert list(found) == ["other"]
    assert found["other"].mean == pytest.approx((low + high) / 2)
    assert found["other"].margin == pytest.approx((high - low) / 2)
    assert found["other"].within_noise == (test.pvalue > 0.05) == True  # noqa: E712 - both


def test_noise_is_pooled_over_all_variants_without_their_means_and_those_of_the_seeds() -> None:
    values = np.array([[1.0, 2.0, 4.0], [1.5, 2.4, 4.6], [3.0, 4.2, 5.9], [0.9, 2.2, 4.1]])
    rows, seeds = values.shape
    # by least squares: the first variant and seed are the reference
    design = [[1, *(r == k for k in range(1, rows)), *(s == k for k in range(1, seeds))] for r, s in np.ndindex(4, 3)]
    coefficients, residual, *_ = np.linalg.lstsq(np.array(design, float), values.ravel(), rcond=None)
    margin = 2.446912 * np.sqrt(
        residual[0] / 6 * 2 / 3
    )  # 97.5 % of Student's t with 6 degrees of freedom, from a table
    found = noise.differences(dict(zip("abcd", values.tolist(), strict=True)), "a")
    for number, name in enumerate("bcd", 1):
        assert found[name].mean == pytest.approx(coefficients[number])
        assert found[name].margin == pytest.approx(margin, rel=1e-6)
    assert noise.degrees_of_freedom(rows, seeds) == 6
    assert [found[name].within_noise for name in "bcd"] == [False, False, True]
    moved = {name: np.add(row, [0, 100, -50]).tolist() for name, row in zip("abcd", values, strict=True)}
    assert noise.differences(moved, "a")["b"].margin == pytest.approx(margin)  # a seed's own luck is no noise


def test_nine_of_ten_intervals_of_90_percent_hold_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "CONFIDENCE", 0.9)
    random = np.random.default_rng(0)
    truth = np.array([0.0, 0.3, -1.0])
    hits = 0
    for _ in range(600):
        values = truth[:, None] + random.normal(size=3) + random.normal(size=(3, 3))
        found = noise.differences(dict(zip("abc", values.tolist(), strict=True)), "a")
        hits += abs(found["b"].mean - 0.3) <= found["b"].margin
    assert abs(hits / 600 - 0.9) < 3.5 * np.sqrt(0.09 / 600)


def test_one_seed_says_nothing_about_noise() -> None:
    found = noise.differences({"default": [1.0], "other": [3.0]}, "default")
    assert found == {"other": noise.Difference(2.0, None, None)}
    assert f"{found['other']:.1f}" == "+2.0"
    assert f"{noise.spread([2.0]):.1f}" == "2.0"
    text = report(1).markdown()
    assert "so nothing can be said about noise" in text
    assert "| fsq | -1.00 | " in text
    assert "±" not in text
    assert noise.NOISE not in text


def test_how_spreads_and_differences_read() -> None:
    assert f"{noise.spread([1.0, 3.0]):.2f}" == "2.00 ± 1.41"
    assert f"{noise.Difference(-0.5, 0.25, False):.2f}" == "-0.50 ± 0.25"
    assert f"{noise.Difference(0.0123, 0.0345, True):.1%}" == "+1.2% ± 3.5% (noise)"
    assert f"{noise.Difference(-0.001, 0.01, True):.2f}" == "+0.00 ± 0.01 (noise)"


def report(seeds: int, network: str | None = "efficientnet-lite0", *more: str) -> Any:
    """The table of values that are not measured: of fsq, PSNR is 1 dB lower with each seed, and SSIM is as noisy."""
    training = {"training": "a", "parameters": 1, "steps": 2, "pictures_seen": 3, "minutes": 4.0}

    def row(name: str, seed: int) -> dict[str, Any]:
        of_network = {} if network is None else {"perceptual": 0.5 - seed / 100}
        return {
            "psnr": 20.0 + seed - (name == "fsq"),
            "ssim": 0.5 + 0.1 * (-1) ** (seed + (name == "fsq")),
            **of_network,
            **{"distance": 30.0, "codes_used": 0.5, "steps": 10, "bits_per_pixel": 0.15},
            **{"metric": "rfid", "perceptual_network": network, "training": training},
        }

    values = {name: [row(name, seed) for seed in range(seeds)] for name in ("default", "fsq")}
    asked = recipes.read(["a", "--variants", "fsq", *more])
    parts = held_out.Parts(Path("train"), Path("held"), 0.1, (), (90, 10))
    codecs = comparison.Measured(range(seeds), values, {"vq": "vq-0 has failed"})
    return comparison.table(asked, parts, comparison.Stages(codecs))


def test_the_report_says_what_is_noise_and_how_it_is_known() -> None:
    text = report(3).markdown()
    assert "| fsq | `--quantizer fsq` | 20.00 ± 1.00 | 0.4667 ± 0.1155 | 0.4900 ± 0.0100 | 30.00 ± 0.00 |" in text
    margin = stats.t.ppf(0.975, 2) * stats.sem([-0.2, 0.2, -0.2])
    assert f"| fsq | -1.00 ± 0.00 | -0.0667 ± {margin:.4f} (noise) | +0.0000 ± 0.0000 (noise) | " in text
    assert "(2 - 1)(3 - 1) = 2 degrees of freedom" in text
    assert "- vq is left out: vq-0 has failed." in text
    assert "| perceptual distance (efficientnet-lite0) | RFID | " in text
    assert "Features of efficientnet-lite0 give the perceptual distance and the Frechet distance." in text


def test_the_report_names_what_was_trained_on(tmp_path: Path) -> None:
    weights = tmp_path / "inception.pth"
    weights.touch()
    assert "give the perceptual distance. " in report(2, "efficientnet-lite0", "--weights", str(weights)).markdown()
    assert "give the Frechet distance. " in report(2, "lpips-vgg").markdown()
    assert "efficientnet" not in report(2, None, "--weights", str(weights)).markdown()


# --- which are compared -------------------------------------------------------------------------------------------


def test_default_is_always_compared_and_first() -> None:
    assert list(variants.chosen(None)) == list(variants.VARIANTS)
    assert list(variants.chosen("fsq, vq,fsq")) == ["default", "fsq", "vq"]
    assert variants.chosen(None, ["a=--beta 1"]) == {"default": "", "a": "--beta 1"}
    assert list(variants.chosen("a,lfq", ["a=", "b=--flip"])) == ["default", "a", "lfq", "b"]


def test_the_best_codecs_get_priors_and_the_default() -> None:
    values = {name: [{"distance": d}] for name, d in {"default": 9.0, "a": 3.0, "b": 1.0, "c": 2.0}.items()}
    measured = comparison.Measured([0], values, {})
    assert comparison.best_codecs(measured, 1) == ["default", "b"]
    assert comparison.best_codecs(measured, 2) == ["default", "b", "c"]
    assert comparison.best_codecs(measured, 4) == ["default", "a", "b", "c"]


def test_bad_input_is_one_line(images: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cases: list[tuple[list[object], str]] = [
        ([], "the following arguments are required: IMAGES"),
        (["nowhere"], "nowhere is not a folder"),
        ([images, "--variants", "fsqq"], "no variant is called 'fsqq'; did you mean 'fsq'?"),
        ([images, "--variants", "fsq,,vq"], "no variant is called ''"),
        ([images, "--variant", "a"], "variant 'a' is not NAME=FLAGS"),
        ([images, "--variant", "../a=--flip"], "variant '../a=--flip' is not NAME=FLAGS"),
        ([images, "--variant", "fsq=--flip"], "variant fsq exists already: '--quantizer fsq'"),
        ([images, "--variant", "a=--flip", "--variant", "a="], "variant a exists already: '--flip'"),
        ([images, "--variant", "a=--beta 1 --seed=3"], "variant a sets --seed=3, which is the same for all"),
        ([images, "--variant", "a='"], "variant a: No closing quotation"),
        ([images, "--minutes", "0"], "minutes is 0"),
        ([images, "--prior-minutes", "-1"], "prior-minutes -1"),
        ([images, "--seeds", "0"], "seeds is 0; use at least 1"),
        ([images, "--jobs", "0"], "jobs is 0; use at least 1"),
        ([images, "--samples", "1"], "samples is 1; use at least 2"),
        ([images, "--weights", "none.pth"], "none.pth does not exist"),
        ([images, "--size", "big"], "size 'big' is not WIDTHxHEIGHT"),
    ]
    for words, said in cases:
        assert recipes.main([*map(str, words)]) == 2, words
        printed = capfd.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("recipes: "), printed.err
        assert printed.err.count("\n") == 1, printed.err
        assert said in printed.err


def test_the_entry_point_names_the_flags_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    script = TABLES.parent / "recipes"
    made: list[argparse.ArgumentParser] = []
    read = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda p, words: (made.append(p), read(p, words))[1])
    assert str(request("pictures").images) == "pictures"
    there = {flag for action in made[0]._actions for flag in action.option_strings} - {"-h", "--help"}
    assert {*re.findall(r"\[(--[a-z-]+)", script.read_text())} == there
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert str(recipes.read(["a/photos/"]).out) == "runs/recipes/photos"
    monkeypatch.setattr(sys, "argv", ["recipes.py", "nowhere"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TABLES / "recipes.py"), run_name="__main__")
    assert ended.value.code == 2


# --- failures, and several at once --------------------------------------------------------------------------------


def compared(measure: Callable[[str, int], Any], jobs: int = 1) -> tuple[Any, list[list[int]]]:
    asked = recipes.read(["a", "--variants", "fsq,vq", "--seeds", "2", "--jobs", str(jobs)])
    seeds: list[list[int]] = []
    found = recipes.over_seeds(asked, list(asked.variants), measure, lambda now: seeds.append(list(now.seeds)))
    return found, seeds


def failing(name: str, code: int) -> Callable[[str, int], dict[str, int]]:
    def measure(variant: str, seed: int) -> dict[str, int]:
        calls.append((variant, seed))
        if variant == name:
            raise commands.FailedError(f"{name} has failed", code)
        return {"seed": seed}

    calls: list[tuple[str, int]] = []
    measure.calls = calls  # type: ignore[attr-defined]
    return measure


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_variant_that_fails_is_left_out(jobs: int) -> None:
    measure = failing("fsq", 1)
    found, _ = compared(measure, jobs)
    assert found == ([0, 1], {n: [{"seed": 0}, {"seed": 1}] for n in ("default", "vq")}, {"fsq": "fsq has failed"})
    if jobs == 1:
        wanted = [("default", 0), ("fsq", 0), ("vq", 0), ("default", 1), ("vq", 1)]
        assert measure.calls == wanted  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "code"), [("default", 1), ("fsq", 130), ("fsq", 143)])
def test_an_interruption_and_an_error_of_the_default_end_it(name: str, code: int) -> None:
    for jobs in (1, 2):
        with pytest.raises(commands.FailedError, match="has failed") as raised:
            compared(failing(name, code), jobs)
        assert raised.value.exit_code == code


def test_tables_are_written_when_a_seed_is_finished() -> None:
    _, seeds = compared(lambda name, seed: {})
    assert seeds == [[0], [0, 1]]


def test_as_many_at_once_as_asked() -> None:
    together, most, running = threading.Barrier(3, timeout=10), 0, 0
    lock = threading.Lock()

    def task() -> int:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        together.wait()
        with lock:
            running -= 1
        return 1

    ended: dict[int, int] = {}
    at_once.run_all(dict.fromkeys(range(6), task), 3, ended.__setitem__)
    assert ended == dict.fromkeys(range(6), 1)
    assert most == 3


def test_threads_write_whole_lines_of_one_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"text": "x" * 100_000}
    set_call(monkeypatch, lambda command, log: (0, json.dumps(value) + "\n"))
    several = commands.Commands(tmp_path)
    tasks = {number: partial(several.run, f"n{number}", "info", number) for number in range(24)}
    at_once.run_all(tasks, 8, lambda number, done: None)
    lines = [json.loads(line) for line in (tmp_path / commands.LOG).read_text().splitlines()]
    assert len(lines) == 48
    refuse_all(monkeypatch)
    again = commands.Commands(tmp_path)
    assert [again.run(f"n{number}", "info", number).value for number in range(24)] == [value] * 24


def sleeping(started: Path, number: int) -> tuple[int, str]:
    """A command that says that it runs, and ends upon TERM by code 143, as those of `taming`."""
    code = (
        "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143));"
        f"pathlib.Path({str(started / str(number))!r}).touch(); time.sleep(60)"
    )
    result: tuple[int, str] = commands._call([sys.executable, "-c", code])
    return result


def wait_for(started: Path, count: int) -> None:
    until = time.monotonic() + 30
    while len(list(started.iterdir())) < count:
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("cause", ["signal", "error"])
def test_a_signal_or_an_error_ends_all_commands(cause: str, tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    codes: dict[object, int] = {}

    def task(number: int) -> None:
        codes[number] = sleeping(tmp_path, number)[0]
        raise commands.FailedError("was interrupted", codes[number])

    def cause_it() -> None:
        wait_for(tmp_path, 2)
        if cause == "error":
            raise UsageError("another command")
        os.kill(os.getpid(), signal.SIGTERM)

    tasks: Mapping[object, Callable[[], None]] = {1: partial(task, 1), 2: partial(task, 2), "cause": cause_it}
    tasks = {**tasks, 4: partial(task, 4), 5: partial(task, 5)}
    with pytest.raises(UsageError if cause == "error" else commands.FailedError):
        at_once.run_all(tasks, 3, lambda key, done: None)
    assert {1, 2} <= codes.keys()
    assert set(codes.values()) == {143}  # a fourth may have begun when the third had ended
    if cause == "error":
        assert 5 not in codes
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert commands._call([sys.executable, "-c", "print(1)"]) == (0, "1\n")


def test_the_log_of_a_command_that_fails_is_quoted(tmp_path: Path) -> None:
    several = commands.Commands(tmp_path, logs=True)
    with pytest.raises(commands.FailedError, match=r"a has failed \(exit code 1: taming: nowhere") as raised:
        several.run("a", "info", "nowhere.safetensors")
    assert "\n" not in str(raised.value)
    assert "nowhere" in (tmp_path / "logs" / "a.txt").read_text()
