"""The record of a training in its run folder, readable at any time. Missing parts are empty; damaged ones are noted."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from taming_cli.config.parsing import parse_json
from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.checkpoint import ModelFile, read_header
from taming_cli.runtime.pacing import Budget
from taming_cli.runtime.run.folder import read_settings, runs_below
from taming_cli.runtime.run.metrics import METRICS, figures_in, is_number, read_metrics
from taming_cli.runtime.run.sheets import CONDITION, PngFile, read_png

T = TypeVar("T")
EVAL, DRAWINGS = "eval.json", "eval"
"""The results of `taming eval all` in a run folder, and the folder of its drawings."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as its folder records it.

    `folder` is absolute; `train` and `validation` are the lines of metrics.jsonl by kind; `sheets` are in order of
    step, `conditions` the maps that the samples follow, by kind; `model` and `best` are the headers of the last and
    the best model; `measured` holds eval.json, results by name, and `drawings` the pictures of `taming eval all`;
    `notes` names the files that cannot be read.
    """

    folder: Path
    command: str | None = None
    inputs: Sequence[str] = ()
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    train: Sequence[Mapping[str, Any]] = ()
    validation: Sequence[Mapping[str, Any]] = ()
    sheets: Sequence[PngFile] = ()
    conditions: Mapping[str, PngFile] = field(default_factory=dict)
    model: ModelFile | None = None
    best: ModelFile | None = None
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    drawings: Sequence[PngFile] = ()
    notes: Sequence[str] = ()

    @property
    def newest(self) -> Mapping[str, Any]:
        """The last line logged, with its step, images and seconds; empty before the first."""
        return max((*self.train[-1:], *self.validation[-1:]), key=lambda line: line["step"], default={})

    @property
    def logged_at(self) -> datetime | None:
        """The local time of the last line logged; None before the first."""
        log = self.folder / METRICS
        return datetime.fromtimestamp(log.stat().st_mtime).astimezone() if log.exists() else None

    @property
    def about(self) -> Mapping[str, Any]:
        """The metadata of the last model file besides its config; empty if there is none."""
        return self.model.about if self.model is not None else {}

    @property
    def best_step(self) -> int | None:
        """The step of the best model."""
        step = self.best.about.get("step") if self.best is not None else None
        return step if isinstance(step, int) else None

    @property
    def best_line(self) -> Mapping[str, Any]:
        """The validation of the best model, or the last one if its step was not validated; empty before the first."""
        at_best = [line for line in self.validation if line["step"] == self.best_step]
        return (at_best or self.validation or [{}])[-1]

    def spent(self) -> float | None:
        """The share of the training's budget used up to the last line logged; None if it is not known."""
        train = self.config.get("train", {})
        try:
            budget = Budget(steps=train["steps"], minutes=train["minutes"])
            return budget.spent(self.newest["step"], self.newest["seconds"])
        except (KeyError, TypeError, UsageError):
            return None

    def lines(self, kind: str) -> Sequence[Mapping[str, Any]]:
        """The lines of a kind, "train" or "validation"."""
        return self.train if kind == "train" else self.validation

    def points(self, kind: str, key: str, across: str = "step") -> list[tuple[float, float]]:
        """(step, value) of one figure, finite values only; `across` names another figure in place of the step."""
        return [
            (line[across], line[key])
            for line in self.lines(kind)
            if is_number(line.get(key)) and is_number(line.get(across))
        ]

    def figures(self, kind: str) -> list[str]:
        """The figures in the lines of a kind, in order of appearance."""
        return list(dict.fromkeys(name for line in self.lines(kind) for name in figures_in(line)))


class FoundRuns(NamedTuple):
    """Run folders, absolute and each once, and those that cannot be read, with the reason."""

    folders: list[Path]
    skipped: dict[str, str]


