"""The page of one run: its parts, what is missing or damaged, and what comes from outside."""

import base64
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.errors import BadFileError
from taming_cli.report.page import write_report
from taming_cli.report.pictures import earlier
from taming_cli.report.record import read_run
from tests.pages import Tree, assert_self_contained, codec_lines, draw_samples, draw_sheet, line, make_run, read, seen


def test_page_needs_no_network_and_no_script(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-vqgan", codec_lines(), step=100)
    draw_sheet(run / "samples" / "step_0000100.png")
    assert_self_contained(write_report(run))


def test_samples_have_their_class_below_and_their_map_above(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-prior", [])
    draw_samples(run / "samples" / "step_0000001.png", ("x",) * 5, seed=1)
    drawn = draw_samples(run / "samples" / "step_0000002.png", ("lake", "lake", "night", "night", "wood"))
    maps = draw_samples(run / "samples" / "condition_depth.png", side=16, seed=2)
    tree = read(run)
    shown = seen(tree)
    for n in range(5):
        assert np.array_equal(shown[2 * n], maps[n].permute(1, 2, 0))
        assert np.array_equal(shown[2 * n + 1], drawn[n].permute(1, 2, 0))
    assert len(shown) == 2 * 5 + 1
    assert [alt["alt"] for alt in tree.all("img")][1:10:2] == ["lake", "lake", "night", "night", "wood"]
    assert re.findall(r"lake|night|wood", tree.text) == ["lake", "lake", "night", "night", "wood"]
    assert "the maps it follows" in tree.text


def test_samples_without_a_layout_are_shown_as_one_picture(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-prior", [])
    draw_samples(run / "samples" / "step_0000002.png")
    assert [picture.shape for picture in seen(read(run))] == [(28, 18, 3)]


def test_a_damaged_sheet_leaves_the_rest_of_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-prior", [])
    path = run / "samples" / "step_0000002.png"
    draw_samples(path, tuple("abcde"), side=64)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\0" * 99 + data[-12:])  # begins and ends like a whole one
    assert "Samples" in read(run).text


def test_the_use_of_the_codebook_is_a_curve_that_ends_where_codes_are_unused(tmp_path: Path) -> None:
    lines = [
        line("validation", n, codes_used=0.5) | {"code_use": use} for n, use in ((1, [4, 0, 0, 0]), (2, [3, 1, 0, 0]))
    ]
    tree = read(make_run(tmp_path / "a", "train-vqgan", lines))
    label = "Use by code: step 1 4, step 2 1"
    assert label in [svg["aria-label"] for svg in tree.all("svg")]
    text = (tmp_path / "a" / "report.html").read_text()
    (chart,) = [figure for figure in re.findall("(?s)<figure.*?</figure>", text) if label in figure]
    curves = [path["d"] for path in Tree(chart).all("path") if path["class"] == "hue0 strong"]
    assert [re.findall(r"[ML]([\d.]+)", curve or "") for curve in curves] == [["125", "375"]]


def test_measured_codes_are_drawn_as_a_curve_in_place_of_the_drawing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-vqgan", [])
    counts = {"metric": "codebook", "perplexity": 2.0, "protocol": {}, "details": {"counts": [9, 3, 0, 0]}}
    by_class = {
        "metric": "nats/token",
        "value": 3.5,
        "protocol": {},
        "details": {"by_class": {"easy": 1.0, "hard": 5.0}},
    }
    (run / "eval").mkdir()
    for name in ("codebook", "worst"):
        draw_sheet(run / "eval" / f"{name}.png")
    (run / "eval.json").write_text(json.dumps({"codebook": counts, "nll": by_class}))
    tree = read(run)
    assert [svg["aria-label"] for svg in tree.all("svg")] == ["Use by code: measured 1"]
    assert [image["alt"] for image in tree.all("img")] == ["worst"]
    assert re.sub(r"\s+", " ", tree.text).count("Class Value Unit hard 5 nats/token easy 1 nats/token") == 1


def test_a_codec_of_maps_is_offered_for_conditions(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-vqgan", codec_lines(), step=100)
    settings = json.loads((run / "config.json").read_text())
    settings["config"]["train"]["kind"] = "depth"
    (run / "config.json").write_text(json.dumps(settings))
    text = read(run).text
    assert f"taming tokenize pictures/ --cond depth=/pictures --cond-ckpt {run}/checkpoints/best.safetensors" in text
    assert "taming reconstruct" not in text


def test_a_codebook_size_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-vqgan", codec_lines(), step=100)
    settings = json.loads((run / "config.json").read_text())
    settings["config"]["codec"] = {"codebook_size": "102\u0000"}
    (run / "config.json").write_text(json.dumps(settings))
    assert "Codes in use" in read(run).text


def test_names_from_outside_are_text(tmp_path: Path) -> None:
    evil = "'\"><script>alert(1)</script><img src=x onerror=alert(1)>&amp;{{ 7 * 7 }}"
    name = evil.replace("/", "_")
    run = make_run(tmp_path / name, "train-prior", [line("train", 10, **{evil: 1.0})], step=10,
                   label_names=[evil], label_counts=[3])  # fmt: skip
    settings = json.loads((run / "config.json").read_text())
    settings |= {"inputs": [evil, "stray \udcff byte"], "origins": {"steps": evil}}
    settings["config"]["train"][evil] = evil
    (run / "config.json").write_text(json.dumps(settings))
    draw_samples(run / "samples" / "step_0000002.png", (evil,) * 5)
    draw_samples(run / "samples" / "step_0000003.png", (evil,) * 5)
    (run / "eval").mkdir()
    draw_sheet(run / "eval" / f"{name}.png")
    by_class = {"metric": evil, "value": 3, "details": {"by_class": {evil: 1.0}}, "warnings": [evil]}
    (run / "eval.json").write_text(json.dumps({evil: by_class | {"protocol": {evil: {"count": 3}}}}))
    tree = read(run)
    assert tree.all("script") == tree.all("b") == []
    assert len(tree.all("img")) == 5 + 1 + 1  # samples, the earlier sheet, the drawing
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in tree.all("img"))
    assert {evil, name} < {image["alt"] for image in tree.all("img")}
    assert tree.text.count(evil) >= 14  # inputs, class, setting, origin, chart, samples, results, warning, command
    assert f"Prior {name}" in tree.text
    assert "stray ? byte" in tree.text


def test_figures_have_units(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-vqgan", codec_lines(), step=60, perceptual={"name": "net", "sha256": "ab"})
    text = re.sub(r"\s+", " ", read(run).text)
    assert "100 steps · 800 images · 3 min 20 s · finished" in text
    assert "First, step 20 Best model, step 60 Last, step 100 Unit" in text
    assert "PSNR 12 16 20 dB" in text
    assert "Codes in use 10 30 50 % of 1,024" in text
    assert "Held-out pictures 7 7 7 pictures" in text
    assert f"taming train-vqgan --resume --out {run} --steps 200" in text
    assert f"taming tokenize /pictures --ckpt {run}/checkpoints/best.safetensors -o tokens.h5" in text
    assert "taming 'a b'" in text


def test_bits_per_dim_follow_from_nats_per_token(tmp_path: Path) -> None:
    nats = 3 * 4**2 * np.log(2)  # a code of f = 4 stands for 4 x 4 pixels of 3 values: 1 bit each
    lines = [line("validation", 50, val_nats_per_token=nats, windows=9)]
    run = make_run(tmp_path / "p", "train-prior", lines, step=50, downsample_factor=4, label_names=["big dog"])
    text = re.sub(r"\s+", " ", read(run).text)
    assert "The same, of the codes only 1 bits/dim" in text
    assert "50 % of the training" in text
    assert f"taming sample --class 'big dog' -n 16 --ckpt {run}/checkpoints/best.safetensors" in text


def test_settings_that_differ_come_first_with_their_origin(tmp_path: Path) -> None:
    text = re.sub(r"\s+", " ", read(make_run(tmp_path / "a", "train-vqgan", [])).text)
    default = CodecTrainConfig()
    assert f"Setting Value Default Origin steps 100 {default.steps} flag minutes 0 {default.minutes}" in text
    assert text.index("settings with their default") < text.index("disc_train_start")


def test_unknown_figures_are_drawn_under_their_own_name(tmp_path: Path) -> None:
    tree = read(make_run(tmp_path / "a", "train-vqgan", [line("train", n, novel=n / 7) for n in (10, 20)]))
    assert [svg["aria-label"] for svg in tree.all("svg")] == ["novel: training 2.857"]


def test_every_logged_figure_is_drawn_and_named_for_screen_readers(tmp_path: Path) -> None:
    labels = [svg["aria-label"] for svg in read(make_run(tmp_path / "a", "train-vqgan", codec_lines())).all("svg")]
    assert labels == [
        "PSNR: held-out 20",
        "L1: training 0.01, held-out 0.01",
        "Codes in use: held-out 50",
        "Perplexity: training 100",
        "Loss: discriminator 1, codec 0.5",
    ]


@pytest.mark.parametrize("missing", ["config.json", "env.json", "metrics.jsonl", "samples"])
def test_each_missing_part_leaves_the_rest(tmp_path: Path, missing: str) -> None:
    run = make_run(tmp_path / "a", "train-vqgan", codec_lines())
    draw_sheet(run / "samples" / "step_0000100.png")
    (run / missing).rename(tmp_path / "gone")
    tree = read(run)
    assert bool(tree.all("img")) == (missing != "samples")
    assert bool(tree.all("svg")) == (missing != "metrics.jsonl")
    assert ("Settings" in tree.text) == (missing != "config.json")
    assert ("Environment" in tree.text) == (missing != "env.json")


def test_an_empty_folder_has_a_report_and_no_folder_an_error(tmp_path: Path) -> None:
    assert "Nothing is logged yet." in read(tmp_path).text
    with pytest.raises(BadFileError, match="does not exist"):
        write_report(tmp_path / "nowhere")


def test_pictures_are_the_files_as_they_are_newest_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-prior", [])
    files = [draw_sheet(run / "samples" / f"step_{n:07d}.png", width=10 + n, height=20) for n in range(1, 21)]
    shown = read(run).all("img")
    data = [base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,")) for image in shown]
    assert data == [files[n - 1] for n in (20, 1, 4, 8, 12, 16)]
    assert struct.unpack(">II", data[0][16:24]) == (30, 20)
    assert (shown[0]["width"], shown[0]["height"]) == (str(16 * 30), str(16 * 20))


def test_earlier_sheets_keep_to_their_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-prior", [])
    sizes = [len(draw_sheet(run / "samples" / f"step_{n:07d}.png")) for n in range(1, 9)]
    sheets = read_run(run).sheets
    chosen = earlier(sheets, most=5, limit=3 * max(sizes))
    assert [sheet.step for sheet in chosen] == [1, 3, 5]
    assert earlier(sheets, most=5, limit=min(sizes) - 1) == []
    assert earlier(sheets[:1]) == []


def test_writing_again_replaces_the_report_and_leaves_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-vqgan", [])
    before = {path.name for path in run.iterdir()}
    write_report(run)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(line("train", 70, l1=0.25)) + "\n")
    assert "70 steps" in read(run).text
    assert {path.name for path in run.iterdir()} == before | {"report.html"}
