"""All metrics that apply to a run: of a codec on held-out images, of a prior on held-out tokens and on its samples."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taming_cli.codec.setup import held_out
from taming_cli.codec.train import COMMAND as TRAIN_CODEC
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.evaluate import InceptionScoreConfig, KernelConfig, ManifoldConfig
from taming_cli.config.fields import from_dict
from taming_cli.errors import UsageError
from taming_cli.evaluate import codecs, distance
from taming_cli.evaluate.coding import Metric, codec_run
from taming_cli.evaluate.defaults import Learned, learned_by, model_of, samples_of, training_images
from taming_cli.evaluate.extraction import Extractor
from taming_cli.evaluate.image_sets import ImageSet, open_image_set
from taming_cli.evaluate.likelihood import nll
from taming_cli.evaluate.memorization import known_by, memorization
from taming_cli.evaluate.protocol import Measurement
from taming_cli.pretrained.perceptual import Perceptual
from taming_cli.prior.train import COMMAND as TRAIN_PRIOR
from taming_cli.runtime.run.folder import read_settings

MOST = 10_000
"""Training pictures above which memorization, which decodes all of them, is not measured unasked."""


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
    model = model_of(run)
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
    learned, world = learned_by(run), networks.extractor.world
    for path, rows in learned.held_out:
        name = "nll" if len(settings["inputs"]) == 1 else f"nll-{settings['inputs'].index(str(path)) + 1}"
        yield name, nll(model, path, rows=rows, device=networks.device, world=world)
    folder = samples_of(run)
    if folder is None:
        networks.note(
            f"distances are left out: this prior has drawn no samples yet; draw some: taming sample --ckpt {model}"
        )
        return
    generated = open_image_set(folder, device=next(networks.extractor.network.parameters()).device)
    assert isinstance(generated, ImageSet)
    networks = replace(networks, extractor=replace(networks.extractor, size=generated.first_size()))
    yield from _distances(generated, model, networks)
    yield from _memorization(generated, learned, networks)


def _distances(generated: ImageSet, model: Path, networks: Networks) -> Iterator[tuple[str, Measurement]]:
    """The metrics that compare samples with the training pictures, where these are found."""
    extractor = networks.extractor
    try:
        reference = open_image_set(
            training_images(model).pictures, device=next(extractor.network.parameters()).device, statistics=False
        )
    except UsageError as error:
        networks.note(f"distances are left out: {error}")
        return
    assert isinstance(reference, ImageSet)
    fewest = min(len(generated), len(reference))
    if fewest < 2:
        networks.note(f"distances are left out: {generated.name} holds one picture")
        return
    yield "fid", distance.fid(generated, reference, extractor)
    manifold, kernel, inception = ManifoldConfig(), KernelConfig(), InceptionScoreConfig()
    if fewest > manifold.neighbours:
        yield "prc", distance.manifold(generated, reference, extractor, manifold)
    if fewest >= kernel.subset_size:
        yield "kid", distance.kernel(generated, reference, extractor, kernel)
    if len(generated) >= inception.splits and extractor.network.classes:
        yield "is", distance.inception(generated, extractor, inception)


def _memorization(generated: ImageSet, learned: Learned, networks: Networks) -> Iterator[tuple[str, Measurement]]:
    extractor = networks.extractor
    known = known_by(learned, device=next(extractor.network.parameters()).device, memory=networks.memory)
    training, held = (sum(map(len, sets)) for sets in known)
    if training > MOST:
        networks.note(f"memorization is left out for {training:,} training pictures; run: taming eval memorization")
    elif held > 1:
        yield "memorization", memorization(generated, known, extractor)