def find_runs(paths: Sequence[Path]) -> FoundRuns:
    """The runs in `paths`: each path is a run, or a folder of runs such as `runs/`.

    BadFileError for a path that is no folder, holds no run, or is a run whose settings cannot be read.
    """
    folders: dict[Path, None] = {}
    skipped: dict[str, str] = {}
    remedy = "name a run such as runs/train-vqgan/001, or a folder of runs"
    for path in paths:
        if not path.is_dir():
            reason = "is not a folder" if path.exists() else "does not exist"
            raise BadFileError(f"run folder {path} {reason}; {remedy}")
        is_run = (path / "config.json").exists()
        if is_run:
            read_settings(path)
        runs = [path] if is_run else list(runs_below(path, unreadable=skipped))
        if not runs:
            unreadable = "".join(f"; {name}: {reason}" for name, reason in skipped.items())
            raise BadFileError(f"{path} is not a run and contains no readable run{unreadable}; {remedy}")
        folders |= dict.fromkeys(run.resolve() for run in runs)
    return FoundRuns(list(folders), skipped)


def read_run(folder: Path) -> RunRecord:
    """Read a run folder. BadFileError if it does not exist."""
    if not folder.is_dir():
        raise BadFileError(f"run folder {folder} does not exist")
    notes: list[str] = []
    settings: Mapping[str, Any] = {}
    try:
        settings = read_settings(folder)
    except BadFileError as error:
        notes.append(str(error))
    log = read_metrics(folder / METRICS)
    if log.damaged:
        notes.append(f"{folder / METRICS} has {log.damaged} unreadable lines, which are left out")
    sheets = _pngs(folder / "samples", "step_*.png", notes)
    maps = _pngs(folder / "samples", f"{CONDITION}*.png", notes)
    return RunRecord(
        folder=folder.resolve(),
        command=settings.get("command"),
        inputs=settings.get("inputs", []),
        config=settings.get("config", {}),
        origins=settings.get("origins", {}),
        environment=_read(folder / "env.json", _json, notes) or {},
        train=[line for line in log.lines if line.get("kind") == "train"],
        validation=[line for line in log.lines if line.get("kind") == "validation"],
        sheets=sorted(sheets, key=lambda sheet: sheet.step),
        conditions={sheet.path.stem.removeprefix(CONDITION): sheet for sheet in maps},
        model=_read(folder / "checkpoints" / "last.safetensors", read_header, notes),
        best=_read(folder / "checkpoints" / "best.safetensors", read_header, notes),
        measured=_read(folder / EVAL, _results, notes) or {},
        drawings=_pngs(folder / DRAWINGS, "*.png", notes),
        notes=notes,
    )


def _read(path: Path, read: Callable[[Path], T], notes: list[str]) -> T | None:
    """The result of `read` for a file; None if there is no file, or if it cannot be read, which is noted."""
    try:
        return read(path) if path.exists() else None
    except BadFileError as error:
        notes.append(str(error))
        return None


def _json(path: Path) -> Mapping[str, Any]:
    try:
        value = parse_json(path.read_text())
    except (OSError, ValueError) as error:
        raise BadFileError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise BadFileError(f"{path} is not a JSON object")
    return value


def _results(path: Path) -> Mapping[str, Mapping[str, Any]]:
    results = _json(path)
    parts = {"protocol": dict, "details": dict, "warnings": list}
    for result in results.values():
        if not isinstance(result, dict) or any(type(result.get(name, of())) is not of for name, of in parts.items()):
            raise BadFileError(f"{path} was not written by eval all")
    return results


def _pngs(folder: Path, pattern: str, notes: list[str]) -> list[PngFile]:
    """The complete PNG files of a folder by name, with the step of those called `step_<number>.png`."""
    files = []
    for path in sorted(folder.glob(pattern)):
        step = re.fullmatch(r"step_(\d+)", path.stem)
        if step is None and pattern.startswith("step_"):
            continue
        file = _read(path, partial(read_png, step=int(step[1]) if step else 0), notes)
        files += [file] if file is not None else []
    return files
