"""Line charts as HTML with inline SVG: the lines stretch to any width, the words beside them keep their size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from taming_cli.report.html import Html, el

HUES, DASHES = 6, 5
"""Colours and kinds of stroke that lines differ by. As neither divides the other, thirty lines are all told apart, and
the first five also by who sees no colours. The colours are apart for the colour-blind too, on paper and in the dark."""

MOST_POINTS = 300
"""Points drawn of a line; more are replaced by means over stretches of equal length."""
MOST_DOTS = 40
LABEL_HEIGHT = 0.09
"""A label's height as a share of the plot's: two closer than this are moved apart."""
CHARACTER = 0.034
"""A character's width as a share of the narrowest plot's: a label that would touch the axis's name is left out."""
MOST_LABELS = 11
"""Lines whose last values find room beside the plot; of more, none is written there."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve through `points`, (step, value), finite. `strong` is what counts, others are faint; `hue` and `dash`
    choose its colour and stroke; `dots` shows its points, where there are few, as dots that tell their value."""

    name: str
    points: Sequence[tuple[float, float]]
    strong: bool = True
    hue: int = 0
    dash: int = 0
    dots: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over the same steps, or whatever `across` counts, at least from 0 to `until`. `low` and `high` must lie on
    the other axis; `log` allows a logarithmic one, which is taken where positive values differ more than a hundredfold;
    `note` is a word on how to read it. `keys` says what the lines are called, where the page does not say it once for
    all charts."""

    title: str
    unit: str
    lines: Sequence[Line]
    low: float | None = None
    high: float | None = None
    log: bool = False
    note: str = ""
    across: str = "step"
    until: float = 1.0
    keys: bool = True


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From `low` to `high`, with the values that are written beside it."""

    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def place(self, value: float) -> float:
        """Where `value` lies, 0 at the low end and 1 at the high one."""
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)


def draw(chart: Chart, *, wide: bool = False) -> Html:
    """The chart as a figure; every line needs a point at least."""
    lines = [(line, thin(line.points)) for line in sorted(chart.lines, key=lambda line: line.strong)]
    steps = linear_axis(0.0, max(chart.until, *(step for _, points in lines for step, _ in points)), 4)
    values = value_axis(chart, [value for _, points in lines for _, value in points])
    drawing = [el("path", d=f"M0 {_y(values, tick)}H1000", class_="grid") for tick in values.ticks]
    for line, points in lines:
        drawing += _curve(line, points, steps, values, chart)
    last = f"{chart.title}: " + ", ".join(f"{line.name} {number(points[-1][1])}" for line, points in lines)
    svg = el("svg", *drawing, viewBox="0 0 1000 1000", preserveAspectRatio="none", role="img", aria_label=last)
    words = [el("span", chart.unit, class_="unit"), el("span", chart.across, class_="steps")]
    words += [el("span", tick_label(t), class_="y", style=f"bottom:{_percent(values.place(t))}") for t in values.ticks]
    words += [
        el("span", tick_label(t), class_="x", style=f"left:{_percent(steps.place(t))}")
        for t in steps.ticks
        if steps.place(t) + CHARACTER * len(tick_label(t)) / 2 < 1
    ]
    words += _last_values(lines, values)
    keys = [el("span", line.name, class_=f"key {_class(line)}") for line in chart.lines if chart.keys]
    caption = el("figcaption", el("strong", chart.title), *keys, el("span", chart.note) if chart.note else None)
    return el("figure", caption, el("div", svg, *words, class_="plot"), class_="chart wide" if wide else "chart")


def one_of_several(index: int, name: str, points: Sequence[tuple[float, float]], *, dots: bool = False) -> Line:
    """The line that stands for number `index` of several things, the same in every chart."""
    return Line(name=name, points=points, hue=index % HUES, dash=index % DASHES, dots=dots)


def swatch(index: int) -> Html:
    """A short stretch of the line of `one_of_several`, for legends."""
    drawn = el("path", d="M2 4H30", class_=_class(one_of_several(index, "", ())))
    return el("svg", drawn, viewBox="0 0 32 8", width=32, height=8, class_="swatch", aria_hidden="true")


