"""What a run folder tells of a training, read at any moment of it: what is missing or broken is left out and noted."""

import json
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from taming_cli.config import former
from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.checkpoint import ModelFile, read_header
from taming_cli.runtime.pacing import Budget
from taming_cli.runtime.run.folder import DEEPEST, read_settings
from taming_cli.runtime.run.metrics import figures_in, is_number
from taming_cli.runtime.run.sheets import CONDITION, Sheet

PNG_SIGNATURE, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
EVAL, DRAWINGS = "eval.json", "eval"
"""Where `taming eval all` leaves its results in a run folder, and what it draws."""
SETTINGS, METRICS = "config.json", "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as its folder tells it. `folder` is absolute; `train` and `validation` are the lines of metrics.jsonl by
    kind, in order; `sheets` by step; `model` and `best` the headers of the last and the best model file; `notes` says
    what could not be read."""

    folder: Path
    command: str | None
    inputs: Sequence[str]
    config: Mapping[str, Mapping[str, Any]]
    origins: Mapping[str, str]
    environment: Mapping[str, Any]
    train: Sequence[Mapping[str, Any]]
    validation: Sequence[Mapping[str, Any]]
    sheets: Sequence[Sheet]
    model: ModelFile | None
    best: ModelFile | None
    notes: Sequence[str]
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of `eval.json`, what `taming eval all` wrote: results by name."""

    drawings: Sequence[Sheet] = ()
    """The pictures that it drew, in `eval/`; without a step."""

    conditions: Mapping[str, Sheet] = field(default_factory=dict)
    """By kind, the maps that the samples were drawn for; without a step."""

    @property
    def newest(self) -> Mapping[str, Any]:
        """Step, images and seconds of the last line logged; empty before the first."""
        return max((*self.train[-1:], *self.validation[-1:]), key=lambda line: line["step"], default={})

    @property
    def about(self) -> Mapping[str, Any]:
        """What the last model file says besides its config; empty where there is none."""
        return self.model.about if self.model is not None else {}

    @property
    def best_step(self) -> int | None:
        """The step of the best model file."""
        step = self.best.about.get("step") if self.best is not None else None
        return step if isinstance(step, int) else None

    def spent(self) -> float | None:
        """The share of the training's budget that the last line logged had used; None where that is not known."""
        train = self.config.get("train", {})
        try:
            budget = Budget(steps=train["steps"], minutes=train["minutes"])
            return budget.spent(self.newest["step"], self.newest["seconds"])
        except (KeyError, TypeError, UsageError):
            return None

    def points(self, kind: str, key: str, across: str = "step") -> list[tuple[float, float]]:
        """(step, value) of one figure, without values that are not finite. `kind` is "train" or "validation"; `across`
        another figure in place of the step."""
        lines = self.train if kind == "train" else self.validation
        return [(line[across], line[key]) for line in lines if is_number(line.get(key)) and is_number(line.get(across))]

    def figures(self, kind: str) -> list[str]:
        """Which figures the lines of that kind hold, in order of appearance."""
        lines = self.train if kind == "train" else self.validation
        return list(dict.fromkeys(name for line in lines for name in figures_in(line)))


class FoundRuns(NamedTuple):
    """Run folders, absolute and each once, and those whose settings cannot be read, with the reason."""

    folders: list[Path]
    skipped: dict[str, str]


def find_runs(paths: Sequence[Path]) -> FoundRuns:
    """The runs in these folders: each is one, or holds some at most DEEPEST folders below, such as `runs/`.

    BadFileError for a folder that is not there, holds no run, or whose own settings cannot be read.
    """
    found: dict[Path, None] = {}
    skipped: dict[str, str] = {}
    for path in paths:
        if not path.is_dir():
            what = "is no folder" if path.exists() else "does not exist"
            raise BadFileError(
                f"run folder {path} {what}; name a run such as runs/train-vqgan/001, or a folder of runs"
            )
        if (path / SETTINGS).exists():
            read_settings(path)
            found[path.resolve()] = None
            continue
        below = dict.fromkeys(_runs_below(path, DEEPEST, skipped))
        if not below:
            broken = "".join(f"; {name}: {reason}" for name, reason in skipped.items())
            raise BadFileError(
                f"{path} is no run and holds none that can be read{broken}; name a run such as runs/train-vqgan/001, "
                "or a folder of runs"
            )
        found |= below
    return FoundRuns(list(found), skipped)


