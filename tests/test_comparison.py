"""Several runs on one page: what is drawn, what may be compared, what differs, and what the page may replace."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from taming_cli.errors import BadFileError, TamingError, UsageError
from taming_cli.report.comparable import Ranking, rank
from taming_cli.report.comparison import names, report
from taming_cli.report.page import write_report
from taming_cli.report.record import read_run
from taming_cli.report.render import about_of, render
from tests.pages import Tree, assert_self_contained, codec_lines, draw_samples, line, make_run, seen


def changed(run: Path, **values: Any) -> Path:
    """A run with other settings of its training."""
    settings = json.loads((run / "config.json").read_text())
    settings["config"]["train"] |= values
    (run / "config.json").write_text(json.dumps(settings))
    return run


def codec(folder: Path, psnr: float, **more: Any) -> Path:
    """A codec's run with one validation at step 60, that of its best model; `more` changes its conditions."""
    about = {"step": 60, "size": "128x128", "perceptual": {"name": "net", "sha256": "ab" * 32}}
    data = {"train": 90, "held": 10, "sha256": "1" * 64, "held_sha256": "2" * 64}
    seen = {"psnr": psnr, "l1": psnr / 100, "perceptual": 10 / psnr, "codes_used": 0.5, "count": 7}
    lines = [*codec_lines()[:5], line("validation", 60, **seen)]
    return make_run(folder, "train-vqgan", lines, **(about | {"data": data} | more))


def prior(folder: Path, nats: float, sha256: str = "3" * 64) -> Path:
    lines = [line("validation", 50, val_nats_per_token=nats, windows=9)]
    return make_run(folder, "train-prior", lines, step=50, data={"train": 9, "held": 1, "sha256": sha256})


def compared(tmp_path: Path, runs: Sequence[Path], **options: Any) -> tuple[Tree, str]:
    """The page of these runs as elements, and its text in one line, where notes are in brackets."""
    made = report(runs, out=tmp_path / "page.html", **options)
    assert_self_contained(made.path)
    text = made.path.read_text(encoding="utf-8")
    body = re.sub("<sup>(.*?)</sup>", r" [\1]", text.split("<body>")[1])
    return Tree(text), re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", body))


# --- the charts -------------------------------------------------------------------------------------------------------


def test_every_run_has_its_own_stroke_the_same_in_all_charts_and_in_the_legend(tmp_path: Path) -> None:
    runs = [codec(tmp_path / name, 10 + n) for n, name in enumerate("abc")]
    tree, _ = compared(tmp_path, runs)
    wanted = [{"hue0", "strong"}, {"hue1", "dash1", "strong"}, {"hue2", "dash2", "strong"}]
    charts = re.findall(r"(?s)<svg[^>]*role=.*?</svg>", (tmp_path / "page.html").read_text())
    assert [re.findall('aria-label="(.*?)"', chart)[0] for chart in charts] == [
        "PSNR: a 10, b 11, c 12",
        "L1: a 0.1, b 0.11, c 0.12",
        "Perceptual distance: a 1, b 0.909, c 0.833",
        "Codes in use: a 50, b 50, c 50",
        "Perplexity: a 50, b 50, c 50",
        "Loss: discriminator: a 1, b 1, c 1",
        "Loss: codec: a 0.5, b 0.5, c 0.5",
    ]
    for chart in charts:
        ends = re.findall(r'<path d="[^"]*" class="dot (hue.*?)"', chart)[-3:]
        assert [set(end.split()) for end in ends] == wanted
    swatches = [set((path["class"] or "").split()) for path in tree.all("path") if path["d"] == "M2 4H30"]
    assert swatches[:3] == swatches[3:6] == wanted


def curve(page: str, title: str) -> list[list[float]]:
    """Where the points of each line of a chart lie along it, 0 to 1000."""
    (chart,) = [one for one in re.findall("(?s)<figure.*?</figure>", page) if f"<strong>{title}</strong>" in one]
    lines = re.findall(r'<path d="(M[^"]*)" class="hue', chart)
    return [[float(at) for at in re.findall(r"[ML]([\d.]+) ", drawn)] for drawn in lines]


