"""Which figures of a training are drawn together, under which names, in which units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taming_cli.runtime.charts import Chart, Line, draw
from taming_cli.runtime.page import Html, el, section
from taming_cli.runtime.record import RunRecord


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A chart to be: which figures of the training and of the validation go into it. Shares are drawn in percent."""

    title: str
    unit: str
    train: Mapping[str, str]
    validation: Mapping[str, str]
    low: float | None = None
    high: float | None = None
    log: bool = False
    note: str = ""


def _curves(title: str, unit: str, train: str = "", validation: str = "", **more: Any) -> Curves:
    """One figure as the training and the validation saw it."""
    return Curves(
        title=title,
        unit=unit,
        train={train: "training"} if train else {},
        validation={validation: "held-out"} if validation else {},
        **more,
    )


GROUPS: Mapping[str, Sequence[Curves]] = {
    "Likelihood": (_curves("Negative log-likelihood", "nats/token", "nats_per_token", "val_nats_per_token"),),
    "Reconstruction": (
        _curves("PSNR", "dB", validation="psnr", note="higher is better"),
        _curves("L1", "of 2", "l1", "l1", note="lower is better"),
        _curves("Right labels", "%", validation="accuracy", low=0, high=100),
        _curves("Cross-entropy", "nats/pixel", "cross_entropy", "cross_entropy", note="lower is better"),
        _curves("Perceptual distance", "distance", "perceptual", "perceptual", note="lower is better"),
    ),
    "Codebook": (
        _curves("Codes in use", "%", validation="codes_used", low=0, high=100),
        _curves("Perplexity", "codes", "codebook_perplexity", "codebook_perplexity", low=0),
        _curves("Codebook and commitment term", "squared distance", "codebook", log=True),
    ),
    "Critic": (
        Curves(title="Loss", unit="", train={"critic": "critic", "generator": "codec"}, validation={}),
        Curves(
            title="Critic's logits",
            unit="logit",
            train={"logits_real": "real", "logits_fake": "rebuilt"},
            validation={},
        ),
        _curves("Adaptive weight", "", "adaptive", log=True),
    ),
    "Training": (
        _curves("Learning rate", "", "learning_rate", low=0),
        _curves("Gradient norm", "", "gradient", log=True),
        _curves("Speed", "images/s", "images_per_second", low=0),
        _curves("Waiting for the next batch", "s a step", "waiting_seconds", low=0),
    ),
}
SHARES = ("codes_used", "accuracy")
"""Figures between 0 and 1 that are shown in percent."""
COUNTS = ("count", "windows")
"""Figures that say how much was looked at: for tables, not for curves."""


def curves(record: RunRecord) -> Html | None:
    """All that was logged, as charts in groups; figures that no group knows come last, under their own names."""
    known = {name for group in GROUPS.values() for wanted in group for name in (*wanted.train, *wanted.validation)}
    unknown = dict.fromkeys(
        name for kind in ("train", "validation") for name in record.figures(kind) if name not in {*known, *COUNTS}
    )
    others = {"Other": [_curves(name, "", name, name) for name in unknown]}
    parts: list[Html] = []
    for title, group in {**GROUPS, **others}.items():
        charts = [chart for wanted in group if (chart := chart_of(record, wanted)) is not None]
        if charts:
            drawn = [draw(chart, wide=len(charts) == 1) for chart in charts]
            parts += [el("h3", title), el("div", *drawn, class_="charts")]
    return section("Curves", *parts)


def chart_of(record: RunRecord, wanted: Curves) -> Chart | None:
    """The chart, where the run has any of its figures. The training's lines are faint beside the validation's."""
    seen = [("validation", *item) for item in wanted.validation.items()]
    seen += [("train", *item) for item in wanted.train.items()]
    found = []
    for kind, key, name in seen:
        factor = 100 if key in SHARES else 1
        points = [(step, factor * value) for step, value in record.points(kind, key)]
        if points:
            found.append((kind, name, points))
    if not found:
        return None
    beside = any(kind == "validation" for kind, _, _ in found)
    lines = [
        Line(
            name=name,
            points=points,
            strong=kind == "validation" or not beside,
            hue=0 if beside else n,
            dots=kind == "validation",
        )
        for n, (kind, name, points) in enumerate(found)
    ]
    return Chart(
        title=wanted.title,
        unit=wanted.unit,
        lines=lines,
        low=wanted.low,
        high=wanted.high,
        log=wanted.log,
        note=wanted.note,
    )
