"""`report.html` of a run: curves, pictures, figures, settings and what to do next, in one self-contained page."""

import shlex
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from taming_cli.data.disk import write_atomically
from taming_cli.report import facts
from taming_cli.report.charts import number
from taming_cli.report.curves import curves
from taming_cli.report.evaluation import measured
from taming_cli.report.figures import FIGURES, HEADLINE, figure, in_order, unit_of, validated
from taming_cli.report.html import Html, definitions, el, join, page, section, table
from taming_cli.report.pictures import pictures
from taming_cli.report.record import RunRecord, read_run


def write_report(folder: Path) -> Path:
    """Write `report.html` from what the run folder holds now, atomically. BadFileError where that is no folder."""
    record = read_run(folder)
    path = folder / "report.html"
    write_page(path, report_page(record, {"run": "."}))
    return path


def report_page(record: RunRecord, about: Mapping[str, Any]) -> bytes:
    """The page of one run; `about` as of `page`."""
    return page(facts.title(record), *sections(record), about=about)


def write_page(path: Path, content: bytes) -> None:
    """Write a page, atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(path, write)


def sections(record: RunRecord) -> list[Html | None]:
    """The parts of a run's report, in order; None for those that have nothing to say yet."""
    typed = facts.command_line(record)
    return [
        head(record),
        pictures(record),
        curves(record),
        section("Held-out figures", figures(record)),
        measured(record),
        section("Going on", commands(record)),
        section("Data", definitions(facts.data(record).items())),
        section("Settings", settings(record)),
        section("Environment", definitions([*facts.environment(record).items(), ("command line", typed)])),
    ]


def head(record: RunRecord) -> Html:
    """What this is, how far it is, and its figures in large."""
    newest, spent = record.newest, record.spent()
    said = []
    if newest:
        said += [
            f"{newest['step']:,} steps",
            f"{newest.get('images', 0):,} images",
            facts.duration(newest.get("seconds", 0)),
        ]
        if spent is not None:
            said.append("finished" if spent >= 1 else f"{100 * spent:.0f} % of the training")
        when = datetime.fromtimestamp((record.folder / "metrics.jsonl").stat().st_mtime).astimezone()
        said.append(f"as of {when:%Y-%m-%d %H:%M %Z}")
    shown = [key for key in HEADLINE if record.validation and key in (last := validated(record.validation[-1], record))]
    return join(
        [
            el("p", f"taming {record.command}" if record.command else "taming", class_="eyebrow"),
            el("h1", facts.title(record)),
            el("p", " · ".join(said) or "Nothing is logged yet.", class_="soft"),
            *(el("p", note, class_="notice") for note in record.notes),
            el("div", *(_large(key, last[key]) for key in shown), class_="headline") if shown else None,
        ]
    )


def figures(record: RunRecord) -> Html | None:
    """The validations' figures with their units: the first, the one of the best model, the last."""
    if not record.validation:
        return None
    chosen = {"First": record.validation[0]} if len(record.validation) > 1 else {}
    at_best = [line for line in record.validation if line["step"] == record.best_step]
    chosen |= {"Best model": at_best[-1]} if at_best else {}
    chosen["Last"] = record.validation[-1]
    if chosen["Last"] is chosen.get("Best model"):
        del chosen["Best model"]
        chosen = {("Last and best" if title == "Last" else title): line for title, line in chosen.items()}
    columns = [validated(line, record) for line in chosen.values()]
    heads = ["", *(f"{title}, step {line['step']:,}" for title, line in chosen.items()), "Unit"]
    rows = [
        [
            figure(name).title,
            *(number(column[name]) if name in column else "" for column in columns),
            unit_of(name, record),
        ]
        for name in in_order(columns[-1])
    ]
    return table(heads, rows, class_="figures")


def commands(record: RunRecord) -> Html | None:
    """What to type next, ready to copy."""
    command = record.command
    if command is None or command not in facts.CONFIGS:
        return None
    spent, folder = record.spent(), str(record.folder)
    resume = ["taming", command, "--resume", "--out", folder]
    if spent is not None and spent >= 1:
        budget = record.config["train"]
        longer = [
            word for name in ("steps", "minutes") if budget[name] for word in (f"--{name}", f"{2 * budget[name]:g}")
        ]
        steps = [("Train for twice as long", [*resume, *longer])]
    else:
        steps = [("Go on with this training, should it have been stopped", resume)]
    if record.model is not None:
        name = "best" if record.best is not None else "last"
        steps += _uses(record, ["--ckpt", str(record.folder / "checkpoints" / f"{name}.safetensors")])
    return join(join([el("div", why, class_="soft"), el("pre", shlex.join(words))]) for why, words in steps)


def _uses(record: RunRecord, ckpt: list[str]) -> list[tuple[str, list[str]]]:
    """What the model is good for, and the command for it."""
    kind, inputs = facts.kind(record), list(record.inputs)
    measure = ("Measure it on what it never learned from", ["taming", "eval", "all", str(record.folder)])
    if kind == "image":
        return [
            ("See what the codec makes of pictures", ["taming", "reconstruct", *inputs, "out/", *ckpt]),
            ("Turn pictures into tokens", ["taming", "tokenize", *inputs, *ckpt, "-o", "tokens.h5"]),
            ("Train a prior on them", ["taming", "train-prior", "tokens.h5"]),
            ("Sample new pictures from it", ["taming", "sample", "-n", "16", "--seed", "7"]),
            measure,
        ]
    if kind:
        cond = ["--cond", f"{kind}={inputs[0] if inputs else 'maps/'}", "--cond-ckpt", *ckpt[1:]]
        return [("Give pictures these maps as a condition", ["taming", "tokenize", "pictures/", *cond])]
    uses = [("Sample new pictures", ["taming", "sample", "-n", "16", "--seed", "7", *ckpt])]
    uses += [
        ("Of one class", ["taming", "sample", "--class", str(label), "-n", "16", *ckpt])
        for label in record.about.get("label_names", [])[:1]
    ]
    return [*uses, measure]


def settings(record: RunRecord) -> Html | None:
    """Each setting with its value and origin: what differs from the default first, the rest folded away."""
    found = facts.settings(record)
    changed = [one[:4] for one in found if not one.usual]
    usual = [(one.name, one.value, one.origin) for one in found if one.usual]
    rest = table(["Setting", "Value", "Origin"], usual, class_="settings")
    return join(
        [
            table(["Setting", "Value", "Default", "Origin"], changed, class_="settings"),
            el("details", el("summary", f"{len(usual)} settings as by default"), rest) if rest is not None else None,
        ]
    )


def _large(key: str, value: float) -> Html:
    title, unit, _ = FIGURES[key]
    return el("div", el("b", number(value), " ", el("small", unit if unit != "distance" else "")), el("span", title))