def test_charts_count_steps_images_or_time(tmp_path: Path) -> None:
    lines = [line("validation", n, psnr=n) for n in (10, 40)]
    runs = [make_run(tmp_path / name, "train-vqgan", lines) for name in "ab"]
    fast = [one | {"images": 2 * one["images"], "seconds": one["seconds"] / 4} for one in lines]
    (runs[1] / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in fast))
    expected: dict[Any, list[list[float]]] = {
        "step": [[250, 1000], [250, 1000]],
        "images": [[125, 500], [250, 1000]],
        "time": [[250, 1000], [62.5, 250]],
    }
    for by, places in expected.items():
        compared(tmp_path, runs, by=by)
        text = (tmp_path / "page.html").read_text()
        assert curve(text, "PSNR") == [pytest.approx(of_run, rel=1e-3) for of_run in places]
        assert f'class="steps">{"minutes" if by == "time" else by}<' in text
    assert "<title>minutes 1.333, a: 40 dB</title>" in text  # of 80 seconds
    compared(tmp_path, runs)
    assert curve((tmp_path / "page.html").read_text(), "PSNR") == [[250, 1000], [250, 1000]]
    changed(runs[1], batch_size=64)
    compared(tmp_path, runs)
    assert curve((tmp_path / "page.html").read_text(), "PSNR")[0] == [125, 500]


# --- what may be compared ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "data", "better", "ranking"),
    [
        ([1, 2, 3], "aaa", "higher", Ranking(frozenset({2}), {})),
        ([1, 2, 1], "aaa", "lower", Ranking(frozenset({0, 2}), {})),
        ([1, 2, None], "aaa", "higher", Ranking(frozenset({1}), {})),
        ([1, 9, 3], "aba", "higher", Ranking(frozenset({2}), {1: "data b, not a"})),
        ([9, 2, 3], "abb", "higher", Ranking(frozenset({2}), {0: "data a, not b"})),
        ([1, 2], "ab", "higher", Ranking(frozenset(), {1: "data b, not a"})),
        ([5], "a", "higher", Ranking(frozenset(), {})),
        ([1, 2], "aa", "", Ranking(frozenset(), {})),
        ([None, None], "ab", "lower", Ranking(frozenset(), {})),
    ],
)
def test_the_best_is_the_best_of_the_comparable_values(
    values: list[float | None], data: str, better: Any, ranking: Ranking
) -> None:
    assert rank(values, [{"data": one} for one in data], better) == ranking


def test_the_best_figure_is_marked_and_has_its_unit(tmp_path: Path) -> None:
    runs = [codec(tmp_path / "a", 20), codec(tmp_path / "b", 25)]
    _, text = compared(tmp_path, runs)
    assert "PSNR dB 20 25 Perceptual distance distance by net 0.5 0.4 Codes in use % of 1,024 50 50" in text
    marked = re.findall("<b>(.*?)</b>", (tmp_path / "page.html").read_text())
    assert marked == ["25", "0.4", "50", "50", "0.2"]
    assert "the best of the comparable values" in text
    assert "under other conditions" not in text


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ({"data": {"sha256": "1" * 64, "held_sha256": "9" * 64}}, "b: other held-out pictures."),
        ({"data": {"sha256": "9" * 64, "held": 10}}, "b: other held-out pictures."),
        ({"size": "256x256"}, "b: size 256x256, not 128x128."),
    ],
)
def test_figures_of_other_pictures_are_noted_and_not_compared(tmp_path: Path, more: dict[str, Any], note: str) -> None:
    runs = [codec(tmp_path / "a", 20), codec(tmp_path / "b", 25, **more), codec(tmp_path / "c", 22)]
    _, text = compared(tmp_path, runs)
    assert "PSNR dB 20 25 [1] 22" in text
    assert f"[1] {note}" in text
    assert re.findall("<b>(.*?)</b>", (tmp_path / "page.html").read_text())[:2] == ["22", "0.455"]


def test_the_same_held_out_pictures_compare_though_more_was_learned_from(tmp_path: Path) -> None:
    more = {"train": 900, "held": 10, "sha256": "9" * 64, "held_sha256": "2" * 64}
    _, text = compared(tmp_path, [codec(tmp_path / "a", 20), codec(tmp_path / "b", 25, data=more)])
    assert "PSNR dB 20 25 Perceptual" in text
    assert "under other conditions" not in text
    assert "sha256 of the data 111111111111 999999999999 " in text


