"""Checks whether a run folder may be resumed, and reads its trainer file."""

import dataclasses
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from taming_cli.config import former
from taming_cli.config.fields import to_dict
from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.checkpoint import load_trainer
from taming_cli.runtime.run.data import Data, DataDifference, compare
from taming_cli.runtime.run.metrics import METRICS, read_metrics


def holds_work(folder: Path) -> bool:
    """Whether a run folder holds results of a training that was saved, regardless of its trainer file.

    A run that was killed before its first save has at most one validation in its log, and one sheet.
    """
    if (folder / "report.html").exists() or any((folder / "checkpoints").glob("*.safetensors")):
        return True
    if len(list((folder / "samples").glob("step_*.png"))) > 1:
        return True
    kinds = [line.get("kind") for line in read_metrics(folder / METRICS).lines]
    return "validation" in kinds[:-1]


def refuse_lost(folder: Path) -> None:
    """Raise UsageError for a trained run without its trainer file."""
    if holds_work(folder) and not (folder / "trainer.pt").exists():
        raise UsageError(
            f"{folder} holds a trained run, but its trainer.pt is gone, so it cannot be resumed; {new_run_from(folder)}"
        )


def new_run_from(folder: Path) -> str:
    """The remedy for a run that cannot be resumed: start a new one, from its newest model where there is one."""
    models = folder / "checkpoints"
    kept = sorted(models.glob("step_*.safetensors"), reverse=True)
    for path in (models / "last.safetensors", models / "best.safetensors", *kept):
        if path.exists():
            return f"start a new run from its model: --init {shlex.quote(str(path))} with another --out or --name"
    return "give another --out or --name"


def check_same(
    folder: Path,
    old: Mapping[str, Any],
    groups: Mapping[str, Any],
    inputs: Sequence[str],
    data: Callable[[], Data] | None,
) -> None:
    """Raise UsageError if a run, whose config.json holds `old`, has other settings or other data. Without `data`, the
    paths of the inputs are compared instead."""
    if data is not None:
        difference = compare(folder, old, inputs, data())
    elif old["inputs"] != list(inputs):
        raise UsageError(
            f"{folder} was made from {' '.join(old['inputs'])}; give the same inputs to resume it, or another --name"
        )
    else:
        difference = DataDifference(None)
    if difference.text:
        raise UsageError(f"{difference.text}; give the same inputs to resume it, or {new_run_from(folder)}")
    for name, config in groups.items():
        defaults = to_dict(type(config)())  # the values of settings that did not exist when the run was made
        before, after = {**defaults, **old["config"].get(name, {})}, to_dict(config)
        live = {field.name for field in dataclasses.fields(config) if field.metadata.get("live")}
        for key, value in after.items():
            was = before.get(key)
            if key in live or was == value or (key in difference.moved and None not in (was, value)):
                continue
            raise UsageError(
                f"{folder} has {key} {was!r}, not {value!r}; give the same value, or another --name; "
                "see: taming guide own-pictures"
            )


def read_trainer(path: Path, needed: Iterable[str]) -> dict[str, Any]:
    """The contents of a trainer file, which must include `needed`. BadFileError, with the remedy, where it is damaged
    or of another kind of training."""
    with _with_remedy(path):
        state = former.renamed(load_trainer(path), former.TRAINER)
        if missing := [name for name in needed if name not in state]:
            raise BadFileError(f"trainer file {path} belongs to another kind of training: it holds no {missing[0]!r}")
        return state


def load_state(path: Path, state: dict[str, Any], load: Callable[[dict[str, Any]], object]) -> None:
    """Pass the contents of a trainer file to `load`. BadFileError, with the remedy, where it is of another network."""
    with _with_remedy(path):
        try:
            load(state)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BadFileError(f"trainer file {path} does not fit the run's config.json ({reason})") from error


@contextmanager
def _with_remedy(path: Path) -> Iterator[None]:
    try:
        yield
    except BadFileError as error:
        raise BadFileError(f"{error}; restore the run's own trainer.pt, or {new_run_from(path.parent)}") from error
