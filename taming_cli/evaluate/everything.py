"""All metrics that apply to a run: of a codec on held-out images, of a prior on held-out tokens and on its samples."""

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
from taming_cli.config.prior import PriorTrainConfig, recorded_prior
from taming_cli.errors import UsageError
from taming_cli.evaluate import codecs, distance
from taming_cli.evaluate.coding import Metric, codec_run
from taming_cli.evaluate.defaults import drawn_by, samples_under, training_images
from taming_cli.evaluate.extraction import Extractor
from taming_cli.evaluate.image_sets import ImageSet, open_image_set
from taming_cli.evaluate.likelihood import nll
from taming_cli.evaluate.protocol import Measurement
from taming_cli.pretrained.perceptual import Perceptual
from taming_cli.prior.batches import TokenSet
from taming_cli.prior.train import COMMAND as TRAIN_PRIOR
from taming_cli.runtime.run.folder import read_settings
from taming_cli.runtime.weights import sha256


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks to measure with. `note` is called with each metric that is left out, and the reason."""

    extractor: Extractor
    perceptual: Perceptual | None
    device: str
    note: Callable[[str], None]
    memory: float | None = None
    """GiB for coding an image (`runtime.memory.room`)."""


def evaluate_run(run: Path, networks: Networks) -> Iterator[tuple[str, Measurement]]:
    """The metrics that apply to a run folder, by name, as they are computed.

    UsageError if the folder is not a run, or is a run of a codec of condition maps; BadFileError for damaged files.
    """
    settings = read_settings(run)
    model = next(
        (path for name in ("best", "last") if (path := run / "checkpoints" / f"{name}.safetensors").exists()), None
    )
    if model is None:
        raise UsageError(f"{run} holds no model yet; train it first")
    if settings["command"] == TRAIN_CODEC:
        yield from _evaluate_codec(run, model, settings, networks)
    elif settings["command"] == TRAIN_PRIOR:
        yield from _evaluate_prior(run, model, settings, networks)
    else:
        raise UsageError(f"{run} is a run of {settings['command']}; eval all measures codecs and priors")


def _evaluate_codec(
    run: Path, model: Path, settings: dict[str, Any], networks: Networks
) -> Iterator[tuple[str, Measurement]]:
    train = from_dict(CodecTrainConfig, settings["config"]["train"], str(run / "config.json"))
    items, extractor = held_out(run), networks.extractor
    if not items:
        raise UsageError(f"{run} has no held-out pictures; name some: taming eval recon {model} IMAGES")
    coding = codec_run(
        model,
        items,
        size=train.size,
        workers=extractor.workers,
        device=next(extractor.network.parameters()).device,
        world=extractor.world,
        memory=networks.memory,
        on_item=extractor.on_item,
    )
    config = coding.codec.config
    metrics: dict[str, Metric] = {
        "recon": codecs.ReconstructionMetrics(networks.perceptual, config),
        "codebook": codecs.CodebookUsage(config),
        "rfid": codecs.ReconstructionFid(extractor.network),
    }
    coding.run(*metrics.values())
    results: dict[str, Measurement] = {}
    too_few: dict[str, UsageError] = {}
    for name, metric in metrics.items():
        try:
            results[name] = metric.result(coding)
        except UsageError as error:
            too_few[name] = error
    if not results:
        raise too_few["codebook"]
    for name, reason in too_few.items():
        networks.note(f"{name} is left out: {reason}")
    yield from results.items()


def _evaluate_prior(
    run: Path, model: Path, settings: dict[str, Any], networks: Networks
) -> Iterator[tuple[str, Measurement]]:
    train = from_dict(PriorTrainConfig, settings["config"]["train"], str(run / "config.json"))
    paths = [Path(path) for path in settings["inputs"]]
    level = recorded_prior(settings["config"]["prior"], str(run / "config.json")).level
    tokens = TokenSet(paths, kinds=train.cond, level=level)
    _, held = tokens.split(train.held)
    world = networks.extractor.world
    for number, path in enumerate(paths):
        rows = held[(held >= tokens.starts[number]) & (held < tokens.starts[number + 1])] - tokens.starts[number]
        if len(rows):
            name = "nll" if len(paths) == 1 else f"nll-{number + 1}"
            yield name, nll(model, path, rows=np.sort(rows).tolist(), device=networks.device, world=world)
    folder = _newest_own_samples(run)
    if folder is None:
        networks.note(
            f"distances are left out: this prior has drawn no samples yet; draw some: taming sample --ckpt {model}"
        )
        return
    device = next(networks.extractor.network.parameters()).device
    try:
        generated, reference = (
            open_image_set(path, device=device) for path in (folder, training_images(model).pictures)
        )
    except UsageError as error:
        networks.note(f"distances are left out: {error}")
        return
    assert isinstance(generated, ImageSet)
    assert isinstance(reference, ImageSet)
    fewest = min(len(generated), len(reference))
    if fewest < 2:
        networks.note(f"distances are left out: {folder} holds one picture")
        return
    extractor = replace(networks.extractor, size=generated.first_size())
    yield "fid", distance.fid(generated, reference, extractor)
    manifold, kernel, inception = ManifoldConfig(), KernelConfig(), InceptionScoreConfig()
    if fewest > manifold.neighbours:
        yield "prc", distance.manifold(generated, reference, extractor, manifold)
    if fewest >= kernel.subset_size:
        yield "kid", distance.kernel(generated, reference, extractor, kernel)
    if len(generated) >= inception.splits and extractor.network.classes:
        yield "is", distance.inception(generated, extractor, inception)


def _newest_own_samples(run: Path) -> Path | None:
    """The newest folder of samples drawn by this run's prior, among the default sample folders."""
    models = {sha256(path) for path in (run / "checkpoints").glob("*.safetensors")}
    for folder in samples_under(Path("runs"), run.parent.parent):
        with contextlib.suppress(ValueError):
            if drawn_by(folder) in models:
                return folder
    return None
