"""What was logged, as charts: which figures belong together, in which units; of one run, or of several laid over one
another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from taming_cli.report.charts import Chart, Line, draw, one_of_several
from taming_cli.report.figures import SHARES, best_line
from taming_cli.report.html import Html, el, join, section
from taming_cli.report.record import RunRecord
from taming_cli.runtime.run.metrics import is_number

Across = Literal["step", "images", "time"]
"""What charts count along: optimiser updates, samples seen, or the time that training took."""
ACROSS: tuple[Across, ...] = get_args(Across)


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
        _curves("L2", "of 4", "l2", note="lower is better"),
        _curves("Right labels", "%", validation="accuracy", low=0, high=100),
        _curves("Cross-entropy", "nats/pixel", "cross_entropy", "cross_entropy", note="lower is better"),
        _curves("Perceptual distance", "distance", "perceptual", "perceptual", note="lower is better"),
        _curves("Texture distance", "Frechet distance", validation="texture", note="lower is better"),
        _curves("Weighted sum", "", "reconstruction", note="of these terms"),
    ),
    "Codebook": (
        _curves("Codes in use", "%", validation="codes_used", low=0, high=100),
        _curves("Perplexity", "codes", "codebook_perplexity", "codebook_perplexity", low=0),
        _curves("Codebook and commitment term", "squared distance", "codebook", log=True),
    ),
    "Discriminator": (
        Curves(title="Loss", unit="", train={"discriminator": "discriminator", "generator": "codec"}, validation={}),
        Curves(
            title="Discriminator's logits",
            unit="logit",
            train={"logits_real": "real", "logits_fake": "rebuilt"},
            validation={},
        ),
        _curves("Adaptive weight", "", "adaptive", log=True),
    ),
    "Training": (
        _curves("Learning rate", "", "learning_rate", low=0),
        _curves("Gradient norm", "", "gradient", log=True),
        _curves("Gradient norm of the discriminator", "", "disc_gradient", log=True),
        _curves("Speed", "images/s", "images_per_second", low=0),
        _curves("Waiting for the next batch", "s a step", "waiting_seconds", low=0),
    ),
}
USE = "code_use"
"""How often each part of the codebook is used, as `metrics.use_by_rank` says it: a chart of its own."""
COUNTS = ("count", "windows")
"""Figures that say how much was looked at: for tables, not for curves."""


def curves(record: RunRecord) -> Html | None:
    """All that was logged, as charts in groups; figures that no group knows come last, under their own names."""
    drawn = {
        title: [chart for wanted in group if (chart := chart_of(record, wanted)) is not None]
        for title, group in _groups([record]).items()
    }
    said = [line for line in record.validation if use_points(line)]
    ends = {f"step {line['step']:,}": line for line in (*said[:1], *said[-1:])}
    lines = [Line(name=name, points=use_points(line), strong=line is said[-1]) for name, line in ends.items()]
    drawn["Codebook"] += [use_chart(lines, keys=True)] if lines else []
    return section("Curves", _charts(drawn))


def overlaid(records: Sequence[RunRecord], names: Sequence[str], across: Across) -> Html | None:
    """The same figures of several runs, a line a run, each in the stroke of its number: of each figure what the
    validations saw, where they saw it, and else what the training did."""
    drawn = {
        title: [chart for wanted in group for chart in _over_runs(records, names, wanted, across)]
        for title, group in _groups(records).items()
    }
    lines = [
        one_of_several(n, name, points)
        for n, (name, record) in enumerate(zip(names, records, strict=True))
        if (points := use_points(best_line(record)))
    ]
    drawn["Codebook"] += [use_chart(lines, keys=False)] if lines else []
    return _charts(drawn)


def chart_of(record: RunRecord, wanted: Curves) -> Chart | None:
    """The chart, where the run has any of its figures. The training's lines are faint beside the validation's."""
    seen = [("validation", *item) for item in wanted.validation.items()]
    seen += [("train", *item) for item in wanted.train.items()]
    found = [(kind, name, points) for kind, key, name in seen if (points := _points(record, kind, key))]
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
    return _chart(wanted, lines, title=wanted.title)


def use_points(line: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The curve of a validation's `code_use`: percent of the codebook, the most used code first; times the mean use.
    It ends where codes are unused; empty where a validation does not say it, or not as it should."""
    said = line.get(USE)
    if not isinstance(said, list) or not all(is_number(value) for value in said):
        return []
    return [(100 * (n + 0.5) / len(said), value) for n, value in enumerate(said) if value > 0]


def use_chart(lines: Sequence[Line], *, keys: bool) -> Chart:
    """How unequally codes are used, of one or more lines of `use_points`."""
    return Chart(
        title="Use by code",
        unit="times the mean",
        lines=lines,
        low=0,
        log=True,
        note="the most used first; ends where none is used",
        across="% codes",
        until=100,
        keys=keys,
    )


def _groups(records: Sequence[RunRecord]) -> Mapping[str, Sequence[Curves]]:
    """The groups, and last what was logged and belongs to none."""
    known = {name for group in GROUPS.values() for wanted in group for name in (*wanted.train, *wanted.validation)}
    unknown = dict.fromkeys(
        name
        for record in records
        for kind in ("train", "validation")
        for name in record.figures(kind)
        if name not in {*known, *COUNTS}
    )
    return {**GROUPS, "Other": [_curves(name, "", name, name) for name in unknown]}


def _over_runs(records: Sequence[RunRecord], names: Sequence[str], wanted: Curves, across: Across) -> Sequence[Chart]:
    """One chart of what the validations saw, or else one for each figure of the training; none where no run has any."""
    unit = _unit(records, across)
    of_training = [("train", key, name) for key, name in wanted.train.items()]
    charts = []
    for kind, key, what in [*(("validation", key, "") for key in wanted.validation), *of_training]:
        lines = [
            one_of_several(n, name, points, dots=kind == "validation")
            for n, (name, record) in enumerate(zip(names, records, strict=True))
            if (points := _points(record, kind, key, unit))
        ]
        if lines:
            title = f"{wanted.title}: {what}" if len(wanted.train) > 1 else wanted.title
            charts.append(_chart(wanted, lines, title=title, across=unit, keys=False))
        if charts and kind == "validation":
            break
    return charts


def _chart(wanted: Curves, lines: Sequence[Line], **more: Any) -> Chart:
    return Chart(
        unit=wanted.unit,
        lines=lines,
        low=wanted.low,
        high=wanted.high,
        log=wanted.log,
        note=wanted.note,
        **more,
    )


def _points(record: RunRecord, kind: str, key: str, unit: str = "step") -> list[tuple[float, float]]:
    """One figure over steps, images, minutes or hours; shares in percent."""
    field, per = {"minutes": ("seconds", 60), "hours": ("seconds", 3600)}.get(unit, (unit, 1))
    factor = 100 if key in SHARES else 1
    return [(at / per, factor * value) for at, value in record.points(kind, key, across=field)]


def _unit(records: Sequence[RunRecord], across: Across) -> str:
    """What is written at the end of the axis."""
    if across != "time":
        return across
    return "hours" if max(record.newest.get("seconds", 0) for record in records) > 7200 else "minutes"


def _charts(groups: Mapping[str, Sequence[Chart]]) -> Html | None:
    parts: list[Html] = []
    for title, charts in groups.items():
        if charts:
            drawn = [draw(chart, wide=len(charts) == 1) for chart in charts]
            parts += [el("h3", title), el("div", *drawn, class_="charts")]
    return join(parts) if parts else None
