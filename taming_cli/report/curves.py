"""The charts of what was logged, by group: of one run, or of several runs overlaid."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from taming_cli.report.charts import Chart, Line, numbered_line
from taming_cli.report.figures import SHARES
from taming_cli.report.record import RunRecord
from taming_cli.runtime.run.metrics import is_number

Across = Literal["step", "images", "time"]
"""The horizontal axis: optimiser updates, samples seen, or training time."""
Groups = Mapping[str, Sequence[Chart]]


class Spec(NamedTuple):
    """A chart without its lines; and its figures, of the training and of the validation, with their names in it."""

    chart: Chart
    train: Mapping[str, str]
    validation: Mapping[str, str]


def _spec(title: str, unit: str, train: str = "", validation: str = "", **options: Any) -> Spec:
    """The chart of one figure, as logged by the training and by the validation."""
    return Spec(
        Chart(title=title, unit=unit, lines=(), **options),
        {train: "training"} if train else {},
        {validation: "held-out"} if validation else {},
    )


HIGHER, LOWER = {"note": "higher is better"}, {"note": "lower is better"}
LOSSES = Spec(Chart(title="Loss", unit="", lines=()), {"discriminator": "discriminator", "generator": "codec"}, {})
LOGITS = Spec(
    Chart(title="Discriminator's logits", unit="logit", lines=()), {"logits_real": "real", "logits_fake": "rebuilt"}, {}
)
GROUPS: Mapping[str, Sequence[Spec]] = {
    "Likelihood": [_spec("Negative log-likelihood", "nats/token", "nats_per_token", "val_nats_per_token")],
    "Reconstruction": [
        _spec("PSNR", "dB", validation="psnr", **HIGHER),
        _spec("L1", "of 2", "l1", "l1", **LOWER),
        _spec("L2", "of 4", "l2", **LOWER),
        _spec("Correct labels", "%", validation="accuracy", low=0, high=100),
        _spec("Cross-entropy", "nats/pixel", "cross_entropy", "cross_entropy", **LOWER),
        _spec("Perceptual distance", "distance", "perceptual", "perceptual", **LOWER),
        _spec("Texture distance", "Frechet distance", validation="texture", **LOWER),
        _spec("Weighted sum", "", "reconstruction", note="of these terms"),
    ],
    "Codebook": [
        _spec("Codes in use", "%", validation="codes_used", low=0, high=100),
        _spec("Perplexity", "codes", "codebook_perplexity", "codebook_perplexity", low=0),
        _spec("Codebook and commitment term", "squared distance", "codebook", log=True),
    ],
    "Discriminator": [LOSSES, LOGITS, _spec("Adaptive weight", "", "adaptive", log=True)],
    "Training": [
        _spec("Learning rate", "", "learning_rate", low=0),
        _spec("Gradient norm", "", "gradient", log=True),
        _spec("Gradient norm of the discriminator", "", "disc_gradient", log=True),
        _spec("Speed", "images/s", "images_per_second", low=0),
        _spec("Waiting for the next batch", "s a step", "waiting_seconds", low=0),
    ],
}
USE = "code_use"
"""The figure that lists how often each part of the codebook is used (`metrics.use_by_rank`); it has its own chart."""
COUNTS = ("count", "windows")
"""Figures that are listed in tables only."""


def curves(record: RunRecord) -> Groups:
    """Everything logged, in groups of charts; figures that belong to no group come last, under their own names."""
    groups = {
        title: [chart for spec in group if (chart := _chart_of(record, spec)) is not None]
        for title, group in _groups([record]).items()
    }
    uses = [line for line in record.validation if use_points(line.get(USE))]
    ends = {f"step {line['step']:,}": line for line in (*uses[:1], *uses[-1:])}
    lines = [Line(name=name, points=use_points(line[USE]), strong=line is uses[-1]) for name, line in ends.items()]
    groups["Codebook"] += [use_chart(lines)] if lines else []
    return {title: charts for title, charts in groups.items() if charts}


def overlaid(records: Sequence[RunRecord], names: Sequence[str], across: Across) -> Groups:
    """The same charts with one line per run: a figure's validations if there are any, else its training."""
    groups = {
        title: [chart for spec in group for chart in _charts_of_runs(records, names, spec, across)]
        for title, group in _groups(records).items()
    }
    lines = [
        numbered_line(n, name, points)
        for n, (name, record) in enumerate(zip(names, records, strict=True))
        if (points := use_points(record.best_line.get(USE)))
    ]
    groups["Codebook"] += [use_chart(lines, keys=False)] if lines else []
    return {title: charts for title, charts in groups.items() if charts}


