import base64
import io
import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from taming_cli.config.codec import CodecConfig, CodecTrainConfig, DiscriminatorConfig
from taming_cli.config.fields import to_dict
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.data.images import grid, write_png
from taming_cli.errors import BadFileError
from taming_cli.report.charts import Chart, Line, linear_axis, number, thin, value_axis
from taming_cli.report.page import write_report
from taming_cli.report.pictures import earlier
from taming_cli.report.record import read_run
from taming_cli.report.render import templates
from taming_cli.runtime.checkpoint import ModelFile, save_model
from taming_cli.runtime.run.sheets import LAYOUT, Layout, halves, layout_of, pictures_on, stamp

VOID = {"img", "meta"}


class Tree(HTMLParser):
    """The page as a browser would take it apart: elements with their attributes, and the text; tags must balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + "\n"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(folder: Path) -> Tree:
    return Tree(write_report(folder).read_text(encoding="utf-8"))


def make_run(folder: Path, command: str, lines: list[dict[str, Any]], **about: Any) -> Path:
    groups = (
        {
            "codec": CodecConfig(),
            "discriminator": DiscriminatorConfig(),
            "train": CodecTrainConfig(steps=100, minutes=0),
        }
        if command == "train-vqgan"
        else {"prior": PriorConfig(), "train": PriorTrainConfig(steps=100, minutes=0)}
    )
    config = {name: to_dict(group) for name, group in groups.items()}
    settings = {"command": command, "inputs": ["/pictures"], "config": config, "origins": {"steps": "flag"}}
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "env.json").write_text(json.dumps({"torch": "2.8", "cuda": [], "command_line": ["taming", "a b"]}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if about:
        model = ModelFile(format="taming-x", config={}, about=about, tensors={"x": torch.zeros(1)})
        save_model(folder / "checkpoints" / "last.safetensors", model)
        save_model(folder / "checkpoints" / "best.safetensors", model)
    return folder


def line(kind: str, step: int, **values: float) -> dict[str, Any]:
    return {"kind": kind, "step": step, "images": 8 * step, "seconds": 2.0 * step, **values}


def codec_lines() -> list[dict[str, Any]]:
    lines = [
        line("train", n, l1=1 / n, codebook_perplexity=n, discriminator=1.0, generator=0.5) for n in range(10, 101, 10)
    ]
    figures = [{"psnr": 10 + n / 10, "l1": 1 / n, "codes_used": n / 200, "count": 7} for n in (20, 60, 100)]
    return lines + [line("validation", n, **values) for n, values in zip((20, 60, 100), figures, strict=True)]


def draw_sheet(path: Path, width: int = 16, height: int = 6) -> bytes:
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path.read_bytes()


def draw_samples(path: Path, labels: tuple[str, ...] = (), *, side: int = 8, count: int = 5, seed: int = 0) -> Tensor:
    """A sheet of `count` pictures in two columns, as a training writes it; returns the pictures."""
    pictures = torch.randint(0, 256, (count, 3, side, side), generator=torch.manual_seed(seed), dtype=torch.uint8)
    write_png(path, grid(pictures, columns=2), stamp(Layout(2, count, labels)))
    return pictures


def seen(tree: Tree) -> list[np.ndarray]:
    """The pictures on a page, in order, (H, W, 3)."""
    data = [base64.b64decode((img["src"] or "").removeprefix("data:image/png;base64,")) for img in tree.all("img")]
    return [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in data]


def draw(chart: Chart) -> str:
    """The chart as a page has it."""
    source = '{% from "parts.html" import chart as figure %}{{ figure(chart) }}'
    return templates().from_string(source).render(chart=chart)


def assert_self_contained(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    tree = Tree(text)
    assert not {"script", "link", "iframe", "object", "use", "image"} & {name for name, _ in tree.elements}
    for _, attributes in tree.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


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


def test_samples_whose_sheet_says_nothing_are_shown_as_one_picture(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-prior", [])
    draw_samples(run / "samples" / "step_0000002.png")
    assert [picture.shape for picture in seen(read(run))] == [(28, 18, 3)]


def test_a_sheet_is_taken_apart_into_what_was_put_together(tmp_path: Path) -> None:
    pictures = draw_samples(tmp_path / "a" / "samples" / "step_0000001.png", tuple("abcde"))
    (sheet,) = read_run(tmp_path / "a").sheets
    layout = layout_of(sheet)
    assert layout == Layout(2, 5, tuple("abcde"))
    for piece, picture in zip(pictures_on(sheet, layout), pictures, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(piece.png))), picture.permute(1, 2, 0))
        assert (piece.width, piece.height) == (8, 8)
    upper_and_lower = halves(sheet)  # 28 rows: 13, a gap of 2, 13
    assert [piece.height for piece in upper_and_lower.values()] == [13, 13]


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[]",
        "{}",
        '{"columns": "x"}',
        '{"columns": 0, "count": 5, "labels": []}',
        '{"columns": 2, "count": 5, "labels": ["a"]}',
        '{"columns": 90, "count": 5, "labels": []}',
    ],
)
def test_a_sheet_that_says_what_does_not_fit_it_stays_whole(tmp_path: Path, said: str) -> None:
    path = tmp_path / "samples" / "step_0000001.png"
    write_png(path, torch.zeros(3, 28, 18, dtype=torch.uint8), {LAYOUT: said})
    assert layout_of(read_run(tmp_path).sheets[0]) is None


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
    (chart,) = [figure for figure in re.findall("<figure.*?</figure>", text) if label in figure]
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


def test_a_codec_of_maps_is_said_to_be_good_for_conditions(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-vqgan", codec_lines(), step=100)
    settings = json.loads((run / "config.json").read_text())
    settings["config"]["train"]["kind"] = "depth"
    (run / "config.json").write_text(json.dumps(settings))
    text = read(run).text
    assert f"taming tokenize pictures/ --cond depth=/pictures --cond-ckpt {run}/checkpoints/best.safetensors" in text
    assert "taming reconstruct" not in text


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    evil = '<img src=x onerror="alert(1)">&amp;'
    run = make_run(tmp_path / "<b>'x' & \"y\"", "train-prior", [line("train", 10, **{evil: 1.0})], step=10,
                   label_names=[evil], label_counts=[3])  # fmt: skip
    settings = json.loads((run / "config.json").read_text())
    settings["inputs"] = [evil, "stray \udcff byte"]
    settings["origins"] = {"steps": evil}
    (run / "config.json").write_text(json.dumps(settings))
    tree = read(run)
    assert tree.all("img") == tree.all("b") == []
    assert tree.text.count(evil) >= 4  # data, class, command, origin, chart: as text
    assert "Prior <b>'x' & \"y\"" in tree.text
    assert "stray ? byte" in tree.text


def test_codec_report_says_its_figures_with_units(tmp_path: Path) -> None:
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


def test_every_logged_figure_is_drawn_and_named_for_readers_of_the_screen(tmp_path: Path) -> None:
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


def test_broken_parts_are_passed_over_and_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-vqgan", [line("train", 10, l1=float("nan")), line("train", 20, l1=0.5)])
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('broken\n[1]\n{"kind": "train", "step": 30, "l1": 0.2')
    whole = draw_sheet(run / "samples" / "step_0000010.png")
    (run / "samples" / "step_0000020.png").write_bytes(whole[:-5])
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.safetensors").write_bytes(b"no")
    (run / "env.json").write_text("{")
    record = read_run(run)
    assert record.points("train", "l1") == [(20, 0.5)]
    assert [sheet.step for sheet in record.sheets] == [10]
    named = " ".join(record.notes)
    assert "2 unreadable lines" in named
    assert all(name in named for name in ("step_0000020.png", "last.safetensors", "env.json"))
    assert "2 unreadable lines" in read(run).text


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


def test_thinning_keeps_means_order_and_the_last_point() -> None:
    points = [(float(n), float(n % 2)) for n in range(10_000)]
    few = thin(points, 100)
    assert len(few) == 100
    assert few[-1] == points[-1]
    assert [step for step, _ in few] == sorted(step for step, _ in few)
    assert all(abs(value - 0.5) < 0.02 for _, value in few[:-1])
    assert thin(points[:100], 100) == points[:100]
    for count in range(101, 320):
        assert len(thin(points[:count], 100)) == 100


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 246), (-3e-5, 7e-5), (15.9, 18.1), (1e6, 1.1e6), (0.1, 0.1000001)]
)
def test_ticks_are_few_round_evenly_spaced_and_on_the_axis(low: float, high: float) -> None:
    axis = linear_axis(low, high, 5)
    assert 2 <= len(axis.ticks) <= 6
    assert all(-1e-6 <= axis.place(tick) <= 1 + 1e-6 for tick in axis.ticks)
    step = axis.ticks[1] - axis.ticks[0]
    assert np.allclose(np.diff(axis.ticks), step, rtol=1e-6)
    assert round(step / 10 ** np.floor(np.log10(step) + 1e-6), 3) in (1, 2, 5)


def test_axis_is_logarithmic_only_where_allowed_and_needed() -> None:
    def axis(*values: float, log: bool) -> Any:
        return value_axis(Chart(title="", unit="", lines=[], log=log), values)

    assert axis(0.01, 1, 10, log=True).ticks == pytest.approx([0.01, 0.1, 1, 10])
    assert axis(0.01, 10, log=True).place(10**-0.5) == pytest.approx(0.5)
    assert not axis(0.01, 10, log=False).log
    assert not axis(1, 10, log=True).log
    assert not axis(0, 1000, log=True).log
    assert not axis(3, log=False).place(3) - 0.5


def test_curve_lies_where_its_values_say() -> None:
    chart = Chart(title="t", unit="%", low=0, high=100, lines=[Line(name="a", points=[(0, 0), (50, 25), (100, 100)])])
    tree = Tree(draw(chart))
    assert [path["d"] for path in tree.all("path") if path["class"] == "hue0 strong"] == ["M0 1000L500 750L1000 0"]
    assert [path["class"] for path in tree.all("path") if path["class"] and "dot" in path["class"]] == [
        "dot hue0 strong"
    ]


@pytest.mark.parametrize("ends", [(1.0, 1.001, 0.99, 0.0), (1.0,) * 11])
def test_last_values_do_not_cover_each_other_and_stay_beside_the_plot(ends: tuple[float, ...]) -> None:
    lines = [Line(name=str(n), points=[(0, 0), (9, value)]) for n, value in enumerate(ends)]
    tree = Tree(draw(Chart(title="t", unit="", lines=lines)))
    heights = [
        float((span["style"] or "").removeprefix("bottom:").removesuffix("%"))
        for span in tree.all("span")
        if (span.get("class") or "").startswith("last")
    ]
    assert len(heights) == len(ends)
    assert min(np.diff(sorted(heights))) >= 8.9
    assert -1 <= min(heights) <= max(heights) <= 100


@pytest.mark.parametrize("steps", [9, 95, 1500, 2_000_000])
def test_the_labels_of_the_steps_leave_room_for_their_name(steps: int) -> None:
    chart = Chart(title="t", unit="", lines=[Line(name="a", points=[(0, 0), (steps, 1)])])
    labels = re.findall(r'class="x" style="left:([\d.]+)%">([\d,.e]+)<', draw(chart))
    assert labels[0] == ("0", "0")
    assert all(float(left) + 3.4 / 2 * len(label) < 100 for left, label in labels)


@pytest.mark.parametrize(
    ("value", "text"),
    [(16.1319, "16.13"), (0.65926, "0.659"), (1234.5, "1,234"), (2.134e-5, "2.13e-5"), (0, "0"), (-1.4063, "-1.406")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
