"""Train a prior: `fit` is `taming train-prior`."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.data.images import grid, write_png
from taming_cli.data.tokens.header import RULE
from taming_cli.errors import UsageError
from taming_cli.prior import memorization
from taming_cli.prior.batch_order import Rows
from taming_cli.prior.batches import TokenSet, data_of, fixed_windows, train_batch, validation_batch
from taming_cli.prior.draw import draw
from taming_cli.prior.fsdp import is_sharded
from taming_cli.prior.initial import first_prior, saved_prior
from taming_cli.prior.layout import NOT_GIVEN
from taming_cli.prior.model import RISING, SUGGESTED, prior_file
from taming_cli.prior.networks.pixelsnail import PixelSNAIL
from taming_cli.prior.state import PriorState, moved, prior_step, read_state, start
from taming_cli.runtime.checkpoint import ModelFile
from taming_cli.runtime.device import pick_device, pick_precision
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.model_files import recorded
from taming_cli.runtime.pacing import Checkpoint, OnStep, Pacing, Trained
from taming_cli.runtime.run.folder import Place, Run, WriteReport, inspect_run, open_run
from taming_cli.runtime.run.resume import load_state, new_run_from
from taming_cli.runtime.run.sheets import CONDITION, Layout, stamp
from taming_cli.runtime.run.tensorboard import check_installed

COMMAND = "train-prior"
COMPARED = 64
"""Training windows in each validation, to compare with the held-out ones."""
_log = logging.getLogger(__name__)
Render = Callable[[Tensor], Tensor]
"""Codes (n, h, w) -> pictures uint8 (n, 3, H, W). Passed in, since priors do not import codecs."""
RenderGiven = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""The same for codes and their conditions, by kind."""


@dataclass(frozen=True, kw_only=True)
class TrainedPrior(Trained):
    """A trained prior, and `notes` for the user. The best model has the fewest nats/token on held-out pictures."""

    notes: tuple[str, ...]


def fit(
    tokens: Sequence[Path],
    *,
    prior: PriorConfig,
    train: PriorTrainConfig,
    codec: ModelFile,
    conditions: Mapping[str, ModelFile] = MappingProxyType({}),
    codebooks: Mapping[str, Tensor] = MappingProxyType({}),
    place: Place | None = None,
    render: RenderGiven | None = None,
    render_conditions: Mapping[str, Render] = MappingProxyType({}),
    origins: Mapping[str, str] | None = None,
    on_step: OnStep | None = None,
    write_report: WriteReport | None = None,
    world: World = ALONE,
) -> TrainedPrior:
    """Train a prior on token files of one codec. The result is a run folder, whose model files include the codec.

    A run that was interrupted is resumed where `place` names it and the settings are the same. Codebook size,
    conditions and the largest possible window follow from the token files. With `train.init`, the architecture is that
    of the prior named there, to which conditions of the token files that it lacks are added.

    `conditions` are the codecs of the token files' condition maps, by kind; codes that a rule computes need none.
    `codebooks` (K, D) are those of the codec, under "", and of conditions, by kind, from which a new prior begins.
    `render` draws samples at each validation, and `render_conditions`, by kind, draws the maps that condition them,
    once.

    Several processes share each batch: `train.batch_size` is the size for all of them together. The first process
    writes files. It calls `on_step` after each step, and `write_report` with the run folder after each save.

    Raises UsageError for settings or files that do not fit, BadFileError, NonFiniteLossError, and Interrupted once a
    signal has requested a stop and everything is saved.
    """
    began = time.monotonic()
    if train.tensorboard:
        check_installed()
    train = replace(train, init=recorded(train.init))
    data = TokenSet(tokens, kinds=train.cond, level=prior.level)
    _refuse_other_codecs(codec, conditions, data, tokens[0])
    rows, held = data.split(train.held)
    if train.patience and not len(held):
        raise UsageError(f"patience is {train.patience}, but {tokens[0]} has no second picture to hold out; use 0")
    part = world.by_first(lambda: world.share(train.batch_size))
    device = pick_device(train.device)
    place, same = place or Place(), identity(tokens, prior, train, data)
    existing = world.by_first(lambda: inspect_run(COMMAND, place, **same))
    torch.manual_seed(train.seed)
    sharded = train.fsdp and world.size > 1
    trainer = existing.folder / "trainer.pt" if existing.folder is not None and existing.saved else None
    saved = read_state(trainer, world, sharded=sharded) if trainer else None
    gpt = saved_prior(saved, train, str(trainer)) if saved else first_prior(prior, train, data, codebooks)
    state = start(gpt, train, device, pick_precision(train.precision, device), world)
    if saved and trainer:
        _load(trainer, saved, state, data.sha256(), sharded)
    parameters, codes = sum(each.numel() for each in gpt.parameters()), int(np.prod(data.header.row))
    if (
        world.first
        and not saved
        and (warning := memorization.expected(parameters, len(rows), codes, data.header.codebook_size))
    ):
        _log.warning("%s", warning)
    settings: dict[str, Any] = {"origins": origins or {}, "tensorboard": train.tensorboard}
    with open_run(COMMAND, place, **same, **settings, existing=existing, world=world) as run:
        about = {
            "tokens": same["inputs"],
            "data": {"train": len(rows), "held": len(held), "sha256": data.sha256()},
            "label_names": list(data.label_names),
            "label_counts": data.label_counts(),
            "grid": str(gpt.config.window if isinstance(gpt, PixelSNAIL) else data.smallest),
            "downsample_factor": data.header.downsample_factor,
            "condition_dropout": train.condition_dropout,
            "learned_apart": bool(train.condition_dropout) and len(gpt.config.conditions) > 1,
        }
        if gpt.config.arch == "any-order":
            about[SUGGESTED] = {"temperature": RISING}
        session = _Session(
            run=run,
            state=state,
            train=train,
            data=data,
            rows=rows,
            held=held,
            codec=codec,
            conditions=conditions,
            about=about,
            render=render,
            render_conditions=render_conditions,
            part=part,
        )
        pacing = Pacing(
            run, state, train, partial(_checkpoint, session), started=began, on_step=on_step, write_report=write_report
        )
        _loop(session, pacing)
        return TrainedPrior.of(run, state, notes=_notes(session))


