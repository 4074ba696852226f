"""What a run folder tells of a training, read at any moment of it: what is missing or broken is left out and noted."""

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.checkpoint import ModelFile, read_header
from taming_cli.runtime.rundir import read_settings
from taming_cli.runtime.schedule import Budget

PNG_SIGNATURE, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
EVAL, DRAWINGS = "eval.json", "eval"
"""Where `taming eval all` leaves its results in a run folder, and what it draws."""
NOT_FIGURES = ("step", "images", "seconds")


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A PNG: reconstructions or samples as of `step`; width and height in pixels, size in bytes."""

    step: int
    path: Path
    width: int
    height: int
    bytes: int


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

    def points(self, kind: str, key: str) -> list[tuple[float, float]]:
        """(step, value) of one figure, without values that are not finite. `kind` is "train" or "validation"."""
        lines = self.train if kind == "train" else self.validation
        return [(line["step"], line[key]) for line in lines if is_number(line.get(key))]

    def figures(self, kind: str) -> list[str]:
        """Which figures the lines of that kind hold, in order of appearance."""
        lines = self.train if kind == "train" else self.validation
        names = dict.fromkeys(name for line in lines for name in line if name not in NOT_FIGURES)
        return [name for name in names if self.points(kind, name)]


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
    lines = read_metrics(folder / "metrics.jsonl", notes)
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
        drawings=[sheet for path in sorted((folder / DRAWINGS).glob("*.png")) if (sheet := _sheet(path, notes))],
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
            lines.append(line)
        else:
            broken += 1
    if broken:
        notes.append(f"{path} has {broken} unreadable lines, which are left out")
    return lines


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


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


def _sheet(path: Path, notes: list[str], step: int = 0) -> Sheet | None:
    data = path.read_bytes()
    if not data.startswith(PNG_SIGNATURE) or not data.endswith(PNG_END):
        notes.append(f"{path} is not a whole PNG file")
        return None
    width, height = struct.unpack(">II", data[16:24])
    return Sheet(step=step, path=path, width=width, height=height, bytes=len(data))
