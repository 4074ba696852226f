"""`taming eval all` and the defaults of `taming eval`, with a toy codec and prior."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taming_cli.cli.app import main
from taming_cli.codec.setup import held_out
from taming_cli.evaluate.defaults import newest_samples, trained_on
from taming_cli.report.record import read_run
from taming_cli.runtime.run.folder import newest
from tests.processes import together
from tests.test_cli import CODEC, PRIOR

pytestmark = pytest.mark.usefixtures("each_distance_once")

LITE = ["--features", "efficientnet-lite0"]
Capture = pytest.CaptureFixture[str]


def run(*line: object) -> None:
    assert main([str(word) for word in line]) == 0


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("house")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(root)
        run("demo-data", "scenes", "-n", 16, "--size", "48x40", "-q")
        run("train-vqgan", "scenes/images", *CODEC, "--steps", 4, "--held", 0.4, "-q")
        run("tokenize", "scenes/images", "-o", "t.h5", "--device", "cpu", "-q")
        run("train-prior", "t.h5", *PRIOR, "--steps", 4, "-q")
        run("sample", "-n", 5, "--device", "cpu", "-q")
    return root


def measured(capsys: Capture, *line: object) -> dict[str, Any]:
    capsys.readouterr()
    run("eval", *line, *LITE, "--device", "cpu", "--json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def numbers(value: Any) -> Iterator[float]:
    """All that are in it, in order."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, float):
        yield value


@pytest.fixture(autouse=True)
def _there(house: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(house)
    monkeypatch.setenv("TAMING_CACHE_DIR", str(tmp_path))


def test_a_codec_is_measured_on_held_out_pictures(capsys: Capture, tmp_path: Path) -> None:
    folder = Path("runs/train-vqgan/001")
    found = measured(capsys, "all", folder, "-o", tmp_path / "out")
    assert sorted(json.loads(each.read_text())["metric"] for each in (tmp_path / "out").glob("*.json")) == sorted(
        each["metric"] for each in found.values()
    )
    assert list(found) == ["recon", "codebook", "rfid"]
    assert found == json.loads((folder / "eval.json").read_text())
    held = read_run(folder).about["data"]["held"]
    assert 1 < held < 16
    assert {each["protocol"]["pictures"]["count"] for each in found.values()} == {held}
    page = (folder / "report.html").read_text()
    assert "<h2>Measured</h2>" in page
    assert "rfd-efficientnet-lite0" in page
    assert sorted(path.name for path in (folder / "eval").iterdir()) == ["best.png", "codebook.png", "worst.png"]


def test_a_codec_is_measured_on_a_single_readable_picture(capsys: Capture) -> None:
    folder = Path("runs/train-vqgan/001")
    damaged = {Path(item.path): Path(item.path).read_bytes() for item in held_out(folder)[1:]}
    try:
        for path in damaged:
            path.write_bytes(b"no picture")
        capsys.readouterr()
        assert main(["eval", "all", str(folder), *LITE, "--device", "cpu", "--json"]) == 3  # some were left out
        output = capsys.readouterr()
        assert list(json.loads(output.out)) == ["recon", "codebook"]
        assert "rfid is left out: 1 of" in output.err
        damaged[Path(held_out(folder)[0].path)] = Path(held_out(folder)[0].path).read_bytes()
        for path in damaged:
            path.write_bytes(b"no picture")
        assert main(["eval", "all", str(folder), *LITE, "--device", "cpu"]) == 2
        assert "0 of" in capsys.readouterr().err
    finally:
        for path, data in damaged.items():
            path.write_bytes(data)


def test_a_prior_is_measured_on_held_out_tokens_and_by_its_newest_samples(capsys: Capture) -> None:
    folder = Path("runs/train-prior/001")
    found = measured(capsys, "all", folder)
    assert list(found) == ["nll", "fid", "prc", "memorization"]
    assert found["fid"]["protocol"]["size"] == "32x32"  # the pictures are cut as the samples are
    assert found["fid"]["protocol"]["generated"]["drawn"]["temperature"] == "0.7:1"
    assert found["nll"]["protocol"]["tokens"]["count"] == read_run(folder).about["data"]["held"]
    assert found["fid"]["protocol"]["generated"]["count"] == 5  # the grid beside them is no sample
    assert found["fid"]["protocol"]["reference"]["count"] == 16
    assert "nats/token" in (folder / "report.html").read_text()


@pytest.mark.parametrize("folder", ["runs/train-vqgan/001", "runs/train-prior/001"])
def test_two_processes_measure_what_one_measures(capsys: Capture, folder: str) -> None:
    alone = measured(capsys, "all", folder)
    of_two = json.loads(together("eval", "all", folder, *LITE, "--device", "cpu", "--json"))
    assert of_two.keys() == alone.keys()
    for name, found in of_two.items():
        assert found["protocol"] == alone[name]["protocol"]
        # 1e-7 in a codec's arithmetic, with other threads, may turn a level of one pixel: 1e-5 in pictures so small
        near = 1e-3 if name in ("recon", "rfid") else 1e-6
        assert list(numbers(found)) == pytest.approx(list(numbers(alone[name])), rel=near)


def test_by_default_the_newest_samples_are_compared_with_the_training_pictures(capsys: Capture) -> None:
    capsys.readouterr()
    run("eval", "fid", *LITE, "--device", "cpu", "--json")
    output = capsys.readouterr()
    assert "generated: runs/sample/001" in output.err
    assert "scenes/images" in output.err
    assert "cropped to 32x32" in output.err
    named = measured(capsys, "fid", "runs/sample/001", "scenes/images", "--size", "32x32")
    assert json.loads(output.out)["value"] == named["value"]


def test_a_prior_is_measured_without_its_training_pictures(house: Path, capsys: Capture) -> None:
    (house / "scenes").rename(house / "gone")
    try:
        capsys.readouterr()
        run("eval", "all", "runs/train-prior/001", *LITE, "--device", "cpu", "--json")
        output = capsys.readouterr()
    finally:
        (house / "gone").rename(house / "scenes")
    assert list(json.loads(output.out)) == ["nll", "memorization"]  # by its tokens
    assert "distances are left out: name the reference" in output.err


def test_the_training_pictures_of_samples_and_tokens_are_found(house: Path) -> None:
    samples, pictures = newest_samples(), house / "scenes" / "images"
    assert trained_on(samples).pictures == pictures
    assert trained_on(Path("t.h5")).pictures == pictures
    assert trained_on(Path("t.h5")).codec == newest("train-vqgan", "best.safetensors").resolve()


def test_an_unknown_reference_must_be_named(capsys: Capture, tmp_path: Path) -> None:
    capsys.readouterr()
    assert main(["eval", "fid", "scenes/images", *LITE]) == 2
    assert "name the reference" in capsys.readouterr().err
    assert main(["eval", "all", str(tmp_path), *LITE]) == 1
    assert "config.json cannot be read" in capsys.readouterr().err
