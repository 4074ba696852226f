"""The pace of a training: its budget and learning rate, its log, and when it validates, saves, stops and resumes; and
its result.

A training loop iterates over a `Pacing`, computes one step per iteration and reports its terms:

    with Pacing(run, state, config, ...) as pacing:
        for spent in pacing:
            with pacing.waiting():
                batch = ...
            pacing.report(step(state, batch, pacing.learning_rate))
            if pacing.validates:
                ...
"""

import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.prior import PriorTrainConfig
from taming_cli.errors import UsageError
from taming_cli.runtime.checkpoint import ModelFile, read_header, save_model, save_trainer
from taming_cli.runtime.distributed import World
from taming_cli.runtime.interrupt import StopRequest
from taming_cli.runtime.run.folder import Run, WriteReport, best_of
from taming_cli.runtime.run.metrics import read_metrics

LOG_EVERY = 10
"""Steps between two lines of metrics.jsonl; their values are means over those steps."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The length of a training: optimiser steps, minutes of wall-clock time, or whichever ends first; 0 is no limit."""

    steps: int
    minutes: float

    def __post_init__(self) -> None:
        if not self.steps and not self.minutes:
            raise UsageError("steps and minutes are both 0; limit the training with --steps or --minutes")

    def spent(self, step: int, seconds: float) -> float:
        """The share used after `step` steps and `seconds`: 0 at the start, 1 or more at the end."""
        return max(
            step / self.steps if self.steps else 0.0,
            seconds / (60 * self.minutes) if self.minutes else 0.0,
        )


def warm_up(step: int, warmup_steps: int) -> float:
    """Linear from 1/warmup to 1 over the first `warmup_steps` steps; `step` counts from 0."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def cosine(spent: float, final: float) -> float:
    """Half a cosine from 1 at `spent` = 0 to `final` at 1 (Loshchilov & Hutter 2017, one cycle)."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, spent))))


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What `on_step` receives after each step, and again after each validation.

    `spent` is the share of the budget used, 0 to 1. `values` holds the mean terms of the last LOG_EVERY steps after
    each LOG_EVERY-th step, the figures of the validation where `validation` is set, and is empty otherwise.
    """

    step: int
    spent: float
    seconds: float
    images_per_second: float
    values: Mapping[str, float]
    validation: bool = False


OnStep = Callable[[Progress], None]


class StepMeans:
    """Means of loss terms, the rate of images and the time spent waiting for batches, since they were last taken.

    `terms` are those of earlier steps by name, which are extended here; `take` clears them.
    """

    def __init__(self, terms: dict[str, list[Tensor]] | None = None) -> None:
        self.images_per_second = self.waiting_seconds = 0.0
        self._terms = {} if terms is None else terms
        self._reset()

    def _reset(self) -> None:
        self._images, self._steps, self._waiting, self._since = 0, 0, 0.0, time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the body of this context as waiting for a batch."""
        began = time.monotonic()
        yield
        self._waiting += time.monotonic() - began

    def add(self, terms: Mapping[str, Tensor], images: int) -> None:
        """Add one step: its scalar terms, on the CPU, and its number of images."""
        for name, value in terms.items():
            self._terms.setdefault(name, []).append(value)
        self._images += images
        self._steps += 1

    def take(self) -> dict[str, float]:
        """Return the means and reset. Sets `images_per_second`, and `waiting_seconds` per step, since the last call."""
        self.images_per_second = self._images / (time.monotonic() - self._since)
        self.waiting_seconds = self._waiting / max(1, self._steps)
        means = {name: torch.stack(values).mean().item() for name, values in self._terms.items()}
        self._terms.clear()
        self._reset()
        return means


