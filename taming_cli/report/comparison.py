"""`taming report`: a run's page written anew, or several runs beside one another in one self-contained page."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from taming_cli.errors import UsageError
from taming_cli.report import facts
from taming_cli.report.charts import number, swatch
from taming_cli.report.comparable import Verdict, figures_of, of_protocol, verdict, verdicts
from taming_cli.report.curves import Across, overlaid
from taming_cli.report.evaluation import taken
from taming_cli.report.figures import best_line, figure, unit_of
from taming_cli.report.html import Html, about_of, definitions, el, join, page, section, table
from taming_cli.report.page import report_page, write_page
from taming_cli.report.pictures import side_by_side
from taming_cli.report.record import RunRecord, find_runs, read_run
from taming_cli.runtime.run.metrics import figures_in, is_number

PAGE = "report.html"
SHA256 = re.compile("([0-9a-f]{12})[0-9a-f]{52}")
OF_MAPS = {"edges": "edge maps", "pose": "poses"}


@dataclass(frozen=True, kw_only=True)
class Reported:
    """The page, what it shows, and folders that hold a run which could not be read, each with the reason."""

    path: Path
    runs: Sequence[RunRecord]
    skipped: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data: figures as metrics.jsonl has them, of each run's best model."""
        runs = []
        for group in grouped(self.runs):
            compared = verdicts(group)
            runs += [_summary(n, record, compared) for n, record in enumerate(group)]
        return {"path": str(self.path), "runs": runs, "skipped": dict(self.skipped)}


def report(runs: Sequence[Path], *, out: Path | None = None, by: Across | None = None) -> Reported:
    """Write the page of the runs in these folders, each a run or a folder of runs.

    One run's is its own `report.html`, several are compared in `out`, by default `report.html` here. `by` is what the
    charts count along: by default steps, and images where the runs' batches differ. A page that is there is replaced
    if every run that it shows is in the new one too. UsageError where anything else is in the way; BadFileError for a
    folder that is no run and holds none.
    """
    found = find_runs(runs)
    records = [read_run(folder) for folder in found.folders]
    if len(records) == 1:
        (record,) = records
        path = record.folder / PAGE if out is None else out
        about: dict[str, Any] = {"run": _from(path, record)}
        if about["run"] != "." or path.name != PAGE:
            _refuse_others(path, about)
        write_page(path, report_page(record, about))
    else:
        path = out or Path(PAGE)
        about = {"runs": [_from(path, record) for record in records]}
        _refuse_others(path, about)
        write_page(path, page(f"{len(records)} runs compared", *sections(records, by), about=about))
    return Reported(path=path, runs=records, skipped=found.skipped)


