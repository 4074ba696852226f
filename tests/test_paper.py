"""`scripts/paper`: the tables of the paper on a dozen pictures, what a second run skips, and what is refused."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from taming_cli.cli.app import main as taming
from taming_cli.config.presets import PRESETS
from taming_cli.config.size import Size
from taming_cli.data.sources import list_items
from taming_cli.errors import UsageError
from tests.tables import TABLES, load, make_small, refuse_all, run_here, set_call

FLAGS = ["--minutes", "1", "--size", "32x32", "--n-layer", "1", "--n-embd", "32", "--samples", "3"]
pytestmark = pytest.mark.usefixtures("each_distance_once", "small")

NAMES = ("commands", "figure7", "held_out", "paper", "request", "runs", "sheet", "table1", "table4", "table5")
load("table2")  # which `paper` imports by name
commands, figure7, held_out, paper, request_of, runs, sheet, table1, table4, table5 = load(*NAMES)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve landscapes in two classes, `images`, and their maps, `segmentation`."""
    folder = tmp_path_factory.mktemp("data")
    drawn = folder / "drawn"
    assert taming(["demo-data", str(drawn), "-n", "12", "--kind", "landscape", "--size", "48x48", "-q"]) == 0
    for kind in ("images", "segmentation"):
        for number, path in enumerate(sorted((drawn / kind).rglob("*.png"), key=lambda path: path.name)):
            target = folder / kind / ("lakeside" if number % 2 else "seashore") / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, and trainings of one step."""
    make_small(tmp_path, monkeypatch)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands run in this process. -> Those that ran."""
    return run_here(monkeypatch)


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From this call on, a command that is run fails the test."""
    return lambda: refuse_all(monkeypatch)


def run(table: str, images: Path, *more: str) -> dict[str, Any]:
    """Make a table in `out`, and check that JSON and Markdown agree. -> The JSON."""
    assert paper.main([table, str(images), *FLAGS, "--out", "out", *more]) == 0
    found: dict[str, Any] = json.loads(Path(f"out/{table}.json").read_text())
    _, measured, trainings, published = blocks(Path(f"out/{table}.md").read_text())
    assert published == [list(found["published"]["headings"]), *found["published"]["rows"]]
    for written, kept in ((measured, found["rows"]), (trainings, found["trainings"])):
        assert len(written) == 1 + len(kept)
        for cells, row in zip(written[1:], kept, strict=True):
            for cell, value in zip(cells, row.values(), strict=False):
                assert agrees(cell, value), (cell, value)
    return found


def blocks(markdown: str) -> Iterator[list[list[str]]]:
    """The title, then each table, as cells, without the line below the headings."""
    yield [[markdown.splitlines()[0]]]
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
        yield [lines[0], *lines[2:]]


def agrees(cell: str, value: Any) -> bool:
    if value is None:
        return cell == ""
    if isinstance(value, str):
        return cell == value
    digits = len(cell.rstrip("%").partition(".")[2])
    number = float(cell.rstrip("%").replace(",", "")) / (100 if cell.endswith("%") else 1)
    return abs(number - value) <= 0.51 * 10.0**-digits


# --- the tables ---------------------------------------------------------------------------------------------------


def test_table1_and_again(
    data: Path,
    here: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    nothing_runs: Callable[[], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TAMING_CODEBOOK_SIZE", "32")
    monkeypatch.setenv("TAMING_STEPS", "2")
    found = run("table1", data / "images")
    names = ["transformer", "PixelSNAIL", "any order"]
    assert [row["prior"] for row in found["rows"]] == names
    assert [row["training"] for row in found["trainings"]] == ["codec", *names]
    assert found["equal_steps"] == 2
    for row in found["rows"]:
        points = found["curves"][row["prior"]]
        assert [point["step"] for point in points] == [1, 2]
        assert row["last"] == points[-1]["val_nats_per_token"]
        assert row["at_equal_steps"] == min(point["val_nats_per_token"] for point in points)
    transformer, pixelsnail, _ = (row["parameters"] for row in found["rows"])
    codes = table1.Codes(Size(4, 4), 32)
    assert transformer == table1.count(codes, "modern", 1, 32)
    assert pixelsnail == table1.count(codes, "pixelsnail", 1, table1.pixelsnail_width(codes, 1, 32))

    info = ["info", "out/modern/checkpoints/best.safetensors", "--json"]
    capfd.readouterr()
    assert taming(info) == 0
    assert json.loads(capfd.readouterr().out)["data"].items() >= {"train": 10, "held": 2}.items()

    markdown = Path("out/table1.md").read_text()
    nothing_runs()
    assert run("table1", data / "images") == found
    printed = capfd.readouterr()
    assert printed.out == markdown
    assert printed.err.count("== done before: taming ") == 5

    def copied(command: Sequence[str], log: Path | None) -> tuple[int, str]:
        target = Path(command[command.index("-o") + 1])
        source = Path("out") / target.name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        return 0, "{}\n"

    set_call(monkeypatch, copied)
    other = ["--codec", "out/codec/checkpoints/best.safetensors", "--out", "other"]
    assert paper.main(["table1", str(data / "images"), *FLAGS, *other]) == 0
    with_codec = json.loads(Path("other/table1.json").read_text())
    assert with_codec["rows"] == found["rows"]
    assert [row["training"] for row in with_codec["trainings"]] == names


def test_table2_finds_the_maps_beside_the_pictures(data: Path, here: list[list[str]]) -> None:
    found = run("table2", data / "images")
    assert [(row["pictures"], row["count"]) for row in found["rows"]] == [
        ("samples of held-out maps", 2),
        ("reconstructions", 2),
    ]
    of_maps = next(words for words in here if "--kind" in words)
    assert "--labels" in of_maps
    names = {path.name for path in Path("out/held/segmentation").rglob("*.png")}
    assert names == {path.name for path in Path("out/held/images").rglob("*.png")}
    assert names.isdisjoint(path.name for path in Path("out/train/images").rglob("*.png"))
    assert "fd-efficientnet-lite0" in Path("out/table2.md").read_text()


def test_table4_keeps_the_same_number_at_each_rate(
    data: Path, here: list[list[str]], monkeypatch: pytest.MonkeyPatch, nothing_runs: Callable[[], None]
) -> None:
    monkeypatch.setattr(table4, "RATES", (1.0, 0.5))
    found = run("table4", data / "images")
    *drawn, held = found["rows"]
    assert [(row["pictures"], row["count"]) for row in drawn] == [("acceptance rate 1", 3), ("acceptance rate 0.5", 3)]
    assert held["count"] == 2
    assert held["distance"] is None
    assert all(0 <= row["agreement"] <= 1 for row in found["rows"])
    nothing_runs()
    assert run("table4", data / "images") == found


def test_agreement_is_among_the_classes_of_the_pictures(data: Path) -> None:
    judge = table4.Judge(table4.build("efficientnet-lite0"), {"lakeside": 975, "seashore": 978})
    path = next((data / "images").rglob("*.png"))
    both = [table4.agreement(judge, [table4.Labelled(path, label)]) for label in judge.classes]
    assert sorted(both) == [0, 1]
    same = table4.Judge(judge.classifier, {"lakeside": 975, "seashore": 975})
    assert table4.agreement(same, [table4.Labelled(path, "lakeside")]) == 1


def test_table5_measures_codecs_of_each_kind(
    data: Path, here: list[list[str]], monkeypatch: pytest.MonkeyPatch, nothing_runs: Callable[[], None]
) -> None:
    monkeypatch.delitem(table5.CODECS, "VQ-VAE")  # here the same as the VQGAN
    found = run("table5", data / "images")
    assert [row["codec"] for row in found["rows"]] == ["VQGAN", "dVAE", "VQ-VAE-2"]
    assert [("top_codes_used" in row) for row in found["rows"]] == [False, False, True]
    nothing_runs()
    assert run("table5", data / "images") == found


def test_figure7_draws_a_column_for_each_f(data: Path, here: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    codecs = {f: figure7.CODECS[f] for f in (1, 16)}
    if "palette" not in PRESETS:
        codecs[1] = ("--ch-mult", "1")
    monkeypatch.setattr(figure7, "CODECS", codecs)
    found = run("figure7", data / "images")
    assert [(row["f"], row["codes"]) for row in found["rows"]] == [(1, "32 x 32"), (16, "2 x 2")]
    assert found["rows"][0]["times_as_fast"] == 1
    assert len({row["parameters"] for row in found["trainings"] if "prior" in row["training"]}) <= 2
    svg = ElementTree.parse("out/figure7.svg").getroot()
    images = svg.findall("{*}image")
    assert len({image.get("x") for image in images}) == 2
    assert len(images) == 6
    assert all((image.get("href") or "").startswith("data:image/png;base64,") for image in images)
    text = " ".join(element.text or "" for element in svg.findall("{*}text"))
    assert "f = 16, 2 x 2 codes" in text
    assert text.count("s per picture") == 2


# --- its parts ----------------------------------------------------------------------------------------------------


def test_nats_between_two_validations() -> None:
    points = [runs.Point(10, 5.0, 4.0), runs.Point(20, 9.0, 3.0), runs.Point(30, 9.0, 2.0)]
    assert runs.at(points, 15, "step") == 3.5
    assert runs.at(points, 6.0, "seconds") == 3.75
    assert runs.at(points, 30, "step") == 2
    assert runs.at(points, 31, "step") == 2
    assert runs.at(points, 9, "step") is None
    assert runs.at([], 9, "step") is None


def test_the_lowest_nats_until_then() -> None:
    points = [runs.Point(10, 5.0, 4.0), runs.Point(20, 9.0, 2.0), runs.Point(30, 12.0, 3.0)]
    assert [runs.lowest(points, step, "step") for step in (9, 10, 15, 20, 25, 30)] == [None, 4, 3, 2, 2, 2]
    assert runs.lowest(points, 6.0, "seconds") == 3.5


@pytest.mark.parametrize("width", [32, 64])
def test_no_other_width_is_nearer(width: int) -> None:
    codes = table1.Codes(Size(8, 8), 64)
    wanted = table1.count(codes, "modern", 2, width)
    errors = {each: abs(table1.count(codes, "pixelsnail", 2, each) - wanted) for each in range(8, 65, 8)}
    assert table1.pixelsnail_width(codes, 2, width) == min(errors, key=lambda each: errors[each])


def test_a_prior_of_the_training_pictures_holds_out_its_usual_share(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    for number in range(400):
        (tmp_path / "all" / f"{number}.png").touch()
    parts = held_out.split(tmp_path / "all", tmp_path / "out")
    names = [item.name for item in list_items([parts.train / "images"]).items]
    flag, share = parts.held_of_training
    held = [name for name in names if held_out._key(name) < float(share) * 2**64]
    assert (flag, len(names)) == ("--held", 360)
    assert 0.03 < len(held) / len(names) < 0.07


def test_the_split_is_that_of_the_priors_and_does_not_move(data: Path) -> None:
    parts = held_out.split(data / "images", Path("out"), data / "segmentation")
    assert parts.counts == (10, 2)
    assert parts.labels == ("lakeside", "seashore")
    names = [path.relative_to(data / "images").as_posix() for path in (data / "images").rglob("*.png")]
    keys = {hashlib.blake2b(name.encode(), digest_size=8).digest(): name for name in names}
    held = sorted(path.relative_to("out/held/images").as_posix() for path in Path("out/held/images").rglob("*.png"))
    assert held == sorted(keys[key] for key in sorted(keys)[:2])
    below = [key for key in keys if int.from_bytes(key, "big") < parts.fraction * 2**64]
    assert len(below) == 2
    assert held_out.split(data / "images", Path("out"), data / "segmentation") == parts
    with pytest.raises(UsageError, match="made from other pictures or maps; use another --out"):
        held_out.split(data / "images", Path("out"))


def test_labels_are_those_of_all_maps(tmp_path: Path) -> None:
    for number, values in enumerate(([0, 3], [1, 255])):
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / f"{number}.png")
    assert held_out.label_flags(tmp_path) == ["--labels", "5", "--unlabelled"]
    (tmp_path / "1.png").unlink()
    assert held_out.label_flags(tmp_path) == ["--labels", "4"]
    Image.new("RGB", (2, 2)).save(tmp_path / "2.png")
    assert held_out.label_flags(tmp_path) == []


def test_a_finished_command_is_not_run_again_nor_another_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_runs: Callable[[], None]
) -> None:
    set_call(monkeypatch, lambda command, log: (0, '{"path": "a", "details": [1]}\n'))
    done = commands.Commands(tmp_path).run("a", "info", tmp_path)
    assert done.value == {"path": "a"}
    with (tmp_path / commands.LOG).open("a") as log:
        log.write('{"name": "b", "comm')  # the machine stopped here
    nothing_runs()
    again = commands.Commands(tmp_path)
    assert again.run("a", "info", tmp_path) == done
    assert again.to_dict() == {"a": f"taming info {tmp_path}"}
    with pytest.raises(UsageError, match="holds a by another command, `taming info"):
        again.run("a", "info", "other")
    assert again.keep("c", lambda: {"value": 1}) == {"value": 1}
    assert commands.Commands(tmp_path).keep("c", lambda: {"value": 2}) == {"value": 1}


@pytest.mark.parametrize(("code", "said"), [(2, r"a has failed \(exit code 2\)"), (130, "a was interrupted")])
def test_a_failed_command_is_run_again_without_its_time(
    code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_call(monkeypatch, lambda command, log: (code, ""))
    with pytest.raises(commands.FailedError, match=said) as raised:
        commands.Commands(tmp_path).run("a", "info")
    assert raised.value.exit_code == code
    set_call(monkeypatch, lambda command, log: (3, "{}\n"))
    assert commands.Commands(tmp_path).run("a", "info").seconds is None


def test_a_command_is_a_process_whose_json_comes_back(tmp_path: Path) -> None:
    done = commands.Commands(tmp_path / "new").run("presets", "presets", "ls")
    assert done.seconds > 0
    assert "tiny" in json.dumps(done.values)


def test_a_signal_reaches_the_command_and_its_code_comes_back() -> None:
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    before = signal.getsignal(signal.SIGTERM)
    assert commands._call([sys.executable, "-c", code]) == (143, "")
    assert signal.getsignal(signal.SIGTERM) is before


# --- what is refused ----------------------------------------------------------------------------------------------


def test_bad_input_is_one_line(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few, flat = tmp_path / "few", tmp_path / "flat"
    few.mkdir()
    flat.mkdir()
    for number, path in enumerate(sorted((data / "images").rglob("*.png"))):
        shutil.copy(path, flat)
        if number < 3:
            shutil.copy(path, few)
    maps = tmp_path / "maps"
    shutil.copytree(data / "segmentation", maps)
    next(maps.rglob("*.png")).unlink()
    images = data / "images"
    cases: list[tuple[list[object], str]] = [
        ([], "the following arguments are required: TABLE, IMAGES"),
        (["table3", images], "'table3' is none of table1, table2, table4, table5, figure7"),
        (["table1", "nowhere"], "nowhere is not a folder"),
        (["table1", few], f"{few} has 3 pictures; at least 8 are needed"),
        (["table1", images, "--codec", "none.safetensors"], "none.safetensors does not exist"),
        (["table1", images, "--minutes", "0"], "minutes is 0"),
        (["table1", images, "--minutes", "soon"], "invalid float value: 'soon'"),
        (["table1", images, "--size", "big"], "size 'big' is not WIDTHxHEIGHT"),
        (["table2", flat], f"table2 needs label maps of {flat}: give --segmentation FOLDER"),
        (["table2", images, "--segmentation", "nowhere"], "nowhere is not a folder"),
        (["table2", images, "--segmentation", maps], f"1 of 12 pictures have no map in {maps}; the first is "),
        (["table4", flat], f"table4 needs classes: put the pictures of {flat} into a folder for each class"),
        (["table4", images, "--classifier", "none"], "no classifier is called 'none'"),
        (["figure7", images, "--size", "40x40"], "size is 40x40; figure7 needs multiples of 16"),
    ]
    for number, (words, said) in enumerate(cases):
        out = ["--out", f"out-{number}"] if words else []
        assert paper.main([*map(str, words), *out]) == 2, words
        printed = capfd.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("paper: "), printed.err
        assert printed.err.count("\n") == 1, printed.err
        assert said in printed.err


def test_the_entry_point_names_the_tables_that_there_are() -> None:
    text = (TABLES.parent / "paper").read_text()
    assert "|".join(paper.TABLES) in text
    assert subprocess.run(["bash", "-n", TABLES.parent / "paper"], check=False).returncode == 0
    assert {path.stem for path in TABLES.glob("table[0-9].py")} < set(paper.TABLES)
    assert sheet.svg([sheet.Strip([], ["a < b"])], Size(2, 2)).count("a &lt; b") == 1
    assert request_of.Request(
        table="table5", images=Path("a"), minutes=0.5, size=Size(2, 2), out=Path("b"), weights=Path("w.pth")
    ).features == ["--features", "inception-v3-compat", "--weights", "w.pth"]
