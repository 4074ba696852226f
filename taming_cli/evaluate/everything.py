"""All that fits a run: a codec on pictures that it never learned from, a prior on such tokens and by its samples."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from taming_cli.codec.setup import held_out
from taming_cli.codec.train import COMMAND as TRAIN_CODEC
from taming_cli.config.codec import CodecTrainConfig
from taming_cli.config.evaluate import InceptionScoreConfig, KernelConfig, ManifoldConfig
from taming_cli.config.fields import from_dict
from taming_cli.config.prior import PriorTrainConfig
from taming_cli.errors import UsageError
from taming_cli.evaluate import codecs, distance
from taming_cli.evaluate.coding import Measure, sending
from taming_cli.evaluate.defaults import behind, drawn_by, samples_under
from taming_cli.evaluate.extraction import Look
from taming_cli.evaluate.image_sets import Side, side
from taming_cli.evaluate.likelihood import nll
from taming_cli.evaluate.protocol import Measured
from taming_cli.pretrained.perceptual import Perceptual
from taming_cli.prior.batches import TokenSet
from taming_cli.prior.train import COMMAND as TRAIN_PRIOR
from taming_cli.runtime.run.folder import read_settings
from taming_cli.runtime.weights import sha256


@dataclass(frozen=True, kw_only=True)
class Means:
    """What measures: networks, and how pictures are looked at. `note` is told what is passed over, and why."""

    look: Look
    perceptual: Perceptual | None
    device: str
    note: Callable[[str], None]
    memory: float | None = None
    """GiB for coding a picture, as `runtime.memory.room` takes them."""


def everything(run: Path, means: Means) -> Iterator[tuple[str, Measured]]:
    """Each measure that fits the run in this folder, by name, as it is done.

    UsageError where the folder is no run, or one of a codec of condition maps; BadFileError for damaged files.
    """
    settings = read_settings(run)
    model = next(
        (path for name in ("best", "last") if (path := run / "checkpoints" / f"{name}.safetensors").exists()), None
    )
    if model is None:
        raise UsageError(f"{run} holds no model yet; train it first")
    if settings["command"] == TRAIN_CODEC:
        yield from _of_codec(run, model, settings, means)
    elif settings["command"] == TRAIN_PRIOR:
        yield from _of_prior(run, model, settings, means)
    else:
        raise UsageError(f"{run} is a run of {settings['command']}; eval all measures codecs and priors")


def _of_codec(run: Path, model: Path, settings: dict[str, Any], means: Means) -> Iterator[tuple[str, Measured]]:
    train = from_dict(CodecTrainConfig, settings["config"]["train"], str(run / "config.json"))
    items, look = held_out(run), means.look
    if not items:
        raise UsageError(f"{run} held no picture out; name some: taming eval recon {model} IMAGES")
    sent = sending(
        model,
        items,
        size=train.size,
        workers=look.workers,
        device=next(look.network.parameters()).device,
        world=look.world,
        memory=means.memory,
        on_item=look.on_item,
    )
    size = sent.codec.config.codebook_size
    measures: dict[str, Measure] = {
        "recon": codecs.Reconstruction(means.perceptual, size),
        "codebook": codecs.Codebook(size),
        "rfid": codecs.Distribution(look.network),
    }
    sent.past(*measures.values())
    results: dict[str, Measured] = {}
    too_little: dict[str, UsageError] = {}
    for name, measure in measures.items():
        try:
            results[name] = measure.result(sent)
        except UsageError as error:
            too_little[name] = error
    if not results:
        raise too_little["codebook"]
    for name, why in too_little.items():
        means.note(f"{name} is left out: {why}")
    yield from results.items()


def _of_prior(run: Path, model: Path, settings: dict[str, Any], means: Means) -> Iterator[tuple[str, Measured]]:
    train = from_dict(PriorTrainConfig, settings["config"]["train"], str(run / "config.json"))
    paths = [Path(path) for path in settings["inputs"]]
    tokens = TokenSet(paths, kinds=train.cond)
    _, held = tokens.split(train.held)
    for number, path in enumerate(paths):
        rows = held[(held >= tokens.starts[number]) & (held < tokens.starts[number + 1])] - tokens.starts[number]
        if len(rows):
            name = "nll" if len(paths) == 1 else f"nll-{number + 1}"
            yield name, nll(model, path, rows=np.sort(rows).tolist(), device=means.device, world=means.look.world)
    folder = _samples(run)
    if folder is None:
        means.note(
            f"distances are left out: no samples of this prior are here; draw some: taming sample --ckpt {model}"
        )
        return
    device = next(means.look.network.parameters()).device
    try:
        generated, reference = (side(path, device=device) for path in (folder, behind(model).pictures))
    except UsageError as error:
        means.note(f"distances are left out: {error}")
        return
    assert isinstance(generated, Side)
    assert isinstance(reference, Side)
    fewest = min(len(generated), len(reference))
    if fewest < 2:
        means.note(f"distances are left out: {folder} holds one picture")
        return
    look = replace(means.look, size=generated.first_size())
    yield "fid", distance.fid(generated, reference, look)
    balls, subsets, parts = ManifoldConfig(), KernelConfig(), InceptionScoreConfig()
    if fewest > balls.neighbours:
        yield "prc", distance.manifold(generated, reference, look, balls)
    if fewest >= subsets.subset_size:
        yield "kid", distance.kernel(generated, reference, look, subsets)
    if len(generated) >= parts.splits and look.network.classes:
        yield "is", distance.inception(generated, look, parts)


def _samples(run: Path) -> Path | None:
    """The newest folder of samples that this run's prior drew, where samples go by themselves."""
    models = {sha256(path) for path in (run / "checkpoints").glob("*.safetensors")}
    for folder in samples_under(Path("runs"), run.parent.parent):
        with contextlib.suppress(ValueError):
            if drawn_by(folder) in models:
                return folder
    return None