def test_another_perceptual_network_or_codebook_parts_only_what_depends_on_it(tmp_path: Path) -> None:
    runs = [codec(tmp_path / "a", 20), codec(tmp_path / "b", 25), codec(tmp_path / "c", 22)]
    other = codec(tmp_path / "d", 30, perceptual={"name": "lpips", "sha256": "cd" * 32})
    settings = json.loads((other / "config.json").read_text())
    settings["config"]["codec"]["codebook_size"] = 16
    (other / "config.json").write_text(json.dumps(settings))
    _, text = compared(tmp_path, [*runs, other])
    assert "PSNR dB 20 25 22 30 Perceptual distance distance 0.5 0.4 0.455 0.333 [1]" in text
    assert "Codes in use % 50 50 50 50 [2]" in text
    assert "[1] d: network lpips (cdcdcdcd), not net (abababab). [2] d: codebook size 16, not 1024." in text


def test_priors_compare_on_the_same_tokens(tmp_path: Path) -> None:
    runs = [prior(tmp_path / "a", 3.5), prior(tmp_path / "b", 3.25), prior(tmp_path / "c", 3, sha256="4" * 64)]
    _, text = compared(tmp_path, runs)
    assert "nats/token 3.5 3.25 3 [1]" in text
    assert "[1] c: other tokens." in text
    changed(runs[1], held=0.2)
    assert "nats/token 3.5 3.25 [1] 3 [2]" in compared(tmp_path, runs)[1]


def test_without_model_files_the_same_paths_count_as_the_same_data(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, "train-vqgan", codec_lines()) for name in "abc"]
    settings = json.loads((runs[2] / "config.json").read_text())
    (runs[2] / "config.json").write_text(json.dumps(settings | {"inputs": ["/others"]}))
    _, text = compared(tmp_path, runs)
    assert "PSNR dB 20 20 20 [1]" in text


def test_measured_results_compare_where_they_were_taken_alike(tmp_path: Path) -> None:
    def taken(run: Path, value: float, network: str = "lite") -> None:
        protocol = {
            "codec": {"name": str(run), "sha256": run.name * 64},
            "pictures": {"count": 8, "list_sha256": "5" * 64},
            "features": {"name": network, "sha256": "6" * 64, "resize": "tf1"},
            "versions": {"torch": run.name},
        }
        results = {"rfid": {"metric": "rfd", "value": value, "protocol": protocol}}
        results["is"] = {"metric": "is-lite", "value": value, "deviation": 1, "protocol": protocol}
        (run / "eval.json").write_text(json.dumps(results))

    runs = [codec(tmp_path / name, 20) for name in "abcd"]
    for run, value in zip(runs, (7, 5, 3), strict=False):
        taken(run, value, "other" if run.name == "c" else "lite")
    _, text = compared(tmp_path, runs)
    assert "rfd 7 5 3 [1] is-lite 7 5 3 [1] is-lite: deviation 1 1 1 [1]" in text
    assert "[1] c: network other (66666666, tf1), not lite (66666666, tf1)." in text
    assert re.findall("<b>(.*?)</b>", (tmp_path / "page.html").read_text())[-2:] == ["5", "7"]


# --- pictures and differences -----------------------------------------------------------------------------------------


def sheet(run: Path, upper: int, lower: int) -> None:
    """Originals of one grey above reconstructions of another, 6 x 4 each."""
    rows = [np.full((4, 6, 3), upper), np.full((2, 6, 3), 255), np.full((4, 6, 3), lower)]
    Image.fromarray(np.concatenate(rows).astype(np.uint8)).save(run / "samples" / "step_0000060.png")


def test_originals_stand_once_above_the_reconstructions_of_all_that_have_them(tmp_path: Path) -> None:
    runs = [codec(tmp_path / name, 20) for name in "abc"]
    for run, (upper, lower) in zip(runs, ((10, 20), (30, 40), (10, 50)), strict=True):
        sheet(run, upper, lower)
    tree, text = compared(tmp_path, runs)
    assert [picture.shape for picture in seen(tree)] == [(4, 6, 3)] * 5
    assert [int(picture.mean()) for picture in seen(tree)] == [10, 20, 50, 30, 40]
    assert text.count("Originals") == 2


