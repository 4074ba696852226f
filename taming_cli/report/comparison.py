"""`taming report`: writes the page of one run again, or one page that compares several runs."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from taming_cli.errors import UsageError
from taming_cli.report import facts
from taming_cli.report.charts import number
from taming_cli.report.comparable import Ranking, Row, protocol_conditions, rank, ranked_figures
from taming_cli.report.curves import Across, overlaid
from taming_cli.report.figures import figure, results_of, unit_of
from taming_cli.report.page import report_page
from taming_cli.report.pictures import side_by_side
from taming_cli.report.record import RunRecord, find_runs, read_run
from taming_cli.report.render import PAGE, about_of, render, write_page
from taming_cli.runtime.run.metrics import figures_in, is_number

SHA256 = re.compile("([0-9a-f]{12})[0-9a-f]{52}")
MAPS = {"image": "pictures", "edges": "edge maps", "pose": "poses"}
"""The content of a codec by kind; other kinds are named like `depth maps`."""


@dataclass(frozen=True, kw_only=True)
class Reported:
    """The page, its runs, and the folders whose runs cannot be read, each with the reason."""

    path: Path
    runs: Sequence[RunRecord]
    skipped: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, with the figures of each run's best model as in metrics.jsonl."""
        runs = []
        for group in grouped(self.runs):
            ranked = {name: ranking for name, (_, ranking) in ranked_figures(group).items()}
            runs += [_summary(n, record, ranked) for n, record in enumerate(group)]
        return {"path": str(self.path), "runs": runs, "skipped": dict(self.skipped)}


class Differences(NamedTuple):
    """Facts that differ between runs, and facts that all of them share."""

    rows: Sequence[Row]
    shared: Mapping[str, str]


def report(runs: Sequence[Path], *, out: Path | None = None, by: Across | None = None) -> Reported:
    """Write the page of the runs in these folders, each a run or a folder of runs.

    The page of one run is its `report.html`; several runs are compared in `out`, by default `report.html` in the
    working directory. `by` is the charts' horizontal axis: by default steps, or images if batch sizes differ. An
    existing page is replaced if the new one shows all of its runs. UsageError if anything else exists at `out`;
    BadFileError for a folder that is not a run and contains none.
    """
    folders, skipped = find_runs(runs)
    records = [read_run(folder) for folder in folders]
    if len(records) == 1:
        path = out or records[0].folder / PAGE
        about: dict[str, Any] = {"run": _relative(records[0], path)}
        if about["run"] != "." or path.name != PAGE:
            _refuse_others(path, about)
        write_page(path, report_page(records[0], about))
    else:
        path = out or Path(PAGE)
        about = {"runs": [_relative(record, path) for record in records]}
        _refuse_others(path, about)
        write_page(path, comparison_page(records, by, about))
    return Reported(path=path, runs=records, skipped=skipped)


def comparison_page(records: Sequence[RunRecord], by: Across | None, about: Mapping[str, Any]) -> bytes:
    """The page that compares several runs, group by group; `about` as in `render`."""
    name_of = {record.folder: name for record, name in zip(records, names(records), strict=True)}
    groups: list[dict[str, Any]] = []
    for group in grouped(records):
        called = [name_of[record.folder] for record in group]
        batch_sizes = {record.config.get("train", {}).get("batch_size") for record in group}
        groups.append(
            {
                "title": title(group),
                "records": group,
                "names": called,
                "codec": bool(facts.kind(group[0])),
                "figures": figures(group),
                "pictures": side_by_side(group),
                "curves": overlaid(group, called, by or ("step" if len(batch_sizes) == 1 else "images")),
                "results": results(group),
                "data": differences([_data(record) for record in group]),
                "settings": differences([{one.name: one.value for one in facts.settings(record)} for record in group]),
                "environment": differences([facts.environment(record) for record in group]),
            }
        )
    return render(
        "comparison.html",
        about=about,
        title=f"{len(records)} runs compared",
        heading=f"{len(records)} runs",
        groups=groups,
        counts=[title(group["records"], counted=True) for group in groups],
        logged_at=max((record.logged_at for record in records if record.logged_at is not None), default=None),
        notes=[f"{name_of[record.folder]}: {note}" for record in records for note in record.notes],
    )


