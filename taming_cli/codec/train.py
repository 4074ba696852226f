"""Training a codec: `fit` is `taming train-vqgan`."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from taming_cli.codec.inputs import counts
from taming_cli.codec.setup import first_codec, identity, settled
from taming_cli.codec.state import STATEFUL, CodecState, start
from taming_cli.codec.step import Phase, codec_step, phase
from taming_cli.codec.validate import validate
from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.config.codec import CodecConfig, CodecTrainConfig, DiscriminatorConfig
from taming_cli.data.batches import Augment, train_batches
from taming_cli.data.contents import Content
from taming_cli.data.oversized import find_oversized
from taming_cli.data.sources import Item
from taming_cli.metrics import perplexity, usage
from taming_cli.pretrained.perceptual import Perceptual
from taming_cli.pretrained.perceptual import build as build_perceptual
from taming_cli.runtime.checkpoint import read_header, save_model, save_trainer
from taming_cli.runtime.device import pick_device, pick_precision, to_device, to_host
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.interrupt import StopRequest
from taming_cli.runtime.run import lists
from taming_cli.runtime.run.folder import Place, Run, WriteReport, best_of, look, open_run, saved_run
from taming_cli.runtime.run.progress import LOG_EVERY, Means, OnStep, tell
from taming_cli.runtime.run.resume import load_state, take_up_trainer
from taming_cli.runtime.run.tensorboard import check_installed
from taming_cli.runtime.schedule import Budget, cosine, warm_up
from taming_cli.runtime.weights import OnBytes

COMMAND = "train-vqgan"


@dataclass(frozen=True, kw_only=True)
class TrainedCodec:
    """Where the codec is, how it does on held-out pictures, and which training pictures could not be read.

    `step` and `validation` are those of the last model, `best_step` and `best_validation` those of the best one: of the
    validations with the adversarial term at its largest weight so far, the one with the smallest texture distance, or
    before that term counts the smallest sum of L1 and perceptual distance.
    """

    run: Path
    last: Path
    best: Path
    step: int
    validation: Mapping[str, float]
    best_step: int
    best_validation: Mapping[str, float]
    skipped: Mapping[str, str]


def fit(
    images: Sequence[Path],
    *,
    codec: CodecConfig,
    discriminator: DiscriminatorConfig,
    train: CodecTrainConfig,
    place: Place | None = None,
    weights: Path | None = None,
    offline: bool = False,
    origins: Mapping[str, str] | None = None,
    on_step: OnStep | None = None,
    on_bytes: OnBytes | None = None,
    write_report: WriteReport | None = None,
    world: World = ALONE,
) -> TrainedCodec:
    """Train a codec on pictures or condition maps (folders, files, archives, lists of paths in a `.txt`) and leave it
    in a run directory, which keeps a copy of each list.

    Several processes share each batch: `train.batch_size` is that of all. The first one writes. It calls `on_step`,
    `write_report` with the run folder after each save, and `on_bytes` while the perceptual network is fetched.

    `train.kind` says what the files hold; the codec's channels follow from it, and labels are counted unless given.
    Going on with an interrupted run happens by itself where `place` names one with the same settings. Raises UsageError
    for settings or inputs that do not fit, MissingWeightsError, NonFiniteLossError, and Interrupted once a signal has
    asked to stop and everything is saved.
    """
    began = time.monotonic()
    if train.tensorboard:
        check_installed()
    place = place or Place()
    run_before = world.by_first(lambda: saved_run(COMMAND, place))
    known = settled(images, codec, discriminator, train, run=run_before, processes=world.size)
    pictures, codec, train, holds = known.pictures, known.codec, known.train, known.content
    what = identity(images, discriminator, known)
    found = world.by_first(lambda: look(COMMAND, place, **what))
    large = world.by_first(lambda: find_oversized([*pictures.train, *pictures.held]))
    part = world.by_first(lambda: world.share(train.batch_size))
    device = pick_device(train.device)
    torch.manual_seed(train.seed)
    first = VQGAN(codec) if found.saved else first_codec(codec, train, holds)
    perceptual = world.first_ahead(
        lambda: build_perceptual(train.perceptual, weights=weights, offline=offline, on_bytes=on_bytes)
    )
    if perceptual is not None:
        perceptual = perceptual.to(device)
    state = start(first, discriminator, train, device, pick_precision(train.precision, device), world)
    if found.folder is not None and found.saved:
        trainer = found.folder / "trainer.pt"
        world.first_ahead(lambda: load_state(trainer, take_up_trainer(trainer, STATEFUL), state.load_state_dict))
    settings: dict[str, Any] = {"origins": origins or {}, "tensorboard": train.tensorboard}
    with open_run(COMMAND, place, **what, **settings, found=found, world=world) as run:
        if world.first:
            lists.keep(run.folder, images, train.val)
        about = {
            "images": [str(path) for path in lists.inputs_of(run.folder.resolve(), what["inputs"])],
            "size": str(train.size),
            "data": counts(pictures, train),
            "perceptual": perceptual.stamp if perceptual is not None else None,
            **({"labels": str(known.labels)} if known.labels is not None else {}),
            **holds.about(),
        }
        session = _Session(
            run=run,
            state=state,
            train=train,
            content=holds,
            perceptual=perceptual,
            held=pictures.held,
            about=about,
            began=time.monotonic() - state.seconds if found.saved else began,
            on_step=on_step if world.first else None,
            part=part,
            write_report=write_report,
        )
        world.agree(state.step)
        if found.saved and world.first:
            _mend(session)
        skipped = {**large, **_loop(session, pictures.train)}
        best = best_of(run, world)
        return TrainedCodec(
            run=run.folder,
            last=run.last,
            best=best.path,
            step=state.step,
            validation=state.validation,
            best_step=best.step,
            best_validation=best.validation,
            skipped=skipped,
        )


@dataclass(frozen=True, kw_only=True)
class _Session:
    """What the loop and its saves share."""

    run: Run
    state: CodecState
    train: CodecTrainConfig
    content: Content
    perceptual: Perceptual | None
    held: Sequence[Item]
    about: dict[str, Any]
    began: float
    on_step: OnStep | None
    part: int
    """This process's pictures of a batch."""

    write_report: WriteReport | None