def number(value: float) -> str:
    """Four significant digits, below 1 three, thousands apart: `16.13`, `0.0659`, `1,234`, `2.13e-5`."""
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    if 0 < abs(value) < 1e-3:
        return _exponent(f"{value:.2e}")
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"


def tick_label(value: float) -> str:
    """A round number, as short as it can be said."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else _exponent(f"{round(value, 12):g}")


def thin(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> Sequence[tuple[float, float]]:
    """At most `most` points: means over stretches of equal length; the last point stays as it is."""
    if len(points) <= most:
        return points
    stretches = [
        points[(n * (len(points) - 1)) // (most - 1) : ((n + 1) * (len(points) - 1)) // (most - 1)]
        for n in range(most - 1)
    ]
    means = [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in stretches]
    return [*means, points[-1]]


def value_axis(chart: Chart, values: Sequence[float]) -> Axis:
    """The axis for the chart's values, a little longer than they need: logarithmic where it may and should be."""
    low, high = min(values), max(values)
    if chart.log and low > 0 and high > 100 * low:
        exponents = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        every = -(-len(exponents) // 5)
        return Axis(low=low / 1.2, high=high * 1.2, ticks=[10.0**n for n in exponents[::every]], log=True)
    if high == low:
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    pad = 0.06 * (high - low)
    low = low - pad if chart.low is None or low < chart.low else chart.low
    high = high + pad if chart.high is None or high > chart.high else chart.high
    return linear_axis(low, high, 5)


def linear_axis(low: float, high: float, most: int) -> Axis:
    """From `low` to a larger `high`; at most `most` steps of 1, 2 or 5 times 10^n between its ticks."""
    wanted = (high - low) / most
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(power * nice for nice in (1, 2, 5, 10, 20) if power * nice >= wanted * (1 - 1e-9))
    ticks = [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return Axis(low=low, high=high, ticks=ticks)


def _curve(line: Line, points: Sequence[tuple[float, float]], steps: Axis, values: Axis, chart: Chart) -> list[Html]:
    at = [f"{1000 * steps.place(step):.4g} {_y(values, value)}" for step, value in points]
    drawn = [el("path", d="M" + "L".join(at), class_=_class(line))] if len(at) > 1 else []
    for n, (step, value) in enumerate(points):
        is_last = n == len(points) - 1
        if is_last or (line.dots and len(points) <= MOST_DOTS):
            where = f"{step:,.0f}" if step == round(step) else number(step)
            says = el("title", f"{chart.across} {where}, {line.name}: {number(value)} {chart.unit}")
            drawn.append(el("path", says, d=f"M{at[n]}h0", class_=f"dot {_class(line)}"))
    return drawn


def _last_values(lines: Sequence[tuple[Line, Sequence[tuple[float, float]]]], values: Axis) -> list[Html]:
    """The lines' last values at the right end, moved apart where they would cover each other."""
    ends = sorted(
        ((values.place(points[-1][1]), points[-1][1], line) for line, points in lines), key=lambda end: end[0]
    )
    if len(ends) > MOST_LABELS:
        return []
    heights = [end[0] for end in ends]
    for n in range(1, len(heights)):
        heights[n] = max(heights[n], heights[n - 1] + LABEL_HEIGHT)
    below = 1.0
    for n in range(len(heights) - 1, -1, -1):  # what that pushed beyond the top
        heights[n] = min(heights[n], below)
        below = heights[n] - LABEL_HEIGHT
    return [
        el("span", number(value), class_=f"last {_class(line)}", style=f"bottom:{_percent(height)}")
        for height, (_, value, line) in zip(heights, ends, strict=True)
    ]


def _exponent(text: str) -> str:
    return text.replace("e-0", "e-").replace("e+0", "e")


def _class(line: Line) -> str:
    dashed = f"dash{line.dash} " if line.dash else ""
    return f"hue{line.hue} {dashed}{'strong' if line.strong else 'faint'}"


def _y(values: Axis, value: float) -> str:
    return f"{1000 * (1 - values.place(value)):.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"