def test_samples_of_the_same_conditions_stand_below_them(tmp_path: Path) -> None:
    runs, labels = [prior(tmp_path / name, 3) for name in "ab"], ("day", "day", "lake", "lake", "wood")
    drawn = [draw_samples(run / "samples" / "step_0000001.png", labels, seed=n) for n, run in enumerate(runs)]
    maps = [draw_samples(run / "samples" / "condition_depth.png", seed=9) for run in runs]
    tree, text = compared(tmp_path, runs)
    for picture, wanted in zip(seen(tree), (*maps[0], *drawn[0], *drawn[1]), strict=True):
        assert np.array_equal(picture, wanted.permute(1, 2, 0))
    assert "Samples day day lake lake wood" in text
    draw_samples(runs[1] / "samples" / "step_0000001.png", ("sea",) * 5)
    tree, text = compared(tmp_path, runs)
    assert len(seen(tree)) == 20
    assert text.count("sea") == 5


def test_old_sheets_are_shown_whole_beside_one_another(tmp_path: Path) -> None:
    runs = [prior(tmp_path / name, 3) for name in "ab"]
    for run in runs:
        draw_samples(run / "samples" / "step_0000001.png")
    assert [picture.shape for picture in seen(compared(tmp_path, runs)[0])] == [(28, 18, 3)] * 2


def test_pictures_stop_before_the_page_grows_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [prior(tmp_path / name, 3) for name in "abc"]
    for run in runs:
        draw_samples(run / "samples" / "step_0000001.png")
    one = (runs[0] / "samples" / "step_0000001.png").stat().st_size
    monkeypatch.setattr("taming_cli.report.pictures.SIDE_BY_SIDE_BYTES", 2 * one)
    tree, text = compared(tmp_path, runs)
    assert len(seen(tree)) == 2
    assert "too large with the pictures of c:" in text


def test_only_what_differs_is_in_the_tables(tmp_path: Path) -> None:
    runs = [changed(codec(tmp_path / "a", 20), learning_rate=0.5), codec(tmp_path / "b", 25)]
    settings = json.loads((runs[1] / "config.json").read_text())
    del settings["config"]["train"]["accumulate"]  # as of before there was such a setting
    (runs[1] / "config.json").write_text(json.dumps(settings))
    environment = json.loads((runs[1] / "env.json").read_text()) | {"torch": "2.9"}
    (runs[1] / "env.json").write_text(json.dumps(environment))
    _, text = compared(tmp_path, runs)
    part = text.split("Settings")[1]
    usual = settings["config"]["train"]["learning_rate"]
    assert part.startswith(f" a b learning_rate 0.5 {usual} ")
    table, folded = part.split("more, the same in all", 1)
    assert "accumulate" not in table
    assert "accumulate 1" in folded
    assert "Environment a b torch 2.8 2.9" in text
    assert "Command lines a taming &#39;a b&#39;" in text


def test_runs_of_several_commands_and_kinds_are_in_groups(tmp_path: Path) -> None:
    runs = [prior(tmp_path / "p", 3), changed(codec(tmp_path / "m", 20), kind="depth"), codec(tmp_path / "c", 20)]
    tree, text = compared(tmp_path, runs)
    assert "3 runs 1 codec of pictures · 1 codec of depth maps · 1 prior" in text
    groups = re.findall('<h2 class="group">(.*?)</h2>', (tmp_path / "page.html").read_text())
    assert groups == ["Codec of pictures", "Codec of depth maps", "Prior"]
    assert tree.text.count("Held-out figures") == 3


def test_names_are_escaped_and_as_short_as_they_can_be(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    runs = [codec(tmp_path / parent / evil, 20) for parent in ("a", "b")]
    tree, _ = compared(tmp_path, runs)
    assert tree.all("img") == []
    assert f"a/{evil}" in tree.text
    assert names([read_run(run) for run in runs]) == [f"a/{evil}", f"b/{evil}"]
    assert names([read_run(runs[0]), read_run(codec(tmp_path / "c" / "other", 20))]) == [evil, "other"]


def test_runs_that_hold_nothing_yet_have_a_page(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, command, []) for name, command in (("a", "train-vqgan"), ("b", "train-prior"))]
    for run in runs:
        (run / "metrics.jsonl").unlink()
    assert "Nothing is logged yet" not in compared(tmp_path, runs)[1]  # it says which runs there are
    assert "Settings" in compared(tmp_path, runs)[1]