def _runs_below(folder: Path, deepest: int, skipped: dict[str, str]) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            inside = sorted(folder / entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    except OSError as error:
        skipped[str(folder)] = error.strerror or str(error)
        return
    for path in inside:
        try:
            read_settings(path)
        except BadFileError as error:
            if (path / METRICS).exists():
                skipped[str(path)] = str(error)
            elif deepest > 1:
                yield from _runs_below(path, deepest - 1, skipped)
        else:
            yield path.resolve()


def read_run(folder: Path) -> RunRecord:
    """Read what `folder` holds. BadFileError where there is no such folder."""
    if not folder.is_dir():
        raise BadFileError(f"run folder {folder} does not exist")
    notes: list[str] = []
    try:
        settings = read_settings(folder)
    except BadFileError as error:
        settings = {}
        notes.append(str(error))
    lines = read_metrics(folder / METRICS, notes)
    config = settings.get("config")
    return RunRecord(
        folder=folder.resolve(),
        command=settings.get("command"),
        inputs=settings.get("inputs", []),
        config=config if isinstance(config, dict) else {},
        origins=settings.get("origins", {}),
        environment=_environment(folder / "env.json", notes),
        train=[line for line in lines if line.get("kind") == "train"],
        validation=[line for line in lines if line.get("kind") == "validation"],
        sheets=_sheets(folder / "samples", notes),
        model=_header(folder / "checkpoints" / "last.safetensors", notes),
        best=_header(folder / "checkpoints" / "best.safetensors", notes),
        notes=notes,
        measured=_measured(folder / EVAL, notes),
        drawings=_pngs(folder / DRAWINGS, "*.png", notes),
        conditions={
            sheet.path.stem.removeprefix(CONDITION): sheet
            for sheet in _pngs(folder / "samples", f"{CONDITION}*.png", notes)
        },
    )


def _measured(path: Path, notes: list[str]) -> Mapping[str, Mapping[str, Any]]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        notes.append(f"{path} cannot be read: {error}")
        return {}
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        notes.append(f"{path} is not what eval all writes")
        return {}
    return found


def read_metrics(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are whole and have a step; a last one still being written is passed over."""
    lines, broken = [], 0
    texts = path.read_text(errors="replace").splitlines() if path.is_file() else []
    for number, text in enumerate(texts):
        try:
            line = json.loads(text)
        except ValueError:
            broken += number < len(texts) - 1
            continue
        if isinstance(line, dict) and is_number(line.get("step")):
            lines.append(former.renamed(line, former.METRICS))
        else:
            broken += 1
    if broken:
        notes.append(f"{path} has {broken} unreadable lines, which are left out")
    return lines


def _environment(path: Path, notes: list[str]) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        environment = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        notes.append(f"{path} cannot be read: {error}")
        return {}
    return environment if isinstance(environment, dict) else {}


def _header(path: Path, notes: list[str]) -> ModelFile | None:
    if not path.exists():
        return None
    try:
        return read_header(path)
    except BadFileError as error:
        notes.append(str(error))
        return None


def _sheets(folder: Path, notes: list[str]) -> list[Sheet]:
    sheets = []
    for path in folder.glob("step_*.png"):
        step = re.fullmatch(r"step_(\d+)\.png", path.name)
        sheet = _sheet(path, notes, int(step[1])) if step else None
        sheets += [sheet] if sheet else []
    return sorted(sheets, key=lambda sheet: sheet.step)


def _pngs(folder: Path, pattern: str, notes: list[str]) -> list[Sheet]:
    return [sheet for path in sorted(folder.glob(pattern)) if (sheet := _sheet(path, notes))]


def _sheet(path: Path, notes: list[str], step: int = 0) -> Sheet | None:
    data = path.read_bytes()
    if not data.startswith(PNG_SIGNATURE) or not data.endswith(PNG_END):
        notes.append(f"{path} is not a whole PNG file")
        return None
    width, height = struct.unpack(">II", data[16:24])
    return Sheet(step=step, path=path, width=width, height=height, bytes=len(data))
