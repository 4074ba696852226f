"""Geometry of line charts. The macro `chart` in `templates/parts.html` draws it: lines as inline SVG, labels as HTML.

matplotlib's SVG does less well here: 25 to 36 kB a chart rather than 5 kB, 0.3 s rather than 2 ms, labels that grow and
shrink with the drawing, and fixed colours on a white ground. Here lines stretch to any width while labels keep their
size, colours are variables of the style sheet, and every label is text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

Points = Sequence[tuple[float, float]]
"""(step, value) in order of step, finite."""
HUES, DASHES = 6, 5
"""Numbers of colours and of strokes. They have no common divisor, so thirty lines differ, and the first five differ
without colour. The colours remain distinct under the common forms of colour blindness, on a light and a dark page."""
MOST_POINTS, MOST_DOTS = 300, 40
"""Points drawn per line; longer lines are replaced by means over equal stretches. Points up to which each is marked."""
LABEL_HEIGHT = 0.09
"""Height of a label relative to the plot: closer labels are moved apart."""
CHARACTER = 0.034
"""Width of a character relative to the narrowest plot: a label that would touch the axis title is left out."""
MOST_LABELS = 11
"""Last values that fit beside the plot; with more lines, none is written."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve through at least one point. A line that is not `strong` is drawn faintly; `hue` and `dash` select colour
    and stroke; `dots` marks each point, if there are few."""

    name: str
    points: Points
    strong: bool = True
    hue: int = 0
    dash: int = 0
    dots: bool = False

    @property
    def stroke(self) -> str:
        """The line's classes in the style sheet."""
        return f"hue{self.hue} {f'dash{self.dash} ' if self.dash else ''}{'strong' if self.strong else 'faint'}"

    @property
    def marked(self) -> Points:
        """The points to mark: all of a few, else the last."""
        return self.points if self.dots and len(self.points) <= MOST_DOTS else self.points[-1:]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis from `low` to `high`, with the values of its labels."""

    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def place(self, value: float) -> float:
        """The position of `value`: 0 at `low`, 1 at `high`."""
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)


class End(NamedTuple):
    """The last value of a line, and the position of its label, 0 to 1 from the bottom."""

    value: float
    place: float
    stroke: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over steps, or over the quantity `across`, from 0 to at least `until`.

    The vertical axis includes `low` and `high`. With `log` it is logarithmic if positive values differ more than a
    hundredfold. `note` explains how to read the chart. `keys` names the lines, unless the page has a common legend.
    """

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

    @cached_property
    def curves(self) -> list[Line]:
        """The lines as they are drawn: thinned, strong ones on top."""
        return [replace(line, points=thin(line.points)) for line in sorted(self.lines, key=lambda line: line.strong)]

    @cached_property
    def horizontal(self) -> Axis:
        """The axis of the steps, without labels that would touch its title."""
        axis = linear_axis(0.0, max(self.until, *(step for line in self.curves for step, _ in line.points)), 4)
        room = [tick for tick in axis.ticks if axis.place(tick) + CHARACTER * len(tick_label(tick)) / 2 < 1]
        return replace(axis, ticks=room)

    @cached_property
    def vertical(self) -> Axis:
        """The axis of the values, with a margin."""
        values = [value for line in self.curves for _, value in line.points]
        low, high = min(values), max(values)
        if self.log and low > 0 and high > 100 * low:
            exponents = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
            every = -(-len(exponents) // 5)
            return Axis(low=low / 1.2, high=high * 1.2, ticks=[10.0**n for n in exponents[::every]], log=True)
        if high == low:
            low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
        pad = 0.06 * (high - low)
        low = low - pad if self.low is None or low < self.low else self.low
        high = high + pad if self.high is None or high > self.high else self.high
        return linear_axis(low, high, 5)

    def path(self, points: Points) -> str:
        """An SVG path through points; coordinates are 0 to 1000 from the top left."""
        places = ((self.horizontal.place(step), 1 - self.vertical.place(value)) for step, value in points)
        return "M" + "L".join(f"{1000 * x:.4g} {1000 * y:.4g}" for x, y in places)

    def ends(self) -> list[End]:
        """The lines' last values from the bottom up, moved apart where their labels would overlap."""
        if len(self.lines) > MOST_LABELS:
            return []
        last = [(line.points[-1][1], line.stroke) for line in self.curves]
        ends = sorted((End(value, self.vertical.place(value), stroke) for value, stroke in last), key=lambda e: e.place)
        places = [end.place for end in ends]
        for n in range(1, len(places)):
            places[n] = max(places[n], places[n - 1] + LABEL_HEIGHT)
        limit = 1.0
        for n in reversed(range(len(places))):  # back down what the first pass pushed beyond the top
            places[n] = min(places[n], limit)
            limit = places[n] - LABEL_HEIGHT
        return [end._replace(place=place) for end, place in zip(ends, places, strict=True)]


def numbered_line(index: int, name: str, points: Points, *, dots: bool = False) -> Line:
    """The line of one of several runs: its index selects the same stroke in every chart."""
    return Line(name=name, points=points, hue=index % HUES, dash=index % DASHES, dots=dots)


def linear_axis(low: float, high: float, most: int) -> Axis:
    """An axis from `low` to a larger `high`, with at most `most` intervals of 1, 2 or 5 times 10^n."""
    least_step = (high - low) / most
    power = 10.0 ** math.floor(math.log10(least_step))
    step = next(power * nice for nice in (1, 2, 5, 10, 20) if power * nice >= least_step * (1 - 1e-9))
    ticks = [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return Axis(low=low, high=high, ticks=ticks)


def thin(points: Points, most: int = MOST_POINTS) -> Points:
    """At most `most` points: means over stretches of equal length. The last point is kept."""
    if len(points) <= most:
        return points
    bounds = [(n * (len(points) - 1)) // (most - 1) for n in range(most)]
    stretches = [points[first:end] for first, end in pairwise(bounds)]
    means = [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in stretches]
    return [*means, points[-1]]


def number(value: float) -> str:
    """Four significant digits, three below 1, with thousands separators: `16.13`, `0.0659`, `1,234`, `2.13e-5`."""
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    if 0 < abs(value) < 1e-3:
        return _exponent(f"{value:.2e}")
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"


def tick_label(value: float) -> str:
    """A round number in its shortest form."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else _exponent(f"{round(value, 12):g}")


def _exponent(text: str) -> str:
    return text.replace("e-0", "e-").replace("e+0", "e")
