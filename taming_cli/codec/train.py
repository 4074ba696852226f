"""Training a codec: `fit` is `taming train-vqgan`."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taming_cli.codec.estimate import check_memory
from taming_cli.codec.material import material, tell_labels
from taming_cli.codec.state import CodecState, start
from taming_cli.codec.step import codec_step, phase
from taming_cli.codec.validate import validate
from taming_cli.codec.vqgan import VQGAN, codec_file, codec_from
from taming_cli.config.codec import CodecConfig, CodecTrainConfig, CriticConfig
from taming_cli.config.fields import from_dict
from taming_cli.data.batches import Augment, train_batches
from taming_cli.data.conditions.counts import Counted
from taming_cli.data.conditions.pairs import each_picture, with_pictures
from taming_cli.data.contents import Content, content
from taming_cli.data.sources import Item, Split, digest, list_items, split
from taming_cli.errors import UsageError
from taming_cli.judges import perceptual
from taming_cli.metrics import perplexity, usage
from taming_cli.runtime.builtin import recorded
from taming_cli.runtime.checkpoint import load_model, load_trainer, read_header, save_model, save_trainer
from taming_cli.runtime.device import pick_device, pick_precision
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.interrupt import StopRequest
from taming_cli.runtime.progress import LOG_EVERY, Means, OnStep, tell
from taming_cli.runtime.report import write_report
from taming_cli.runtime.rundir import Place, Run, absolute, find_run, goes_on, open_run, read_settings
from taming_cli.runtime.schedule import Budget, cosine, warm_up
from taming_cli.runtime.tensorboard import check_installed
from taming_cli.runtime.weights import OnBytes

COMMAND = "train-vqgan"
_COLOUR = 4.0  # brightness varies 3 and 8 times as much as the two directions of colour in photographs


@dataclass(frozen=True, kw_only=True)
class TrainedCodec:
    """Where the codec is, how it does on held-out pictures, and which training pictures could not be read."""

    run: Path
    last: Path
    best: Path
    step: int
    validation: Mapping[str, float]
    skipped: Mapping[str, str]


def fit(
    images: Sequence[Path],
    *,
    codec: CodecConfig,
    critic: CriticConfig,
    train: CodecTrainConfig,
    place: Place | None = None,
    weights: Path | None = None,
    offline: bool = False,
    origins: Mapping[str, str] | None = None,
    on_step: OnStep | None = None,
    on_bytes: OnBytes | None = None,
    world: World = ALONE,
) -> TrainedCodec:
    """Train a codec on pictures or condition maps (folders, files, archives) and leave it in a run directory.

    Several processes share each batch: `train.batch_size` is that of all, and the first one writes and calls `on_step`,
    and `on_bytes` while the perceptual network's weights are fetched.

    `train.kind` says what the files hold; the codec's channels follow from it, and labels are counted unless given.
    Going on with an interrupted run happens by itself where `place` names one with the same settings. Raises UsageError
    for settings or inputs that do not fit, MissingWeightsError, NonFiniteLossError, and Interrupted once a signal has
    asked to stop and everything is saved.
    """
    began = time.monotonic()
    if train.tensorboard:
        check_installed()
    place = place or Place()
    going_on = world.by_first(lambda: goes_on(COMMAND, place))
    before = find_run(COMMAND, place) if going_on else None
    pictures, codec, train, holds, labels = settled(images, codec, critic, train, before)
    part = world.by_first(lambda: world.share(train.batch_size))
    device = pick_device(train.device)
    torch.manual_seed(train.seed)
    first = VQGAN(codec) if going_on else _first_codec(codec, train, holds)
    judge = world.first_ahead(
        lambda: perceptual.build(train.perceptual, weights=weights, offline=offline, on_bytes=on_bytes)
    )
    if judge is not None:
        judge = judge.to(device)
    groups = {"codec": codec, "critic": critic, "train": train}
    inputs = [str(path.resolve()) for path in images]
    settings: dict[str, Any] = {"inputs": inputs, "origins": origins or {}, "tensorboard": train.tensorboard}
    with open_run(COMMAND, place, groups, **settings, world=world) as run:
        state = start(first, critic, train, device, pick_precision(train.precision, device), world)
        resumed = world.by_first(run.trainer.exists)
        if resumed:
            state.load_state_dict(load_trainer(run.trainer))
        about = {
            "images": inputs,
            "size": str(train.size),
            "data": {
                "train": len(pictures.train),
                "held": len(pictures.held),
                "sha256": digest(pictures.train),
                "held_sha256": digest(pictures.held[: train.val_images]),
            },
            "perceptual": judge.stamp if judge is not None else None,
            **({"labels": str(labels)} if labels is not None else {}),
            **holds.about(),
        }
        session = _Session(
            run=run,
            state=state,
            train=train,
            content=holds,
            judge=judge,
            held=pictures.held,
            about=about,
            began=time.monotonic() - state.seconds if resumed else began,
            on_step=on_step if world.first else None,
            part=part,
        )
        world.agree(state.step)
        if resumed and world.first:
            _mend(session)
        skipped = _loop(session, pictures.train)
        return TrainedCodec(
            run=run.folder,
            last=run.last,
            best=run.best if run.best.exists() else run.last,
            step=state.step,
            validation=state.validation,
            skipped=skipped,
        )


class Settled(NamedTuple):
    """The pictures, split, and the settings with all that follows from them."""

    pictures: Split
    codec: CodecConfig
    train: CodecTrainConfig
    content: Content
    labels: Counted | None
    """Of segmentation maps."""


def settled(
    images: Sequence[Path],
    codec: CodecConfig,
    critic: CriticConfig,
    train: CodecTrainConfig,
    run: Path | None = None,
) -> Settled:
    """What `fit` trains on and with, `run` being the folder of a run that goes on; of segmentation maps, the labels
    that occur are logged. UsageError for settings or inputs that do not fit, and for more labels than memory holds."""
    train = replace(train, val=absolute(train.val), init=recorded(train.init), colours=absolute(train.colours))
    train = replace(train, pictures=absolute(train.pictures))
    _check_size(codec, critic, train)
    pictures = _split(images, train)
    last = None if run is None else run / "checkpoints" / "last.safetensors"
    holds, labels = material([*pictures.train, *pictures.held], train, codec.in_channels, last)
    codec = replace(codec, in_channels=holds.channels, out_ch=holds.channels)
    if labels is not None:
        train = replace(train, labels=labels.labels)
        check_memory(codec, critic, train, str(labels), pick_device(train.device))
        tell_labels(labels)
    return Settled(pictures, codec, train, holds, labels)


def _check_size(codec: CodecConfig, critic: CriticConfig, train: CodecTrainConfig) -> None:
    """Refuse a size that f does not divide, or that leaves the critic no patch, before anything is made."""
    codec.latent(train.size)
    least = critic.smallest_side
    if train.disc_weight and min(train.size.width, train.size.height) < least:
        raise UsageError(
            f"size {train.size} is below the {least} pixels a side that disc_num_layers {critic.disc_num_layers} "
            "needs; use fewer layers, or --disc-weight 0"
        )


def held_out(run: Path) -> tuple[Item, ...]:
    """The pictures that the codec in a run folder never learned from, of those that are still there."""
    settings = read_settings(run)
    train = from_dict(CodecTrainConfig, settings["config"]["train"], str(run / "config.json"))
    return _split([Path(path) for path in settings["inputs"]], train).held


def _split(images: Sequence[Path], train: CodecTrainConfig) -> Split:
    listed = _listed(images, train)
    if train.val is not None:
        return Split(listed, _listed([Path(train.val)], train))
    return split(listed, held_fraction=train.held)


def _listed(paths: Sequence[Path], train: CodecTrainConfig) -> tuple[Item, ...]:
    items = each_picture(list_items(paths, extensions=content(train.kind).extensions).items)
    return items if train.pictures is None else with_pictures(items, Path(train.pictures), paths[0])


def _first_codec(config: CodecConfig, train: CodecTrainConfig, holds: Content) -> VQGAN:
    """A new codec, or the one that `init` names, whose architecture must be the one asked for."""
    if train.init is None:
        if train.train == "decoder":
            raise UsageError("--train decoder trains the decoder of a finished codec; name it with --init FILE")
        codec = VQGAN(config)
        _whiten(codec.encoder.conv_in.weight, holds)
        return codec
    model = load_model(Path(train.init))
    codec = codec_from(model, train.init)
    for name, value in vars(codec.config).items():
        if getattr(config, name) != value:
            raise UsageError(f"{train.init} has {name} {value}, not {getattr(config, name)}; leave that setting out")
    return codec


@torch.no_grad()
def _whiten(weight: Tensor, holds: Content) -> None:
    """Scale the first layer's initial weights, (ch, C, 3, 3), as if the channels of its input varied alike.

    Of one-hot channels one is 1 and the others 0, so that their sum is sqrt(C) smaller than the initialisation counts
    on. The colours of pictures vary several times less than their brightness. What starts small drowns in the residual
    branches, and is learned late.
    """
    if holds.categorical:
        weight.mul_(holds.channels**0.5)
    elif holds.kind == "image":
        weight.copy_(_COLOUR * weight + (1 - _COLOUR) * weight.mean(1, keepdim=True))


@dataclass(frozen=True, kw_only=True)
class _Session:
    """What the loop and its saves share."""

    run: Run
    state: CodecState
    train: CodecTrainConfig
    content: Content
    judge: perceptual.Perceptual | None
    held: Sequence[Item]
    about: dict[str, Any]
    began: float
    on_step: OnStep | None
    part: int
    """This process's pictures of a batch."""