def use_points(shares: Any) -> list[tuple[float, float]]:
    """The curve of `code_use`: (percent of the codebook, use relative to the mean), the most used code first, up to the
    first unused one. Empty if `shares` is not a list of numbers."""
    if not isinstance(shares, list) or not all(is_number(value) for value in shares):
        return []
    return [(100 * (n + 0.5) / len(shares), value) for n, value in enumerate(shares) if value > 0]


def use_chart(lines: Sequence[Line], *, keys: bool = True) -> Chart:
    """How unequally codes are used, for one or more lines of `use_points`."""
    note = "the most used first; ends where none is used"
    chart = Chart(title="Use by code", unit="times the mean", lines=lines, low=0, log=True, note=note)
    return replace(chart, across="% codes", until=100, keys=keys)


def _groups(records: Sequence[RunRecord]) -> Mapping[str, Sequence[Spec]]:
    """The groups, and last the logged figures that belong to none."""
    known = {name for group in GROUPS.values() for spec in group for name in (*spec.train, *spec.validation)}
    logged = [name for record in records for kind in ("train", "validation") for name in record.figures(kind)]
    other = dict.fromkeys(name for name in logged if name not in {*known, *COUNTS})
    return {**GROUPS, "Other": [_spec(name, "", name, name) for name in other]}


def _chart_of(record: RunRecord, spec: Spec) -> Chart | None:
    """A chart of one run, or None without figures. The training's lines are faint beside the validation's."""
    figures = [("validation", *item) for item in spec.validation.items()]
    figures += [("train", *item) for item in spec.train.items()]
    drawn = [(kind, name, points) for kind, key, name in figures if (points := _points(record, kind, key))]
    validated = any(kind == "validation" for kind, _, _ in drawn)
    lines = [
        Line(
            name=name,
            points=points,
            strong=kind == "validation" or not validated,
            hue=0 if validated else n,
            dots=kind == "validation",
        )
        for n, (kind, name, points) in enumerate(drawn)
    ]
    return replace(spec.chart, lines=lines) if lines else None


def _charts_of_runs(records: Sequence[RunRecord], names: Sequence[str], spec: Spec, across: Across) -> Iterator[Chart]:
    """One chart of the validations, or one for each figure of the training; none if no run has any."""
    unit = _axis(records, across)
    figures = [("validation", key, "") for key in spec.validation]
    figures += [("train", key, f": {name}" if len(spec.train) > 1 else "") for key, name in spec.train.items()]
    for kind, key, suffix in figures:
        lines = [
            numbered_line(n, name, points, dots=kind == "validation")
            for n, (name, record) in enumerate(zip(names, records, strict=True))
            if (points := _points(record, kind, key, unit))
        ]
        if lines:
            yield replace(spec.chart, lines=lines, title=spec.chart.title + suffix, across=unit, keys=False)
            if kind == "validation":
                return


def _points(record: RunRecord, kind: str, key: str, unit: str = "step") -> list[tuple[float, float]]:
    """One figure over steps, images, minutes or hours; shares in percent."""
    field, per = {"minutes": ("seconds", 60), "hours": ("seconds", 3600)}.get(unit, (unit, 1))
    factor = 100 if key in SHARES else 1
    return [(at / per, factor * value) for at, value in record.points(kind, key, across=field)]


def _axis(records: Sequence[RunRecord], across: Across) -> str:
    """The unit of the horizontal axis."""
    if across != "time":
        return across
    return "hours" if max(record.newest.get("seconds", 0) for record in records) > 7200 else "minutes"