class TrainingState(Protocol):
    """The counters that codec and prior trainings share; `seconds` is wall-clock time over all sessions of the run, and
    `unlogged` holds the terms of the steps since the last line of the log."""

    world: World
    step: int
    images_seen: int
    seconds: float
    best_step: int
    validation: dict[str, float]
    unlogged: dict[str, list[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The model files of a finished training and their validations: `step` and `validation` are those of the last
    model, `best_step` and `best_validation` those of the best one."""

    run: Path
    last: Path
    best: Path
    step: int
    validation: Mapping[str, float]
    best_step: int
    best_validation: Mapping[str, float]

    @classmethod
    def of(cls, run: Run, state: TrainingState, **more: Any) -> Self:
        """The result of a saved run; `more` are the fields of a subclass."""
        best = best_of(run, state.world)
        return cls(
            run=run.folder,
            last=run.last,
            best=best.path,
            step=state.step,
            validation=state.validation,
            best_step=best.step,
            best_validation=best.validation,
            **more,
        )


class Checkpoint(NamedTuple):
    """The contents of one save: the trainer file, the last model, and the same model with the metadata of the best."""

    trainer: Mapping[str, Any]
    last: ModelFile
    best: ModelFile


class Pacing:
    """Iterates over the steps of a training, and does the work between two steps. A context manager.

    Yields the share of the budget that is spent before each step, until it is 1. Between two steps it saves
    `checkpoint()`: after each validation, every `save_every` minutes, and when a signal requests a stop, for which it
    then raises Interrupted. On entry it writes the files that a killed run has left unwritten, and drops the lines of
    the log that the run will log again.

    Every process iterates; the first one logs, calls `on_step`, writes files and calls `write_report` after each save.
    `started` is the time.monotonic() at which the session began.
    """

    def __init__(
        self,
        run: Run,
        state: TrainingState,
        config: CodecTrainConfig | PriorTrainConfig,
        checkpoint: Callable[[], Checkpoint],
        *,
        started: float,
        on_step: OnStep | None = None,
        write_report: WriteReport | None = None,
    ) -> None:
        self._run, self._state, self._config, self._world = run, state, config, state.world
        self._checkpoint, self._on_step, self._write_report = checkpoint, on_step, write_report
        self._began = started - state.seconds
        self._budget = Budget(steps=config.steps, minutes=config.minutes)
        self._spent = self._budget.spent(state.step, state.seconds)
        self._saved_at, self._images_seen = state.seconds, state.images_seen
        self._means, self._stop = StepMeans(state.unlogged), StopRequest()
        self.learning_rate = 0.0
        """Of the present step: warm-up, then a cosine over the budget."""
        self.validates = False
        """Whether a validation is due after the step that was just reported."""

    def __enter__(self) -> "Pacing":
        self._world.agree(self._state.step)
        if self._state.step:
            self._complete_files()
        if self._world.first:
            self._run.rewind_log(self._state.step)
        self._stop.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop.__exit__(*error)

    def __iter__(self) -> Iterator[float]:
        state, config = self._state, self._config
        while self._spent < 1:
            schedule = warm_up(state.step, config.warmup) * cosine(self._spent, config.final_lr)
            self.learning_rate = config.learning_rate * schedule
            yield self._spent
            if self.validates:
                self._save()
                if config.snapshots and self._world.first:
                    self._run.keep(state.step)
            elif state.seconds - self._saved_at > 60 * config.save_every:
                self._save()
            if any(self._world.most(float(self._stop.requested is not None))) and self._spent < 1:
                self._save()
                self._world.wait()  # if a process ended before the first one has saved, that one would end too
                resume = f"taming {self._run.command} --resume --out {shlex.quote(str(self._run.folder))}"
                raise self._stop.interrupted(
                    f"stopped after step {state.step}, everything is saved; resume with: {resume}"
                )

    def waiting(self) -> Any:
        """A context whose body counts as waiting for the batch of this step."""
        return self._means.waiting()

    def report(self, terms: Mapping[str, Tensor], more: Callable[[], Mapping[str, float]] = dict) -> None:
        """Record the step that was just computed: its scalar terms, on the CPU.

        `more` is called at each LOG_EVERY-th step, for values of the log besides the terms' means.
        """
        state = self._state
        (state.seconds,) = self._world.most(time.monotonic() - self._began)
        before, self._spent = self._spent, self._budget.spent(state.step, state.seconds)
        every = self._config.val_every
        self.validates = self._spent >= 1 or int(before / every) < int(self._spent / every)
        self._means.add(terms, state.images_seen - self._images_seen)
        self._images_seen = state.images_seen
        values: dict[str, float] = {}
        if state.step % LOG_EVERY == 0:
            values = {**self._means.take(), **more(), "learning_rate": self.learning_rate}
            values["images_per_second"] = self._means.images_per_second
            values["waiting_seconds"] = self._means.waiting_seconds
            if self._world.first:
                self.log("train", **values)
        self._notify(values)

    def log(self, kind: str, **values: Any) -> None:
        """Append a line to metrics.jsonl, with the step, the images seen and the seconds so far."""
        state = self._state
        self._run.log(kind=kind, step=state.step, images=state.images_seen, seconds=state.seconds, **values)

    def report_validation(self) -> None:
        """Pass the state's validation to `on_step`."""
        self._notify(self._state.validation, validation=True)

    def _notify(self, values: Mapping[str, float], *, validation: bool = False) -> None:
        if self._on_step is not None and self._world.first:
            progress = Progress(
                step=self._state.step,
                spent=min(1.0, self._spent),
                seconds=self._state.seconds,
                images_per_second=self._means.images_per_second,
                values=values,
                validation=validation,
            )
            self._on_step(progress)

    def _save(self) -> None:
        """Flush what a resume does not write again, write the trainer file, and then the models of the same step;
        `_complete_files` repairs a kill between."""
        files = self._checkpoint()
        self._saved_at = self._state.seconds
        if not self._world.first:
            return
        self._run.sync()
        save_trainer(self._run.trainer, files.trainer)
        for path, model in self._models(files):
            save_model(path, model)
        if self._write_report is not None:
            self._write_report(self._run.folder)

    def _complete_files(self) -> None:
        """Write the models that are missing because the run was killed just after it wrote their trainer file."""
        if self._world.by_first(lambda: any(self._outdated(path) for path in self._model_paths())):
            files = self._checkpoint()
            for path, model in self._models(files) if self._world.first else ():
                if self._outdated(path):
                    save_model(path, model)
        step = self._state.step
        if self._config.snapshots and self._world.first and not self._run.kept(step).exists():
            lines = read_metrics(self._run.metrics).lines
            if any(line["kind"] == "validation" and line["step"] == step for line in lines):
                self._run.keep(step)

    def _models(self, files: Checkpoint) -> Iterator[tuple[Path, ModelFile]]:
        return zip(self._model_paths(), (files.last, files.best), strict=False)

    def _model_paths(self) -> list[Path]:
        """The model files of this step: the last model, and the best one where it is the same."""
        best = [self._run.best] if self._state.best_step == self._state.step else []
        return [self._run.last, *best]

    def _outdated(self, path: Path) -> bool:
        return not path.exists() or bool(read_header(path).about["step"] != self._state.step)