def grouped(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Runs that may be compared: of one command, and codecs of one kind of picture or map; codecs first."""
    groups: defaultdict[tuple[bool, str, bool, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        command, kind = record.command or "", facts.kind(record)
        groups[command != "train-vqgan", command, kind != "image", kind].append(record)
    return [groups[key] for key in sorted(groups)]


def sections(records: Sequence[RunRecord], by: Across | None) -> list[Html | None]:
    """The parts of a comparison, in order: a group of runs after the other."""
    called = dict(zip((record.folder for record in records), names(records), strict=True))
    groups = grouped(records)
    parts: list[Html | None] = [_head(records, groups, called)]
    for group in groups:
        of_group = [called[record.folder] for record in group]
        if len(groups) > 1:
            parts.append(el("h2", title(group), class_="group"))
        parts += [
            section("Held-out figures", _figures(group, of_group)),
            section("Reconstructions" if facts.kind(group[0]) else "Samples", side_by_side(group, of_group)),
            section("Curves", *_curves(group, of_group, by or _usual_axis(group))),
            section("Measured", _measured(group, of_group)),
            section("Data", _differing([_place(record) for record in group], of_group), _typed(group, of_group)),
            section("Settings", _differing([_settings(record) for record in group], of_group)),
            section("Environment", _differing([facts.environment(record) for record in group], of_group)),
        ]
    return parts


def title(group: Sequence[RunRecord], *, counted: bool = False) -> str:
    """`Codecs of pictures`, `Codec of segmentation maps`, `Priors`; counted, `3 priors`."""
    kind, many = facts.kind(group[0]), "" if len(group) == 1 else "s"
    of = f" of {'pictures' if kind == 'image' else OF_MAPS.get(kind, f'{kind} maps')}" if kind else ""
    said = f"{facts.noun(group[0])}{many}{of}"
    return f"{len(group)} {said[0].lower()}{said[1:]}" if counted else said


def names(records: Sequence[RunRecord]) -> list[str]:
    """What runs are called: as few of their folders' last names as tell them all apart."""
    parts = [record.folder.parts for record in records]
    few = next(count for count in range(1, 1 + max(map(len, parts))) if len({p[-count:] for p in parts}) == len(parts))
    return ["/".join(part[-few:]) for part in parts]


def _head(records: Sequence[RunRecord], groups: Sequence[Sequence[RunRecord]], called: Mapping[Path, str]) -> Html:
    logs = [log for record in records if (log := record.folder / "metrics.jsonl").exists()]
    when = max((datetime.fromtimestamp(log.stat().st_mtime).astimezone() for log in logs), default=None)
    counts = [title(group, counted=True) for group in groups]
    said = [*(counts if len(groups) > 1 else []), *([f"as of {when:%Y-%m-%d %H:%M %Z}"] if when else [])]
    notes = [f"{called[record.folder]}: {note}" for record in records for note in record.notes]
    return join(
        [
            el("p", "taming report", class_="eyebrow"),
            el("h1", counts[0] if len(groups) == 1 else f"{len(records)} runs"),
            el("p", " · ".join(said) or "Nothing is logged yet.", class_="soft"),
            *(el("p", note, class_="notice") for note in notes),
        ]
    )


def _figures(group: Sequence[RunRecord], called: Sequence[str]) -> Html | None:
    """The held-out figures of the best models, and how long they learned."""
    lines = [best_line(record) for record in group]
    if not any(lines):
        return None
    rows: list[list[str]] = [
        ["Step of the best model", *(f"{line['step']:,}" if line else "" for line in lines)],
        ["Images seen", *(f"{line['images']:,}" if is_number(line.get("images")) else "" for line in lines)],
        ["Time", *(facts.duration(line["seconds"]) if is_number(line.get("seconds")) else "" for line in lines)],
    ]
    notes = _Notes(called)
    compared = verdicts(group)
    for name, values in figures_of(group).items():
        units = {unit_of(name, record) for record, value in zip(group, values, strict=True) if value is not None}
        unit = units.pop() if len(units) == 1 else figure(name).unit
        head = join([figure(name).title, el("small", f" {unit}") if figure(name).better else None])
        rows.append([head, *notes.cells(values, compared[name])])
    return join([table(["", *_heads(called)], rows, class_="figures compared"), notes.shown()])


def _measured(group: Sequence[RunRecord], called: Sequence[str]) -> Html | None:
    """What `taming eval all` found of each run."""
    of_each = [{(one.result, one.title): one for one in taken(record)} for record in group]
    notes, rows = _Notes(called), []
    for key in dict.fromkeys(key for found in of_each for key in found):
        ones = [found.get(key) for found in of_each]
        better = next(one.better for one in ones if one is not None)
        conditions = [of_protocol(one.protocol) if one is not None else {} for one in ones]
        values = [one.value if one is not None else None for one in ones]
        rows.append([key[1], *notes.cells(values, verdict(values, conditions, better))])
    shown = table(["", *_heads(called)], rows, class_="figures compared")
    return join([shown, notes.shown()]) if shown else None


class _Notes:
    """Cells of a table of runs, and the notes below it that they refer to."""

    def __init__(self, called: Sequence[str]) -> None:
        self._called = called
        self._numbers: dict[str, int] = {}
        self._marked = False

    def cells(self, values: Sequence[float | None], verdict: Verdict) -> list[Html]:
        """Each value, the best one marked, and those that do not compare with a note."""
        found = []
        for n, value in enumerate(values):
            mark = None
            if n in verdict.unlike:
                note = f"{self._called[n]}: {verdict.unlike[n]}."
                mark = el("sup", str(self._numbers.setdefault(note, len(self._numbers) + 1)))
            self._marked = self._marked or n in verdict.best
            shown = "" if value is None else number(value)
            found.append(join([el("b", shown) if n in verdict.best else shown, mark]))
        return found

    def shown(self) -> Html | None:
        """What marks and numbers stand for."""
        said = [el("p", "Bold and underlined: the best of those measured alike.")] if self._marked else []
        if self._numbers:
            said.append(el("p", "Measured otherwise, and so not compared:"))
        said += [el("p", el("sup", str(mark)), " ", note) for note, mark in self._numbers.items()]
        return el("div", *said, class_="notes") if said else None


def _curves(group: Sequence[RunRecord], called: Sequence[str], across: Across) -> list[Html]:
    """Charts below the legend that all of them share."""
    charts = overlaid(group, called, across)
    legend = el("div", *(el("span", head) for head in _heads(called)), class_="legend")
    return [] if charts is None else [legend, charts]


def _heads(called: Sequence[str]) -> list[Html]:
    return [join([swatch(n), " ", name]) for n, name in enumerate(called)]


def _differing(of_each: Sequence[Mapping[str, str]], called: Sequence[str]) -> Html | None:
    """What is not the same in all runs as a table, the rest folded away."""
    every = dict.fromkeys(name for found in of_each for name in found)
    rows = {name: [found.get(name, "") for found in of_each] for name in every}
    same = {name: cells[0] for name, cells in rows.items() if len(set(cells)) == 1}
    differ = [[name, *cells] for name, cells in rows.items() if name not in same]
    shown = table(["", *_heads(called)], differ, class_="settings compared")
    rest = definitions(same.items())
    summary = f"{len(same)} more, the same in all" if len(called) > 1 else f"All {len(same)}"
    return join([shown, el("details", el("summary", summary), rest) if rest is not None else None])


def _place(record: RunRecord) -> dict[str, str]:
    """Where the run is, and its data; of each sha256 enough to tell them apart."""
    said = {"Run folder": str(record.folder), **facts.data(record)}
    return {name: SHA256.sub(r"\1", value) for name, value in said.items()}


def _typed(group: Sequence[RunRecord], called: Sequence[str]) -> Html | None:
    """The command line of each run, folded away."""
    lines = [
        join([el("div", head, class_="soft"), el("pre", line)])
        for head, record in zip(_heads(called), group, strict=True)
        if (line := facts.command_line(record))
    ]
    return el("details", el("summary", "What was typed"), *lines) if lines else None


def _settings(record: RunRecord) -> dict[str, str]:
    return {setting.name: setting.value for setting in facts.settings(record)}


def _usual_axis(group: Sequence[RunRecord]) -> Across:
    sizes = {record.config.get("train", {}).get("batch_size") for record in group}
    return "step" if len(sizes) == 1 else "images"


def _summary(n: int, record: RunRecord, compared: Mapping[str, Verdict]) -> dict[str, Any]:
    line = best_line(record)
    return {
        "path": str(record.folder),
        "command": record.command,
        **({"kind": facts.kind(record)} if facts.kind(record) else {}),
        **{name: record.newest.get(name) for name in ("step", "images", "seconds")},
        "best_step": record.best_step,
        "figures": figures_in(line),
        "best": [name for name, verdict in compared.items() if n in verdict.best],
        "unlike": {name: verdict.unlike[n] for name, verdict in compared.items() if n in verdict.unlike},
        "measured": {one.title: one.value for one in taken(record)},
        "notes": list(record.notes),
    }


def _from(path: Path, record: RunRecord) -> str:
    """Where a run is as seen from the page, so that a page which moves with its runs still knows them."""
    return os.path.relpath(record.folder, path.resolve().parent)


def _refuse_others(path: Path, about: Mapping[str, Any]) -> None:
    """UsageError where something is in the way of a page about these runs."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the page's file: -o {path / PAGE}")
    if not path.exists():
        return
    before = about_of(path)
    shown = before.get("runs") if isinstance(before, dict) else None
    if before != about and not (isinstance(shown, list) and all(run in about.get("runs", ()) for run in shown)):
        raise UsageError(f"{path} exists and is no earlier page of these runs; name another with -o, or remove it")