def identity(tokens: Sequence[Path], prior: PriorConfig, train: PriorTrainConfig, data: TokenSet) -> dict[str, Any]:
    """The settings and the data by which a run is recognised, as keyword arguments of `inspect_run` and `open_run`."""
    inputs = [str(path.resolve()) for path in tokens]
    groups = {"prior": prior, "train": train}
    return {"groups": groups, "inputs": inputs, "data": cache(lambda: data_of(data, train, inputs))}


def _refuse_other_codecs(codec: ModelFile, conditions: Mapping[str, ModelFile], data: TokenSet, path: Path) -> None:
    needed = {"": data.header.codec_sha256}
    needed |= {
        kind: condition.codec_sha256
        for kind, condition in data.conditions.items()
        if not condition.codec_sha256.startswith(RULE)
    }
    given = {"": codec, **conditions}
    for kind, sha256 in needed.items():
        if kind not in given or given[kind].about.get("codec_sha256") != sha256:
            name = f"{kind} codec" if kind else "codec"
            raise UsageError(
                f"{path} was made with another {name} than the one given; give the one with hash {sha256[:12]}"
            )


@dataclass(frozen=True, kw_only=True)
class _Session:
    """The values that the loop, its validations and its saves share."""

    run: Run
    state: PriorState
    train: PriorTrainConfig
    data: TokenSet
    rows: Rows
    held: Rows
    codec: ModelFile
    conditions: Mapping[str, ModelFile]
    about: Mapping[str, Any]
    render: RenderGiven | None
    render_conditions: Mapping[str, Render]
    part: int
    """Windows of each batch that this process takes."""


def _load(trainer: Path, saved: dict[str, Any], state: PriorState, sha256: str, sharded: bool) -> None:
    """Load the contents of a trainer file into the state, before anything is written."""
    if saved.pop("data") != sha256:
        raise UsageError(
            f"{trainer.parent} was trained on other tokens than the files hold now; give those tokens to resume it, or "
            f"{new_run_from(trainer.parent)}"
        )
    if sharded:  # a collective operation
        state.load_state_dict(saved)
    else:
        state.world.first_ahead(lambda: load_state(trainer, saved, state.load_state_dict))


def _loop(session: _Session, pacing: Pacing) -> None:
    """Batch, step, report, validate, until the budget or the patience is spent."""
    state, train, world = session.state, session.train, session.state.world
    with pacing:
        for _ in pacing:
            if _out_of_patience(session):
                break
            with pacing.waiting():
                position = state.images_seen + world.rank * session.part
                batch = train_batch(session.data, session.rows, state.gpt.config, train, position, session.part)
            pacing.report(prior_step(state, batch, train, pacing.learning_rate))
            if pacing.validates:
                _validate(session, pacing)