def grouped(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Comparable runs: of one command, and for codecs of one kind of picture or map; codecs come first."""
    groups: defaultdict[tuple[bool, str, bool, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        command, kind = record.command or "", facts.kind(record)
        groups[command != "train-vqgan", command, kind != "image", kind].append(record)
    return [groups[key] for key in sorted(groups)]


def title(group: Sequence[RunRecord], *, counted: bool = False) -> str:
    """`Codecs of pictures`, `Codec of segmentation maps`, `Priors`; with `counted`, `3 priors`."""
    kind, plural = facts.kind(group[0]), "" if len(group) == 1 else "s"
    content = f" of {MAPS.get(kind, f'{kind} maps')}" if kind else ""
    text = f"{facts.noun(group[0])}{plural}{content}"
    return f"{len(group)} {text[0].lower()}{text[1:]}" if counted else text


def names(records: Sequence[RunRecord]) -> list[str]:
    """The runs' names: as few trailing components of their folders' paths as make them distinct."""
    parts = [record.folder.parts for record in records]
    few = next(count for count in range(1, 1 + max(map(len, parts))) if len({p[-count:] for p in parts}) == len(parts))
    return ["/".join(part[-few:]) for part in parts]


def figures(group: Sequence[RunRecord]) -> list[Row]:
    """The held-out figures of the best models, and the length of their training."""
    lines = [record.best_line for record in group]
    rows = [
        Row(title, [write(line[key]) if is_number(line.get(key)) else "" for line in lines])
        for title, key, write in (
            ("Step of the best model", "step", "{:,}".format),
            ("Images seen", "images", "{:,}".format),
            ("Time", "seconds", facts.duration),
        )
    ]
    for name, (values, ranking) in ranked_figures(group).items():
        units = {unit_of(name, record) for record, value in zip(group, values, strict=True) if value is not None}
        unit = units.pop() if len(units) == 1 else figure(name).unit
        rows.append(Row(figure(name).title, _texts(values), unit if figure(name).better else "", ranking))
    return rows if any(lines) else []


def results(group: Sequence[RunRecord]) -> list[Row]:
    """The results of `taming eval all`."""
    columns = [{(result.measurement, result.title): result for result in results_of(record)} for record in group]
    rows = []
    for key in dict.fromkeys(key for column in columns for key in column):
        row = [column.get(key) for column in columns]
        better = next(result.better for result in row if result is not None)
        conditions = [protocol_conditions(result.protocol) if result is not None else {} for result in row]
        values = [result.value if result is not None else None for result in row]
        rows.append(Row(key[1], _texts(values), ranking=rank(values, conditions, better)))
    return rows


def differences(columns: Sequence[Mapping[str, str]]) -> Differences:
    """Facts by name, of several runs."""
    rows = {name: [column.get(name, "") for column in columns] for column in columns for name in column}
    shared = {name: texts[0] for name, texts in rows.items() if len(set(texts)) == 1}
    return Differences([Row(name, texts) for name, texts in rows.items() if name not in shared], shared)


def _texts(values: Iterable[float | None]) -> list[str]:
    return ["" if value is None else number(value) for value in values]


def _data(record: RunRecord) -> dict[str, str]:
    """The run folder and its data; a sha256 is cut to its first digits."""
    data = {"Run folder": str(record.folder), **facts.data(record)}
    return {name: SHA256.sub(r"\1", value) for name, value in data.items()}


def _summary(n: int, record: RunRecord, ranked: Mapping[str, Ranking]) -> dict[str, Any]:
    return {
        "path": str(record.folder),
        "command": record.command,
        **({"kind": facts.kind(record)} if facts.kind(record) else {}),
        **{name: record.newest.get(name) for name in ("step", "images", "seconds")},
        "best_step": record.best_step,
        "figures": figures_in(record.best_line),
        "best": [name for name, ranking in ranked.items() if n in ranking.best],
        "unlike": {name: ranking.different[n] for name, ranking in ranked.items() if n in ranking.different},
        "measured": {result.title: result.value for result in results_of(record)},
        "notes": list(record.notes),
    }


def _relative(record: RunRecord, path: Path) -> str:
    """A run's folder relative to the page's, so that a page that moves with its runs is still recognised."""
    return os.path.relpath(record.folder, path.resolve().parent)


def _refuse_others(path: Path, about: Mapping[str, Any]) -> None:
    """UsageError unless `path` is free, or an earlier page of these runs."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the page's file: -o {path / PAGE}")
    if not path.exists():
        return
    before = about_of(path)
    shown = before.get("runs") if isinstance(before, dict) else None
    if before != about and not (isinstance(shown, list) and all(run in about.get("runs", ()) for run in shown)):
        raise UsageError(f"{path} exists and is not an earlier page of these runs; name another with -o, or remove it")
