"""Training a prior: `fit` is `taming train-prior`."""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.data.images import grid, write_png
from taming_cli.data.tokens.header import RULE
from taming_cli.errors import UsageError
from taming_cli.prior.batches import Rows, TokenSet, data_of, fixed_windows, train_batch
from taming_cli.prior.fsdp import is_shared
from taming_cli.prior.generate import generate
from taming_cli.prior.layout import NOT_GIVEN, prefix
from taming_cli.prior.model import prior_file
from taming_cli.prior.order import in_order
from taming_cli.prior.state import PriorState, first_prior, prior_step, read_state, saved_prior, start
from taming_cli.runtime.checkpoint import ModelFile, read_header, save_model, save_trainer
from taming_cli.runtime.device import pick_device, pick_precision
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.interrupt import StopRequest
from taming_cli.runtime.model_files import recorded
from taming_cli.runtime.run.folder import Place, Run, WriteReport, best_of, look, open_run
from taming_cli.runtime.run.progress import LOG_EVERY, Means, OnStep, tell
from taming_cli.runtime.run.resume import anew, load_state
from taming_cli.runtime.run.sheets import CONDITION, Layout, stamp
from taming_cli.runtime.run.tensorboard import check_installed
from taming_cli.runtime.schedule import Budget, cosine, warm_up

COMMAND = "train-prior"
Render = Callable[[Tensor], Tensor]
"""Codes (n, h, w) -> pictures (n, 3, H, W) uint8: the codec, which the prior does not know."""


@dataclass(frozen=True, kw_only=True)
class TrainedPrior:
    """Where the prior is and how it does on held-out pictures; `notes` is what the user should be told.

    `step` and `validation` are those of the last model, `best_step` and `best_validation` those of the best one, which
    has the fewest nats/token.
    """

    run: Path
    last: Path
    best: Path
    step: int
    validation: Mapping[str, float]
    best_step: int
    best_validation: Mapping[str, float]
    notes: tuple[str, ...]


def fit(
    tokens: Sequence[Path],
    *,
    prior: PriorConfig,
    train: PriorTrainConfig,
    codec: ModelFile,
    conditions: Mapping[str, ModelFile] = MappingProxyType({}),
    place: Place | None = None,
    render: Render | None = None,
    render_conditions: Mapping[str, Render] = MappingProxyType({}),
    origins: Mapping[str, str] | None = None,
    on_step: OnStep | None = None,
    write_report: WriteReport | None = None,
    world: World = ALONE,
) -> TrainedPrior:
    """Train a prior on token files of one codec and leave it in a run directory, the codec in its model file.

    Several processes share each batch: `train.batch_size` is that of all, and the first one writes and calls `on_step`.
    `write_report` gets the run folder after each save.

    `render` draws samples at each validation, and `render_conditions`, by kind, once the maps that they are drawn for.

    `conditions` are the codecs of the token files' condition maps, by kind; what a rule made needs none. Codebook size,
    conditions and the largest possible window come from the token files, or all of the architecture from the prior that
    `train.init` names, but for conditions that it has not. Going on with an interrupted run happens by itself where
    `place` names one with the same settings. Raises UsageError for settings or files that do not fit, BadFileError,
    NonFiniteLossError, and Interrupted once a signal has asked to stop and all is saved.
    """
    began = time.monotonic()
    if train.tensorboard:
        check_installed()
    train = replace(train, init=recorded(train.init))
    data = TokenSet(tokens, kinds=train.cond)
    _refuse_other_codecs(codec, conditions, data, tokens[0])
    rows, held = data.split(train.held)
    if train.patience and not len(held):
        raise UsageError(f"patience is {train.patience}, but {tokens[0]} has no second picture to hold out; use 0")
    part = world.by_first(lambda: world.share(train.batch_size))
    device = pick_device(train.device)
    place, what = place or Place(), identity(tokens, prior, train, data)
    found = world.by_first(lambda: look(COMMAND, place, **what))
    torch.manual_seed(train.seed)
    shared = train.fsdp and world.size > 1
    trainer = found.folder / "trainer.pt" if found.folder is not None and found.saved else None
    saved = read_state(trainer, world, shared=shared) if trainer else None
    gpt = saved_prior(saved, train, str(trainer)) if saved else first_prior(prior, train, data)
    state = start(gpt, train, device, pick_precision(train.precision, device), world)
    if saved and trainer:
        _take_up(trainer, saved, state, data.sha256(), shared)
    settings: dict[str, Any] = {"origins": origins or {}, "tensorboard": train.tensorboard}
    with open_run(COMMAND, place, **what, **settings, found=found, world=world) as run:
        about = {
            "tokens": what["inputs"],
            "data": {"train": len(rows), "held": len(held), "sha256": data.sha256()},
            "label_names": list(data.label_names),
            "label_counts": data.label_counts(),
            "grid": str(data.smallest),
            "downsample_factor": data.header.downsample_factor,
            "condition_dropout": train.condition_dropout,
            "learned_apart": bool(train.condition_dropout) and len(gpt.config.conditions) > 1,
        }
        on_step = on_step if world.first else None
        draw = _Draw(render, render_conditions)
        session = _Session(
            run, state, train, data, rows, held, codec, conditions, about, draw, began, on_step, part, write_report
        )
        if saved:
            _go_on(session)
        world.agree(state.step)
        _loop(session)
        best = best_of(run, world)
        return TrainedPrior(
            run=run.folder,
            last=run.last,
            best=best.path,
            step=state.step,
            validation=state.validation,
            best_step=best.step,
            best_validation=best.validation,
            notes=_notes(session),
        )


