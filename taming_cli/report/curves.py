"""The charts of the logged figures, in groups: of one run, or of several runs overlaid."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from taming_cli.report.charts import Chart, Line, Points, numbered_line
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


def _spec(title: str, unit: str, train: str | Mapping[str, str] = "", validation: str = "", **options: Any) -> Spec:
    """The chart of one figure, as logged by the training and by the validation; or of several of the training."""
    trained = {train: "training"} if isinstance(train, str) else train
    validated = {validation: "held-out"} if validation else {}
    return Spec(Chart(title=title, unit=unit, lines=(), **options), trained if train else {}, validated)


HIGHER, LOWER = {"note": "higher is better"}, {"note": "lower is better"}
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
        _spec("Top level's codes in use", "%", validation="top_codes_used", low=0, high=100),
        _spec("Top level's perplexity", "codes", "top_codebook_perplexity", "top_codebook_perplexity", low=0),
        _spec("Codebook and commitment term", "squared distance", "codebook", log=True),
    ],
    "Discriminator": [
        _spec("Loss", "", {"discriminator": "discriminator", "generator": "codec"}),
        _spec("Discriminator's logits", "logit", {"logits_real": "real", "logits_fake": "rebuilt"}),
        _spec("Adaptive weight", "", "adaptive", log=True),
    ],
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
    """Everything logged by one run. Figures that belong to no group come last, under their own names."""
    uses = [line for line in record.validation if use_points(line.get(USE))]
    ends = {f"step {line['step']:,}": line for line in (*uses[:1], *uses[-1:])}
    lines = [Line(name=name, points=use_points(line[USE]), strong=line is uses[-1]) for name, line in ends.items()]
    return _grouped([record], lambda spec: _charts_of(record, spec), use_chart(lines))


def overlaid(records: Sequence[RunRecord], names: Sequence[str], across: Across) -> Groups:
    """The same charts with one line per run: a figure's validations if there are any, else its training."""
    unit = str(across)
    if across == "time":
        unit = "hours" if max(record.newest.get("seconds", 0) for record in records) > 7200 else "minutes"
    use = _lines_of(names, [use_points(record.best_line.get(USE)) for record in records])
    return _grouped(records, lambda spec: _charts_of_runs(records, names, spec, unit), use_chart(use, keys=False))


def use_points(shares: Any) -> list[tuple[float, float]]:
    """The curve of `code_use`: (percent of the codebook, use relative to the mean), the most used code first, up to the
    first unused one. Empty if `shares` is not a list of numbers."""
    if not isinstance(shares, list) or not all(is_number(value) for value in shares):
        return []
    return [(100 * (n + 0.5) / len(shares), value) for n, value in enumerate(shares) if value > 0]


def use_chart(lines: Sequence[Line], *, keys: bool = True) -> Chart:
    """How unequally codes are used, for lines through `use_points`."""
    note = "the most used first; ends where none is used"
    chart = Chart(title="Use by code", unit="times the mean", lines=lines, low=0, log=True, note=note)
    return replace(chart, across="% codes", until=100, keys=keys)


def _grouped(records: Sequence[RunRecord], charts_of: Callable[[Spec], Iterator[Chart]], use: Chart) -> Groups:
    known = {name for group in GROUPS.values() for spec in group for name in (*spec.train, *spec.validation)}
    logged = [name for record in records for kind in ("train", "validation") for name in record.figures(kind)]
    other = dict.fromkeys(name for name in logged if name not in {*known, *COUNTS})
    specs = {**GROUPS, "Other": [_spec(name, "", name, name) for name in other]}
    groups = {title: [chart for spec in group for chart in charts_of(spec)] for title, group in specs.items()}
    groups["Codebook"] += [use] if use.lines else []
    return {title: charts for title, charts in groups.items() if charts}


def _charts_of(record: RunRecord, spec: Spec) -> Iterator[Chart]:
    """The chart of one run, if it has any of its figures. The training's lines are faint beside the validation's."""
    validation = [
        Line(name=name, points=points, dots=True)
        for key, name in spec.validation.items()
        if (points := _points(record, "validation", key))
    ]
    training = [
        Line(name=name, points=points, strong=not validation, hue=0 if validation else hue)
        for hue, (key, name) in enumerate(spec.train.items())
        if (points := _points(record, "train", key))
    ]
    if validation or training:
        yield replace(spec.chart, lines=[*validation, *training])


def _charts_of_runs(records: Sequence[RunRecord], names: Sequence[str], spec: Spec, unit: str) -> Iterator[Chart]:
    """One chart of the validations, or one for each figure of the training; none if no run has any."""
    figures = [("validation", key, "") for key in spec.validation]
    figures += [("train", key, f": {name}" if len(spec.train) > 1 else "") for key, name in spec.train.items()]
    for kind, key, suffix in figures:
        lines = _lines_of(names, [_points(record, kind, key, unit) for record in records], dots=kind == "validation")
        if lines:
            yield replace(spec.chart, lines=lines, title=spec.chart.title + suffix, across=unit, keys=False)
            if kind == "validation":
                return


def _lines_of(names: Sequence[str], points: Sequence[Points], *, dots: bool = False) -> list[Line]:
    """One line for each run that has points."""
    return [numbered_line(n, names[n], of_run, dots=dots) for n, of_run in enumerate(points) if of_run]


def _points(record: RunRecord, kind: str, key: str, unit: str = "step") -> list[tuple[float, float]]:
    """One figure over steps, images, minutes or hours; shares in percent."""
    field, per = {"minutes": ("seconds", 60), "hours": ("seconds", 3600)}.get(unit, (unit, 1))
    factor = 100 if key in SHARES else 1
    return [(at / per, factor * value) for at, value in record.points(kind, key, across=field)]
