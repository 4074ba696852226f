"""When a run folder may be gone on with, and what else to do with one."""

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
from taming_cli.runtime.run.data import Data, Verdict, compare
from taming_cli.runtime.run.metrics import METRICS, read_metrics


def holds_work(folder: Path) -> bool:
    """Whether a run folder holds results of a training that was saved, whatever became of its trainer file.

    A run that was killed before its first save has logged no more than its first validation, and drawn no more.
    """
    if (folder / "report.html").exists() or any((folder / "checkpoints").glob("*.safetensors")):
        return True
    if len(list((folder / "samples").glob("step_*.png"))) > 1:
        return True
    kinds = [line.get("kind") for line in read_metrics(folder / METRICS).lines]
    return "validation" in kinds[:-1]


def refuse_lost(folder: Path) -> None:
    """UsageError for a trained run without its trainer file."""
    if holds_work(folder) and not (folder / "trainer.pt").exists():
        raise UsageError(f"{folder} holds a trained run, but its trainer.pt is gone: it cannot go on; {anew(folder)}")


def anew(folder: Path) -> str:
    """What to do about a run that cannot go on: start a new one, from the newest model that it left."""
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
    """UsageError where a run, whose config.json holds `old`, has other settings or other data; without `data`, data
    are the same where their paths are."""
    if data is not None:
        found = compare(folder, old, inputs, data())
    elif old["inputs"] != list(inputs):
        raise UsageError(
            f"{folder} was made from {' '.join(old['inputs'])}; give the same inputs to go on, or another --name"
        )
    else:
        found = Verdict(None)
    if found.different:
        raise UsageError(f"{found.different}; give the same inputs to go on, or {anew(folder)}")
    for name, config in groups.items():
        usual = to_dict(type(config)())  # what a setting was before there was a name for it
        before, after = {**usual, **old["config"].get(name, {})}, to_dict(config)
        live = {field.name for field in dataclasses.fields(config) if field.metadata.get("live")}
        for key, value in after.items():
            was = before.get(key)
            if key in live or was == value or (key in found.moved and None not in (was, value)):
                continue
            raise UsageError(
                f"{folder} has {key} {was!r}, not {value!r}; give the same to go on, or another --name; "
                "see: taming guide own-pictures"
            )


def take_up_trainer(path: Path, needed: Iterable[str]) -> dict[str, Any]:
    """What a trainer file holds, of which `needed` must be there; BadFileError, with the remedy, where it is damaged,
    or of another kind of training."""
    with _with_remedy(path):
        state = former.renamed(load_trainer(path), former.TRAINER)
        if missing := [name for name in needed if name not in state]:
            raise BadFileError(f"trainer file {path} is of another kind of training: it holds no {missing[0]!r}")
        return state


def load_state(path: Path, state: dict[str, Any], load: Callable[[dict[str, Any]], object]) -> None:
    """`load` what a trainer file holds; BadFileError, with the remedy, where it is of another network."""
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
        raise BadFileError(f"{error}; put the run's own trainer.pt back, or {anew(path.parent)}") from error