def identity(tokens: Sequence[Path], prior: PriorConfig, train: PriorTrainConfig, data: TokenSet) -> dict[str, Any]:
    """What makes a run the one to go on with, as `look` and `open_run` take it: its settings, and what it is made
    from."""
    inputs = [str(path.resolve()) for path in tokens]
    groups = {"prior": prior, "train": train}
    return {"groups": groups, "inputs": inputs, "data": cache(lambda: data_of(data, train, inputs))}


def _refuse_other_codecs(codec: ModelFile, conditions: Mapping[str, ModelFile], data: TokenSet, path: Path) -> None:
    needed = {"": data.header.codec_sha256}
    needed |= {
        kind: made.codec_sha256 for kind, made in data.conditions.items() if not made.codec_sha256.startswith(RULE)
    }
    given = {"": codec, **conditions}
    for kind, sha256 in needed.items():
        if kind not in given or given[kind].about.get("codec_sha256") != sha256:
            what = f"{kind} codec" if kind else "codec"
            raise UsageError(f"{path} was made with another {what} than is given; give the one with hash {sha256[:12]}")


class _Draw(NamedTuple):
    """How samples become pictures, and how the maps do that they are drawn for, by kind."""

    samples: Render | None
    conditions: Mapping[str, Render]


@dataclass
class _Session:
    """What the loop and its saves share. `began` is when the training would have begun, had it never been stopped."""

    run: Run
    state: PriorState
    train: PriorTrainConfig
    data: TokenSet
    rows: Rows
    held: Rows
    codec: ModelFile
    conditions: Mapping[str, ModelFile]
    about: dict[str, Any]
    draw: _Draw
    began: float
    on_step: OnStep | None
    part: int
    """This process's windows of a batch."""

    write_report: WriteReport | None


def _take_up(trainer: Path, saved: dict[str, Any], state: PriorState, sha256: str, shared: bool) -> None:
    """Load what a trainer file holds, before anything is written."""
    if saved.pop("data") != sha256:
        raise UsageError(
            f"{trainer.parent} was trained on other tokens than the files hold now; give those to go on, or "
            f"{anew(trainer.parent)}"
        )
    if shared:  # all processes do this together
        state.load_state_dict(saved)
    else:
        state.world.first_ahead(lambda: load_state(trainer, saved, state.load_state_dict))


def _go_on(session: _Session) -> None:
    """Write what a kill right after the trainer file may have left unwritten."""
    state, run = session.state, session.run
    session.began -= state.seconds
    model = _model(session)
    if not state.world.first:
        return
    if not run.last.exists() or read_header(run.last).about["step"] != state.step:
        save_model(run.last, model)
    if state.best_step == state.step > 0 and (
        not run.best.exists() or read_header(run.best).about["step"] != state.step
    ):
        save_model(run.best, model)


def _loop(session: _Session) -> None:
    """Batch, step, report, validate, save, until the budget or the patience is spent."""
    run, state, train, world = session.run, session.state, session.train, session.state.world
    if world.first:
        run.rewind_log(state.step)
    budget = Budget(steps=train.steps, minutes=train.minutes)
    spent = budget.spent(state.step, state.seconds)
    means = Means()
    saved = state.seconds
    with StopRequest() as stop:
        while spent < 1 and not _out_of_patience(session):
            with means.waiting():
                position = state.images_seen + world.rank * session.part
                batch = train_batch(session.data, session.rows, state.gpt.config, train, position, session.part)
            rate = train.learning_rate * warm_up(state.step, train.warmup) * cosine(spent, train.final_lr)
            terms = prior_step(state, batch, train, rate)

            (state.seconds,) = world.most(time.monotonic() - session.began)
            before, spent = spent, budget.spent(state.step, state.seconds)
            means.add(terms, train.batch_size)
            values: dict[str, float] = {}
            if state.step % LOG_EVERY == 0:
                values = {**means.take(), "learning_rate": rate}
                values |= {"images_per_second": means.images_per_second, "waiting_seconds": means.waiting_seconds}
                if world.first:
                    run.log(kind="train", step=state.step, images=state.images_seen, seconds=state.seconds, **values)
            _tell(session, spent, values, means.images_per_second)
            if spent >= 1 or int(before / train.val_every) < int(spent / train.val_every):
                _save(session, best=_validate(session))
                if train.snapshots and world.first:
                    run.keep(state.step)
                _tell(session, spent, state.validation, means.images_per_second, validation=True)
                saved = state.seconds
            elif state.seconds - saved > 60 * train.save_every:
                _save(session)
                saved = state.seconds
            if any(world.most(float(stop.requested is not None))) and spent < 1:
                _save(session)
                world.wait()  # who ends before the first has written would have it ended too
                go_on = f"taming {COMMAND} --resume --out {shlex.quote(str(run.folder))}"
                raise stop.interrupted(f"stopped after step {state.step}, all is saved; go on with: {go_on}")