# --- the verb ---------------------------------------------------------------------------------------------------------


def test_one_run_gets_its_own_page_again_and_a_copy_at_out(tmp_path: Path) -> None:
    run = codec(tmp_path / "runs" / "a", 20)
    before = write_report(run).read_bytes()
    (run / "report.html").write_text("something else")
    assert report([run]).path == run / "report.html"
    assert (run / "report.html").read_bytes() == before
    copy = report([tmp_path / "runs"], out=tmp_path / "new" / "copy.html").path
    assert about_of(copy) == {"run": "../runs/a"}
    assert report([run], out=copy).path == copy


def test_a_page_is_replaced_only_by_one_that_shows_all_of_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    a, b, c = (codec(tmp_path / "runs" / name, 20) for name in "abc")
    assert report([a, b]).path == Path("report.html")
    assert report([b, c, a]).path == Path("report.html")
    kept = Path("report.html").read_bytes()
    for runs in ([a, b], [a, c]):
        with pytest.raises(UsageError, match=r"report.html exists and is not an earlier page of these runs"):
            report(runs)
    with pytest.raises(UsageError, match="not an earlier page"):
        report([a], out=Path("report.html"))
    assert Path("report.html").read_bytes() == kept
    shutil.move(tmp_path / "runs", tmp_path / "new" / "runs")
    shutil.move("report.html", "new/report.html")
    report([tmp_path / "new" / "runs"], out=Path("new/report.html"))  # it moved with its runs


OTHERS = [
    b"",
    b"mine",
    b"\xff\xfe",
    render("page.html", title="x"),
    *(render("page.html", title="x", about=about) for about in ({"runs": 3}, {})),
]


@pytest.mark.parametrize("other", OTHERS)
def test_other_files_are_not_replaced(tmp_path: Path, other: bytes) -> None:
    runs = [codec(tmp_path / name, 20) for name in "ab"]
    (tmp_path / "page.html").write_bytes(other)
    for chosen in (runs, runs[:1]):
        with pytest.raises(UsageError, match=r"page\.html exists"):
            report(chosen, out=tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == other
    with pytest.raises(UsageError, match="is a folder; name the page"):
        report(runs, out=tmp_path)


def test_a_comparison_does_not_take_the_place_of_a_runs_own_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [codec(tmp_path / name, 20) for name in "ab"]
    write_report(runs[0])
    monkeypatch.chdir(runs[0])
    with pytest.raises(UsageError, match="not an earlier page"):
        report([Path(), Path("../b")])


def test_a_broken_write_leaves_the_earlier_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [codec(tmp_path / name, 20) for name in "ab"]
    before = report(runs, out=tmp_path / "page.html").path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TamingError, match=r"page\.html: cannot be written \(no space left\)"):
        report(runs, out=tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "page.html"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text(""), "is not a folder"),
        (lambda path: path.mkdir(), "is not a run and contains no readable run"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("[]")), "config.json is not a run"),
        (lambda path: (codec(path / "x", 20) / "config.json").write_text("{"), "x/config.json cannot be read"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "it")
    with pytest.raises(BadFileError, match=message):
        report([codec(tmp_path / "good", 20), tmp_path / "it"], out=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_comparison_as_plain_data(tmp_path: Path) -> None:
    runs = [codec(tmp_path / "a", 20), codec(tmp_path / "b", 25), codec(tmp_path / "c", 30, size="64x64")]
    summary = report(runs, out=tmp_path / "page.html").to_dict()
    json.dumps(summary, allow_nan=False)
    assert summary["path"] == str(tmp_path / "page.html")
    assert [run["path"] for run in summary["runs"]] == [str(run) for run in runs]
    assert summary["runs"][1]["figures"] == {"psnr": 25, "l1": 0.25, "perceptual": 0.4, "codes_used": 0.5, "count": 7}
    assert [run["best"] for run in summary["runs"]] == [["codes_used", "l1"], ["psnr", "perceptual", "codes_used"], []]
    assert summary["runs"][2]["unlike"]["psnr"] == "size 64x64, not 128x128"
    assert summary["runs"][0]["best_step"] == summary["runs"][0]["step"] == 60
