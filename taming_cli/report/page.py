"""`report.html` of one run: pictures, curves, figures, settings, and the commands to type next."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from taming_cli.config.presets import CONFIGS
from taming_cli.errors import UsageError
from taming_cli.metrics import use_by_rank
from taming_cli.report import facts
from taming_cli.report.charts import Chart, Line, number
from taming_cli.report.comparable import Row
from taming_cli.report.curves import curves, use_chart, use_points
from taming_cli.report.figures import FIGURES, HEADLINE, figure, in_order, results_of, unit_of, validated
from taming_cli.report.pictures import earlier, samples_of
from taming_cli.report.record import RunRecord, read_run
from taming_cli.report.render import PAGE, render, write_page
from taming_cli.runtime.run.metrics import is_number

_CHARTED = "codebook"
"""The drawing of `taming eval all` that the page replaces with a chart, if its counts are known."""


def write_report(folder: Path) -> Path:
    """Write `report.html` from the present content of a run folder, atomically. BadFileError if it is not a folder."""
    path = folder / PAGE
    write_page(path, report_page(read_run(folder), {"run": "."}))
    return path


def report_page(record: RunRecord, about: Mapping[str, Any]) -> bytes:
    """The page of one run; `about` as in `render`."""
    settings = facts.settings(record)
    use = measured_use(record)
    latest = validated(record.validation[-1], record) if record.validation else {}
    return render(
        "run.html",
        about=about,
        title=facts.title(record),
        record=record,
        headline=[(FIGURES[name], latest[name]) for name in HEADLINE if name in latest],
        newest=samples_of(record) if record.sheets else None,
        earlier=earlier(record.sheets),
        curves=curves(record),
        validations=validations(record),
        results=[Row(one.title, [number(one.value), one.conditions]) for one in results_of(record)],
        warnings=list(dict.fromkeys(text for each in record.measured.values() for text in each.get("warnings", ()))),
        classes=list(results_by_class(record)),
        use=use,
        drawings=[each for each in record.drawings if use is None or each.path.stem != _CHARTED],
        commands=[(purpose, shlex.join(words)) for purpose, words in commands(record)],
        changed=[Row(one.name, [one.value, one.default, one.origin]) for one in settings if not one.is_default],
        unchanged=[Row(one.name, [one.value, one.origin]) for one in settings if one.is_default],
        environment=facts.environment(record) | {"command line": facts.command_line(record)},
    )


def validations(record: RunRecord) -> tuple[list[str], list[Row]]:
    """Column titles and rows: the figures of the first validation, of the best model's, and of the last one."""
    if not record.validation:
        return [], []
    first, last = record.validation[0], record.validation[-1]
    best = next((line for line in reversed(record.validation) if line["step"] == record.best_step), None)
    lines = {"First": first} if first is not last else {}
    lines |= {"Best model": best} if best is not None and best is not last else {}
    lines["Last and best" if best is last else "Last"] = last
    values = [validated(line, record) for line in lines.values()]
    rows = []
    for name in in_order(values[-1]):
        texts = [number(column[name]) if name in column else "" for column in values]
        rows.append(Row(figure(name).title, [*texts, unit_of(name, record)]))
    return [f"{title}, step {line['step']:,}" for title, line in lines.items()], rows


def results_by_class(record: RunRecord) -> Iterator[tuple[str, list[Row]]]:
    """Each metric that eval.json has by class, with a row per class, the hardest first."""
    for result in record.measured.values():
        by_class, metric = result.get("details", {}).get("by_class"), str(result.get("metric", ""))
        if isinstance(by_class, Mapping):
            values = sorted(((value, str(name)) for name, value in by_class.items() if is_number(value)), reverse=True)
            yield metric, [Row(name, [number(value), metric]) for value, name in values]


def measured_use(record: RunRecord) -> Chart | None:
    """The chart of how often each code occurs in the measured pictures; None if that was not measured."""
    counts = record.measured.get("codebook", {}).get("details", {}).get("counts")
    if not isinstance(counts, list) or not all(is_number(count) for count in counts):
        return None
    try:
        points = use_points(use_by_rank(torch.tensor(counts)))
    except UsageError:  # no code was counted
        return None
    return use_chart([Line(name="measured", points=points)], keys=False)


def commands(record: RunRecord) -> Iterator[tuple[str, list[str]]]:
    """The commands to type next, each with its purpose."""
    if record.command is None or record.command not in CONFIGS:
        return
    resume = ["taming", record.command, "--resume", "--out", str(record.folder)]
    spent = record.spent()
    if spent is not None and spent >= 1:
        budget = record.config["train"]
        doubled = {f"--{name}": f"{2 * budget[name]:g}" for name in ("steps", "minutes") if budget[name]}
        yield "Train for twice as long", [*resume, *(word for option in doubled.items() for word in option)]
    else:
        yield "Resume this training if it was stopped", resume
    if record.model is not None:
        model = record.folder / "checkpoints" / f"{'best' if record.best is not None else 'last'}.safetensors"
        yield from _uses(record, str(model))


def _uses(record: RunRecord, model: str) -> Iterator[tuple[str, list[str]]]:
    """What the model can be used for."""
    kind, inputs, ckpt = facts.kind(record), list(record.inputs), ["--ckpt", model]
    sample = ["taming", "sample", "-n", "16", "--seed", "7"]
    if kind == "image":
        yield "Reconstruct pictures", ["taming", "reconstruct", *inputs, "out/", *ckpt]
        yield "Convert pictures to tokens", ["taming", "tokenize", *inputs, *ckpt, "-o", "tokens.h5"]
        yield "Train a prior on them", ["taming", "train-prior", "tokens.h5"]
        yield "Sample new pictures from it", sample
    elif kind:
        cond = ["--cond", f"{kind}={inputs[0] if inputs else 'maps/'}", "--cond-ckpt", model]
        yield "Use these maps as a condition of pictures", ["taming", "tokenize", "pictures/", *cond]
        return
    else:
        yield "Sample new pictures", [*sample, *ckpt]
        for label in record.about.get("label_names", [])[:1]:
            yield "Sample one class", ["taming", "sample", "--class", str(label), "-n", "16", *ckpt]
    yield "Evaluate it on held-out data", ["taming", "eval", "all", str(record.folder)]
