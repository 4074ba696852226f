"""Train a codec: `fit` is `taming train-vqgan`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from taming_cli.codec.palette import palette_step
from taming_cli.codec.perturb import Perturbation, Redraw, near_entries
from taming_cli.codec.setup import first_codec, identity, picture_counts, set_up
from taming_cli.codec.state import CodecState, start
from taming_cli.codec.step import Phase, codec_step, phase
from taming_cli.codec.validate import codebook_figures, validate
from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.data.batches import Augment, train_batches
from taming_cli.data.contents import Content
from taming_cli.data.oversized import find_oversized
from taming_cli.data.pixels import Pixels
from taming_cli.data.sources import Item
from taming_cli.errors import UsageError
from taming_cli.pretrained.perceptual import Perceptual
from taming_cli.pretrained.perceptual import build as build_perceptual
from taming_cli.runtime.device import pick_device, pick_precision, seed_of, to_device, to_host
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.pacing import Checkpoint, OnStep, Pacing, Trained, cosine
from taming_cli.runtime.run import lists
from taming_cli.runtime.run.folder import Place, Run, WriteReport, inspect_run, open_run, saved_run
from taming_cli.runtime.run.resume import load_state, read_trainer
from taming_cli.runtime.run.tensorboard import check_installed
from taming_cli.runtime.weights import OnBytes, sha256

COMMAND = "train-vqgan"


@dataclass(frozen=True, kw_only=True)
class TrainedCodec(Trained):
    """A trained codec, and the training pictures that could not be read: `skipped` maps their names to reasons.

    The best model has the smallest texture distance among the validations with the largest weight of the adversarial
    term, or, before that term counts, the smallest sum of L1 and perceptual distance. One from before the codec
    quantises is never chosen.
    """

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
    redraw: Redraw | None = None,
    world: World = ALONE,
) -> TrainedCodec:
    """Train a codec on pictures or condition maps: folders, files, archives, or lists of paths in a `.txt`.

    The result is a run folder, which keeps a copy of each list. A run that was interrupted is resumed where `place`
    names it and the settings are the same. `train.kind` is the kind of the files; the codec's channels follow from it,
    and labels are counted unless they are given. With `train.perturb_prior`, `redraw` draws codes from that prior (see
    `prior.redraw`).

    Several processes share each batch: `train.batch_size` is the size for all of them together. The first process
    writes files. It calls `on_step` after each step, `write_report` with the run folder after each save, and `on_bytes`
    while the perceptual network is downloaded.

    Raises UsageError for settings or inputs that do not fit, MissingWeightsError, NonFiniteLossError, and Interrupted
    once a signal has requested a stop and everything is saved.
    """
    began = time.monotonic()
    if train.tensorboard:
        check_installed()
    if train.perturb_prior is not None and redraw is None:
        raise UsageError(f"perturb_prior is {train.perturb_prior!r}; pass what draws from it, as redraw")
    place = place or Place()
    saved = world.by_first(lambda: saved_run(COMMAND, place))
    setup = set_up(images, codec, discriminator, train, run=saved, processes=world.size)
    pictures, codec, train, content = setup.pictures, setup.codec, setup.train, setup.content
    same = identity(images, discriminator, setup)
    existing = world.by_first(lambda: inspect_run(COMMAND, place, **same))
    large = world.by_first(lambda: find_oversized([*pictures.train, *pictures.held]))
    part = world.by_first(lambda: world.share(train.batch_size))
    device = pick_device(train.device)
    torch.manual_seed(train.seed)
    first = VQGAN(codec) if existing.saved else first_codec(setup)
    perceptual = world.first_ahead(
        lambda: build_perceptual(
            train.perceptual, classify=bool(train.logits_weight), weights=weights, offline=offline, on_bytes=on_bytes
        )
    )
    if perceptual is not None:
        perceptual = perceptual.to(device)
    state = start(first, discriminator, train, device, pick_precision(train.precision, device), world)
    if existing.folder is not None and existing.saved:
        trainer = existing.folder / "trainer.pt"
        world.first_ahead(lambda: load_state(trainer, read_trainer(trainer, state.stateful), state.load_state_dict))
    settings: dict[str, Any] = {"origins": origins or {}, "tensorboard": train.tensorboard}
    with open_run(COMMAND, place, **same, **settings, existing=existing, world=world) as run:
        if world.first:
            lists.keep(run.folder, images, train.val)
        about = {
            "images": [str(path) for path in lists.inputs_of(run.folder.resolve(), same["inputs"])],
            "size": str(train.size),
            "data": picture_counts(pictures, train),
            "perceptual": perceptual.stamp if perceptual is not None else None,
            **({"classifier": perceptual.classifier_stamp} if perceptual is not None and train.logits_weight else {}),
            **({"labels": str(setup.labels)} if setup.labels is not None else {}),
            **({"perturb": _perturb_record(train)} if train.perturb else {}),
            **content.about(),
        }
        session = _Session(
            run=run,
            state=state,
            train=train,
            content=content,
            perceptual=perceptual,
            held=pictures.held,
            about=about,
            part=part,
            perturb=_perturbation(state, train, redraw),
        )
        pacing = Pacing(
            run, state, train, partial(_checkpoint, session), started=began, on_step=on_step, write_report=write_report
        )
        pixels = setup.pixels
        bad = _loop(session, pacing, pictures.train) if pixels is None else _palette_loop(session, pacing, pixels)
        skipped = {**large, **bad}
        return TrainedCodec.of(run, state, skipped=skipped)


@dataclass(frozen=True, kw_only=True)
class _Session:
    """The values that the loop, its validations and its saves share."""

    run: Run
    state: CodecState
    train: CodecTrainConfig
    content: Content
    perceptual: Perceptual | None
    held: Sequence[Item]
    about: Mapping[str, Any]
    part: int
    """Pictures of each batch that this process takes."""
    perturb: Perturbation | None


def _perturbation(state: CodecState, train: CodecTrainConfig, redraw: Redraw | None) -> Perturbation | None:
    """How codes are perturbed before they are decoded; the codebook does not change in such a training."""
    if not train.perturb:
        return None
    if train.perturb_prior is None or redraw is None:
        redraw = near_entries(state.codec.quantizers[0].codebook.detach())
    return Perturbation(share=train.perturb, seed=train.seed, redraw=redraw)


def _perturb_record(train: CodecTrainConfig) -> dict[str, object]:
    """The record of the perturbation in the model file."""
    prior = train.perturb_prior
    return {"share": train.perturb, "prior": prior, "prior_sha256": None if prior is None else sha256(Path(prior))}


def _loop(session: _Session, pacing: Pacing, items: Sequence[Item]) -> Mapping[str, str]:
    """Batch, step, report, validate, until the budget is spent; returns the pictures that could not be read."""
    state, train, content, world = session.state, session.train, session.content, session.state.world
    device = state.codec.device
    config = state.codec.config
    counts = torch.zeros(config.levels, config.codebook_size, device=device)
    if state.counts is not None:
        counts += state.counts.to(device)
    state.counts = counts

    def codebook_use() -> dict[str, float]:
        values = codebook_figures(to_host(counts))
        counts.zero_()
        return values

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
        content=content,
    )
    with batches, pacing:
        for spent in pacing:
            with pacing.waiting():
                images = next(batches)
            x = content.to_input(to_device(images, device))
            # dropout depends on the step and the process alone, so that a resume is exact
            torch.manual_seed(seed_of((train.seed + state.step) % 2**63, world.rank))
            now = phase(train, spent)
            result = codec_step(
                state,
                x,
                categorical=content.categorical,
                perceptual=session.perceptual,
                config=train,
                now=now,
                learning_rate=pacing.learning_rate,
                disc_learning_rate=train.disc_learning_rate * cosine(spent, train.disc_final_lr),
                perturb=session.perturb,
            )
            counts += result.counts
            pacing.report(result.terms, codebook_use)
            if pacing.validates and world.first:
                _validate(session, pacing, now)
    return {name: reason for bad in world.gather(batches.bad) for name, reason in bad.items()}


def _palette_loop(session: _Session, pacing: Pacing, pixels: Pixels) -> Mapping[str, str]:
    """The loop of a palette, whose steps are iterations of k-means, the same in each process; returns the pictures that
    could not be read."""
    state = session.state
    with pacing:
        for spent in pacing:
            iteration = palette_step(state, pixels)
            pacing.report(iteration.terms, iteration.codebook_use)
            if pacing.validates and state.world.first:
                _validate(session, pacing, phase(session.train, spent))
    return pixels.bad


def _validate(session: _Session, pacing: Pacing, now: Phase) -> None:
    """Validate on the held-out pictures, log the result, and record whether the codec is the best so far; `now` is the
    phase of the last step."""
    state, train = session.state, session.train
    held = session.held[: train.val_images]
    settings = (train.size, session.perceptual, state.precision, session.content, bool(train.disc_weight))
    result = validate(state.average, held, *settings, session.perturb)
    if result is None:
        return
    state.validation = result.figures()
    pacing.log("validation", **state.validation, code_use=result.code_use)
    session.run.show(state.step, result.sheet)
    pacing.report_validation()
    if now.quantized:
        state.note_best(result.criterion(adversarial=now.adversarial > 0), now.adversarial)


def _checkpoint(session: _Session) -> Checkpoint:
    """The files of a save as of the last step."""
    state = session.state
    about = {**session.about, "step": state.step, "images_seen": state.images_seen, "metrics": state.validation}
    last = codec_file(state.average, about)
    chosen = {"by": state.best_by, "adversarial_weight": state.best_weight}
    return Checkpoint(state.state_dict(), last, replace(last, about={**last.about, "best": chosen}))
