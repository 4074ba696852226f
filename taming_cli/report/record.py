"""What a run folder records of a training, at any moment of it. Missing parts are empty, damaged ones are noted."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.checkpoint import ModelFile, read_header
from taming_cli.runtime.run.folder import read_settings, runs_below
from taming_cli.runtime.run.metrics import METRICS, figures_in, is_number, read_metrics
from taming_cli.runtime.run.sheets import CONDITION, PngFile, read_png
from taming_cli.runtime.schedule import Budget

EVAL, DRAWINGS = "eval.json", "eval"
"""The results of `taming eval all` in a run folder, and the folder of its drawings."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as its folder records it.

    `folder` is absolute; `train` and `validation` are the lines of metrics.jsonl by kind; `sheets` are in order of
    step, `conditions` the maps that the samples follow, by kind; `model` and `best` are the headers of the last and
    the best model; `measured` holds eval.json, results by name, and `drawings` what `taming eval all` drew; `notes`
    names what cannot be read.
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
    for path in paths:
        remedy = "name a run such as runs/train-vqgan/001, or a folder of runs"
        if not path.is_dir():
            reason = "is not a folder" if path.exists() else "does not exist"
            raise BadFileError(f"run folder {path} {reason}; {remedy}")
        if (path / "config.json").exists():
            read_settings(path)
            runs = [path]
        else:
            runs = list(runs_below(path, unreadable=skipped))
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
    measured = _json(folder / EVAL, notes)
    if not all(isinstance(result, dict) for result in measured.values()):
        notes.append(f"{folder / EVAL} was not written by eval all")
        measured = {}
    sheets = _pngs(folder / "samples", "step_*.png", notes)
    maps = _pngs(folder / "samples", f"{CONDITION}*.png", notes)
    return RunRecord(
        folder=folder.resolve(),
        command=settings.get("command"),
        inputs=settings.get("inputs", []),
        config=settings.get("config", {}),
        origins=settings.get("origins", {}),
        environment=_json(folder / "env.json", notes),
        train=[line for line in log.lines if line.get("kind") == "train"],
        validation=[line for line in log.lines if line.get("kind") == "validation"],
        sheets=sorted(sheets, key=lambda sheet: sheet.step),
        conditions={sheet.path.stem.removeprefix(CONDITION): sheet for sheet in maps},
        model=_header(folder / "checkpoints" / "last.safetensors", notes),
        best=_header(folder / "checkpoints" / "best.safetensors", notes),
        measured=measured,
        drawings=_pngs(folder / DRAWINGS, "*.png", notes),
        notes=notes,
    )


def _json(path: Path, notes: list[str]) -> Mapping[str, Any]:
    """The object in a JSON file; empty if there is no file, or if it is not one, which is noted."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        notes.append(f"{path} cannot be read: {error}")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{path} is not a JSON object")
        return {}
    return value


def _header(path: Path, notes: list[str]) -> ModelFile | None:
    if not path.exists():
        return None
    try:
        return read_header(path)
    except BadFileError as error:
        notes.append(str(error))
        return None


def _pngs(folder: Path, pattern: str, notes: list[str]) -> list[PngFile]:
    """The complete PNG files of a folder by name, with the step of those called `step_<number>.png`."""
    files = []
    for path in sorted(folder.glob(pattern)):
        step = re.fullmatch(r"step_(\d+)", path.stem)
        if step is None and pattern.startswith("step_"):
            continue
        try:
            files.append(read_png(path, int(step[1]) if step else 0))
        except BadFileError as error:
            notes.append(str(error))
    return files