def _loop(session: _Session, items: Sequence[Item]) -> Mapping[str, str]:
    """Batch, step, report, validate, save, until the budget is spent; returns the pictures that could not be read."""
    run, state, train, world = session.run, session.state, session.train, session.state.world
    if world.first:
        run.rewind_log(state.step)
    budget = Budget(steps=train.steps, minutes=train.minutes)
    spent = budget.spent(state.step, state.seconds)
    means = Means()
    device = state.codec.quantize.embedding.weight.device
    counts = torch.zeros(state.codec.config.codebook_size, device=device)
    saved = time.monotonic()
    batches = train_batches(
        items,
        size=train.size,
        batch_size=session.part,
        seed=train.seed,
        start=state.images_seen + world.rank * session.part,
        stride=train.batch_size,
        workers=train.workers,
        augment=Augment(crop_scale=(train.crop_scale[0], train.crop_scale[1]), flip=train.flip),
        cache_bytes=train.cache * 2**20,
        content=session.content,
    )
    with batches, StopRequest() as stop:
        while spent < 1:
            with means.waiting():
                images = next(batches)
            x = session.content.to_input(to_device(images, device))
            rate = train.learning_rate * warm_up(state.step, train.warmup) * cosine(spent, train.final_lr)
            # dropout's draws depend on step and process alone, so a resume is exact
            torch.manual_seed((train.seed + state.step + (world.rank << 40)) % 2**63)
            report = codec_step(
                state,
                x,
                categorical=session.content.categorical,
                perceptual=session.perceptual,
                config=train,
                now=phase(train, spent),
                learning_rate=rate,
                disc_learning_rate=train.disc_learning_rate * cosine(spent, train.disc_final_lr),
            )

            (state.seconds,) = world.most(time.monotonic() - session.began)
            before, spent = spent, budget.spent(state.step, state.seconds)
            means.add(report.terms, train.batch_size)
            counts += report.counts
            values: dict[str, float] = {}
            if state.step % LOG_EVERY == 0:
                used = to_host(counts)
                values = {**means.take(), "codes_used": usage(used), "codebook_perplexity": perplexity(used)}
                values |= {"learning_rate": rate, "images_per_second": means.images_per_second}
                values["waiting_seconds"] = means.waiting_seconds
                counts.zero_()
                if world.first:
                    run.log(kind="train", step=state.step, images=state.images_seen, seconds=state.seconds, **values)
            _tell(session, spent, values, means.images_per_second)
            if spent >= 1 or int(before / train.val_every) < int(spent / train.val_every):
                if world.first:
                    _validate(session, spent, phase(train, before), means.images_per_second)
                    _save(session)
                    if train.snapshots:
                        run.keep(state.step)
                saved = time.monotonic()
            elif world.first and time.monotonic() - saved > 60 * train.save_every:
                _save(session)
                saved = time.monotonic()
            if any(world.most(float(stop.requested is not None))) and spent < 1:
                if world.first:
                    _save(session)
                world.wait()  # who ends before the first has written would have it ended too
                go_on = f"taming {COMMAND} --resume --out {shlex.quote(str(run.folder))}"
                raise stop.interrupted(f"stopped after step {state.step}, all is saved; go on with: {go_on}")
    return {name: reason for bad in world.gather(batches.bad) for name, reason in bad.items()}


def _validate(session: _Session, spent: float, now: Phase, rate: float) -> None:
    """Look at the held-out pictures, log what is seen, and note whether the codec is the best so far; `now` is the
    phase of the last step."""
    state, run, train = session.state, session.run, session.train
    held = session.held[: train.val_images]
    how = (train.size, session.perceptual, state.precision, session.content, bool(train.disc_weight))
    found = validate(state.average, held, *how)
    if found is None:
        return
    state.validation = found.figures()
    how_far = {"step": state.step, "images": state.images_seen, "seconds": state.seconds}
    run.log(kind="validation", **how_far, **state.validation, code_use=found.code_use)
    run.show(state.step, found.sheet)
    _tell(session, spent, state.validation, rate, validation=True)
    state.note_best(found.criterion(adversarial=now.adversarial > 0), now.adversarial)


def _save(session: _Session) -> None:
    """Trainer file first, then the model files of the same step; `_mend` repairs a kill in between."""
    save_trainer(session.run.trainer, session.state.state_dict())
    _save_models(session)
    if session.write_report is not None:
        session.write_report(session.run.folder)


def _save_models(session: _Session) -> None:
    state, run = session.state, session.run
    about = {**session.about, "step": state.step, "images_seen": state.images_seen, "metrics": state.validation}
    model = codec_file(state.average, about)
    save_model(run.last, model)
    if state.best_step == state.step:
        chosen = {"by": state.best_by, "adversarial_weight": state.best_weight}
        save_model(run.best, replace(model, about={**model.about, "best": chosen}))


def _mend(session: _Session) -> None:
    """Write the model files that a kill just after their trainer file has left unwritten."""
    steps = [read_header(path).about["step"] if path.exists() else 0 for path in (session.run.last, session.run.best)]
    if steps != [session.state.step, session.state.best_step]:
        _save_models(session)


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