def _loop(session: _Session, items: Sequence[Item]) -> Mapping[str, str]:
    """Batch, step, report, validate, save, until the budget is spent; returns the pictures that could not be read."""
    run, state, train, world = session.run, session.state, session.train, session.state.world
    if world.first:
        run.rewind_log(state.step)
    budget = Budget(steps=train.steps, minutes=train.minutes)
    spent = budget.spent(state.step, state.seconds)
    means = Means()
    counts = torch.zeros(state.codec.config.codebook_size)
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
            x = session.content.to_input(images.to(state.codec.quantize.embedding.weight.device))
            rate = train.learning_rate * warm_up(state.step, train.warmup) * cosine(spent, train.final_lr)
            # dropout's draws depend on step and process alone, so a resume is exact
            torch.manual_seed((train.seed + state.step + (world.rank << 40)) % 2**63)
            report = codec_step(
                state,
                x,
                categorical=session.content.categorical,
                judge=session.judge,
                config=train,
                now=phase(train, spent),
                learning_rate=rate,
            )

            (state.seconds,) = world.most(time.monotonic() - session.began)
            before, spent = spent, budget.spent(state.step, state.seconds)
            means.add(report.terms, train.batch_size)
            counts += torch.bincount(report.codes.flatten(), minlength=len(counts)).cpu()
            values: dict[str, float] = {}
            if state.step % LOG_EVERY == 0:
                used = world.total(counts)
                values = {**means.take(), "codes_used": usage(used), "codebook_perplexity": perplexity(used)}
                values |= {"learning_rate": rate, "images_per_second": means.images_per_second}
                values["waiting_seconds"] = means.waiting_seconds
                counts.zero_()
                if world.first:
                    run.log(kind="train", step=state.step, images=state.images_seen, seconds=state.seconds, **values)
            _tell(session, spent, values, means.images_per_second)
            if spent >= 1 or int(before / train.val_every) < int(spent / train.val_every):
                if world.first:
                    _validate(session, spent, means.images_per_second)
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


def _validate(session: _Session, spent: float, rate: float) -> None:
    """Look at the held-out pictures, log what is seen, and note whether the codec is the best so far."""
    state, run, train = session.state, session.run, session.train
    held = session.held[: train.val_images]
    found = validate(state.average, held, train.size, session.judge, state.precision, session.content)
    if found is None:
        return
    state.validation = found.figures()
    how_far = {"step": state.step, "images": state.images_seen, "seconds": state.seconds}
    run.log(kind="validation", **how_far, **state.validation, code_use=found.code_use)
    run.show(state.step, found.sheet)
    _tell(session, spent, state.validation, rate, validation=True)
    if found.score > state.best:
        state.best, state.best_step = found.score, state.step


def _save(session: _Session) -> None:
    """Trainer file first, then the model files of the same step; `_mend` repairs a kill in between."""
    save_trainer(session.run.trainer, session.state.state_dict())
    _save_models(session)
    write_report(session.run.folder)


def _save_models(session: _Session) -> None:
    state, run = session.state, session.run
    about = {**session.about, "step": state.step, "images_seen": state.images_seen, "metrics": state.validation}
    model = codec_file(state.average, about)
    save_model(run.last, model)
    if state.best_step == state.step:
        save_model(run.best, model)


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
