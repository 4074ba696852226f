import base64
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

from taming_cli.config.codec import CodecConfig, CodecTrainConfig, CriticConfig
from taming_cli.config.fields import to_dict
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.errors import BadFileError
from taming_cli.runtime.charts import Chart, Line, draw, linear_axis, number, thin, value_axis
from taming_cli.runtime.checkpoint import ModelFile, save_model
from taming_cli.runtime.page import Html, el, page
from taming_cli.runtime.record import read_run
from taming_cli.runtime.report import earlier, write_report

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
        {"codec": CodecConfig(), "critic": CriticConfig(), "train": CodecTrainConfig(steps=100, minutes=0)}
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
    lines = [line("train", n, l1=1 / n, codebook_perplexity=n, critic=1.0, generator=0.5) for n in range(10, 101, 10)]
    figures = [{"psnr": 10 + n / 10, "l1": 1 / n, "codes_used": n / 200, "count": 7} for n in (20, 60, 100)]
    return lines + [line("validation", n, **values) for n, values in zip((20, 60, 100), figures, strict=True)]


def draw_sheet(path: Path, width: int = 16, height: int = 6) -> bytes:
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path.read_bytes()


def test_page_needs_no_network_and_no_script(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-vqgan", codec_lines(), step=100)
    draw_sheet(run / "samples" / "step_0000100.png")
    tree = read(run)
    assert not {"script", "link", "iframe", "object", "use", "image"} & {name for name, _ in tree.elements}
    for _, attributes in tree.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    style = (run / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


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


def test_builder_escapes_text_and_attributes_but_not_elements() -> None:
    inner = el("b", "<&>")
    assert el("p", inner, None, "a<b", title='"', class_="x") == (
        '<p title="&quot;" class="x"><b>&lt;&amp;&gt;</b>a&lt;b</p>'
    )
    assert page("t", Html("<hr-/>")).startswith(b"<!doctype html>\n<html")


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
    assert text.index("settings as by default") < text.index("critic_start")


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
        "Loss: critic 1, codec 0.5",
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


def test_last_values_do_not_cover_each_other() -> None:
    lines = [
        Line(name=name, points=[(0, 0), (9, value)])
        for name, value in (("a", 1.0), ("b", 1.001), ("c", 0.99), ("d", 0.0))
    ]
    tree = Tree(draw(Chart(title="t", unit="", lines=lines)))
    heights = [
        float((span["style"] or "").removeprefix("bottom:").removesuffix("%"))
        for span in tree.all("span")
        if (span.get("class") or "").startswith("last")
    ]
    assert len(heights) == 4
    assert min(np.diff(sorted(heights))) >= 8.9


@pytest.mark.parametrize(
    ("value", "text"),
    [(16.1319, "16.13"), (0.65926, "0.659"), (1234.5, "1,234"), (2.134e-5, "2.13e-5"), (0, "0"), (-1.4063, "-1.406")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