def _out_of_patience(session: _Session) -> bool:
    return 0 < session.train.patience <= session.state.waited


@torch.no_grad()
def _validate(session: _Session, pacing: Pacing) -> None:
    """Draw a sheet of samples, compute nats/token of the average on held-out and training windows, and record if it
    is the best so far. Every process has to call it."""
    state, train, world = session.state, session.train, session.state.world
    if world.first and not is_sharded(state.average_likelihood):  # a sharded network is whole in no process
        _draw_samples(session)
    if not len(session.held):
        return
    chosen = session.held[: train.val_windows]
    count = min(len(chosen), len(session.rows), COMPARED)
    seen = session.rows[np.arange(count) * len(session.rows) // count]
    mean = _mean_nats(session, chosen)
    state.validation = {
        "val_nats_per_token": mean,
        "train_nats_per_token": _mean_nats(session, seen),
        "windows": len(chosen),
    }
    if mean < state.best:
        state.best, state.best_step, state.waited = mean, state.step, 0
    else:
        state.waited += 1
    if world.first:
        pacing.log("validation", **state.validation)
    pacing.report_validation()


def _mean_nats(session: _Session, chosen: Rows) -> float:
    """nats/token of the average on one window of each of the `chosen` samples. Every process has to call it."""
    state, train, world, total = session.state, session.train, session.state.world, 0.0
    device = state.average.head.weight.device
    for begin in range(0, len(chosen), train.batch_size):  # as often in each process, since a sharded forward needs all
        rows = chosen[begin + world.rank * session.part :][: session.part]
        windows = fixed_windows(session.data, rows if len(rows) else chosen[:1], state.gpt.config)
        batch = moved(validation_batch(windows, state.gpt.config), device)
        total += state.average_likelihood(batch, state.precision).item() * len(rows)
    return sum(world.gather(total)) / len(chosen)


def _draw_samples(session: _Session) -> None:
    """Draw one window for each of `samples` held-out conditions (training ones where none are held out) at temperature
    1, sorted by class; the first time, also draw the maps among these conditions."""
    state, train, render = session.state, session.train, session.render
    if render is None or not train.samples:
        return
    rows = session.held if len(session.held) else session.rows
    places = [n % len(rows) for n in range(train.samples)]
    windows = fixed_windows(session.data, rows[places], state.gpt.config)
    given = windows.conditions
    classes = given["class"][:, 0].tolist() if "class" in given else [0] * train.samples
    order = sorted(range(train.samples), key=lambda n: (classes[n], places[n]))
    given = {kind: codes[order] for kind, codes in given.items()}
    codes = draw(
        state.average,
        size=(windows.codes.shape[1], windows.codes.shape[2]),
        samples=range(train.samples),
        seed=train.seed,
        decoding=DecodingConfig(),
        conditions=given,
        batch_size=train.batch_size,
    )
    labels = _class_names(session.data, given["class"]) if "class" in given else ()
    layout = Layout(max(1, round(train.samples**0.5)), train.samples, labels)
    session.run.show(state.step, grid(render(codes, given), columns=layout.columns), stamp(layout))
    for kind, render_map in session.render_conditions.items():
        target = session.run.samples / f"{CONDITION}{kind}.png"
        if kind in given and not target.exists():
            write_png(target, grid(render_map(given[kind]), columns=layout.columns), stamp(replace(layout, labels=())))


def _class_names(data: TokenSet, classes: Tensor) -> tuple[str, ...]:
    """The names of some classes (n, 1)."""
    return tuple("no class" if n == NOT_GIVEN else data.label_names[n] for n in classes[:, 0].tolist())


def _checkpoint(session: _Session) -> Checkpoint:
    """The files of a save as of the last step. Every process has to call it."""
    state = session.state
    trainer = {**state.state_dict(), "data": session.about["data"]["sha256"]}
    about = {**session.about, "step": state.step, "images_seen": state.images_seen, "metrics": state.validation}
    model = prior_file(state.whole_average(), session.codec, about, session.conditions)
    return Checkpoint(trainer, model, model)


def _notes(session: _Session) -> tuple[str, ...]:
    notes = []
    if is_sharded(session.state.likelihood):
        notes.append("no samples were drawn during training, since the prior is sharded: use taming sample")
    if not len(session.held):
        notes.append("nothing is held out, since all tokens are of one picture: there is no validation")
    if memorized := memorization.found(session.state.validation):
        notes.append(memorized)
    if _out_of_patience(session):
        notes.append(f"stopped after {session.state.waited} validations without improvement")
    return tuple(notes)
