"""The geometry of charts, their colours and strokes, and the numbers beside them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import taming_cli.report
from taming_cli.report.charts import DASHES, HUES, Chart, Line, linear_axis, number, numbered_line, thin
from taming_cli.report.render import templates
from tests.pages import Tree


def draw(chart: Chart) -> str:
    """The chart as a page has it."""
    source = '{% from "parts.html" import chart as figure %}{{ figure(chart) }}'
    return templates().from_string(source).render(chart=chart)


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
        lines = [Line(name="", points=list(enumerate(values)))]
        return Chart(title="", unit="", lines=lines, log=log).vertical

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


def test_strokes_are_distinguished() -> None:
    strokes = [(one.hue, one.dash) for one in (numbered_line(n, "", ()) for n in range(HUES * DASHES))]
    assert len(set(strokes)) == HUES * DASHES
    assert len({dash for _, dash in strokes[:DASHES]}) == DASHES


def test_colours_are_apart_for_colour_blind_eyes_and_from_the_page() -> None:
    """Machado, Oliveira and Fernandes 2009, severity 1; distances are CIE 1976, just noticeable from 2.3."""
    seeing = {
        "all": np.eye(3),
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )

    def linear(colour: str) -> np.ndarray:
        srgb = np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)]) / 255
        return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)

    def lab(rgb: np.ndarray) -> np.ndarray:
        xyz = to_xyz @ rgb.clip(0, 1) / (0.95047, 1, 1.08883)
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    style = (Path(taming_cli.report.__file__).parent / "templates" / "style.css").read_text()
    light, dark = style.split("prefers-color-scheme: dark")
    for part in (light, dark):
        paper = linear(re.findall(r"--paper: (#\w+)", part)[0])
        hues = [linear(re.findall(rf"--hue{n}: (#\w+)", part)[0]) for n in range(HUES)]
        for hue in hues:
            bright, dim = sorted((to_xyz[1] @ hue, to_xyz[1] @ paper), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) > 4.5
        for matrix in seeing.values():
            places = [lab(np.array(matrix) @ hue) for hue in hues]
            apart = [np.linalg.norm(a - b) for n, a in enumerate(places) for b in places[:n]]
            assert min(apart) > 20