def _out_of_patience(session: _Session) -> bool:
    return 0 < session.train.patience <= session.state.waited


@torch.no_grad()
def _validate(session: _Session) -> bool:
    """Nats/token of the average on held-out windows, and a sheet of samples; whether it is the best so far."""
    state, run, train, config = session.state, session.run, session.train, session.state.gpt.config
    world = state.world
    if world.first and not is_shared(state.average_likelihood):  # only there it is in one piece
        _draw_samples(session)
    if not len(session.held):
        return False
    device, total = state.average.head.weight.device, 0.0
    chosen = session.held[: train.val_windows]
    for begin in range(0, len(chosen), train.batch_size):  # as often in each process: all of them run a shared network
        mine = chosen[begin + world.rank * session.part :][: session.part]
        windows = fixed_windows(session.data, mine if len(mine) else chosen[:1], config)
        codes = in_order(config, windows.codes).to(device)
        given = {kind: values.to(device) for kind, values in windows.conditions.items()}
        tokens = prefix(config, given, len(codes), device)
        total += state.average_likelihood(codes, codes, tokens, state.precision).item() * len(mine)
    total = sum(world.gather(total))
    state.validation = {"val_nats_per_token": total / len(chosen), "windows": len(chosen)}
    better = total / len(chosen) < state.best
    if better:
        state.best, state.best_step, state.waited = total / len(chosen), state.step, 0
    else:
        state.waited += 1
    if world.first:
        run.log(kind="validation", step=state.step, images=state.images_seen, seconds=state.seconds, **state.validation)
    return better


def _draw_samples(session: _Session) -> None:
    """One window for each of some held-out conditions (training ones, where none are held out), at temperature 1, in
    the order of their classes; and once the maps among these conditions."""
    state, train, render = session.state, session.train, session.draw.samples
    if render is None or not train.samples:
        return
    among = session.held if len(session.held) else session.rows
    places = [n % len(among) for n in range(train.samples)]
    given = fixed_windows(session.data, among[places], state.gpt.config).conditions
    classes = given["class"][:, 0].tolist() if "class" in given else [0] * train.samples
    order = sorted(range(train.samples), key=lambda n: (classes[n], places[n]))
    given = {kind: codes[order] for kind, codes in given.items()}
    window = state.gpt.config.window
    codes = generate(
        state.average,
        size=(window.height, window.width),
        samples=range(train.samples),
        seed=train.seed,
        decoding=DecodingConfig(),
        conditions=given,
        batch_size=train.batch_size,
    )
    labels = _class_names(session.data, given["class"]) if "class" in given else ()
    layout = Layout(max(1, round(train.samples**0.5)), train.samples, labels)
    session.run.show(state.step, grid(render(codes), columns=layout.columns), stamp(layout))
    for kind, draw in session.draw.conditions.items():
        target = session.run.samples / f"{CONDITION}{kind}.png"
        if kind in given and not target.exists():
            write_png(target, grid(draw(given[kind]), columns=layout.columns), stamp(replace(layout, labels=())))


def _class_names(data: TokenSet, classes: Tensor) -> tuple[str, ...]:
    """The names of classes (n, 1)."""
    return tuple("no class" if n == NOT_GIVEN else data.label_names[n] for n in classes[:, 0].tolist())


def _model(session: _Session) -> ModelFile:
    state = session.state
    about = {**session.about, "step": state.step, "images_seen": state.images_seen, "metrics": state.validation}
    return prior_file(state.whole_average(), session.codec, about, session.conditions)


def _save(session: _Session, *, best: bool = False) -> None:
    """Trainer file first, then the model files of the same step; `_go_on` mends a kill in between. Every process has to
    call it, and the first one writes."""
    state, run = session.state, session.run
    trainer = {**state.state_dict(), "data": session.about["data"]["sha256"]}
    model = _model(session)
    if not state.world.first:
        return
    save_trainer(run.trainer, trainer)
    save_model(run.last, model)
    if best:
        save_model(run.best, model)
    if session.write_report is not None:
        session.write_report(run.folder)


def _notes(session: _Session) -> tuple[str, ...]:
    notes = []
    if is_shared(session.state.likelihood):
        notes.append("no samples were drawn on the way, since no process had the whole prior: draw some now")
    if not len(session.held):
        notes.append("nothing was held out, since all tokens are of one picture: there is no validation")
    if _out_of_patience(session):
        notes.append(f"stopped after {session.state.waited} validations without a better one")
    return tuple(notes)


def _tell(session: _Session, spent: float, values: Mapping[str, float], rate: float, validation: bool = False) -> None:
    state = session.state
    tell(
        session.on_step,
        step=state.step,
        spent=min(1.0, spent),
        seconds=state.seconds,
        images_per_second=rate,
        values=values,
        validation=validation,
    )
