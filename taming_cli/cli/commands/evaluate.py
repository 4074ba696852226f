"""`eval`: the usual quality measures of generated pictures, codecs and priors."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from taming_cli.cli import options as o
from taming_cli.cli.command import Group, Panel
from taming_cli.cli.evaluation import Evaluation, Generated, Paths, measurement
from taming_cli.cli.results import save, save_all, values
from taming_cli.config.evaluate import FeatureConfig, InceptionScoreConfig, KernelConfig, ManifoldConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.evaluate.protocol import Measurement

CodecFile = Annotated[Path, typer.Argument(metavar="CODEC", help="A codec's model file, or a prior's.")]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Folders, pictures, archives or lists (.txt).")]
Perceptual = Annotated[
    str,
    o.option(
        "--perceptual",
        metavar="NAME",
        help="Perceptual network: lpips-vgg, lpips-alex, efficientnet-lite0 or none.",
        panel=None,
        envvar="TAMING_PERCEPTUAL",
    ),
]
Features = Annotated[FeatureConfig, Panel("Feature network")]


@measurement("fid")
def fid(evaluation: Evaluation, features: Features, paths: Paths, pretrained: o.Pretrained) -> "Measurement":
    """Frechet distance between two sets of pictures. It is called FID with Inception features only."""
    from taming_cli.evaluate import distance
    from taming_cli.evaluate.image_sets import FeatureStatistics

    sides = evaluation.sides(features, paths)
    if isinstance(sides.generated, FeatureStatistics) and isinstance(sides.reference, FeatureStatistics):
        return distance.fid_of_statistics(sides.generated, sides.reference, sides.features)
    extractor = evaluation.extractor(sides.features, pretrained)
    return distance.fid(sides.generated, sides.reference, extractor, cache=features.cache)


@measurement("is")
def inception(
    evaluation: Evaluation,
    features: Features,
    config: Annotated[InceptionScoreConfig, Panel("Splits")],
    pretrained: o.Pretrained,
    generated: Generated = None,
    codec: o.TokensCodec = None,
) -> "Measurement":
    """Inception score of pictures, with its standard deviation over splits."""
    from taming_cli.evaluate import distance

    side = evaluation.pictures(evaluation.newest(generated), codec)
    return distance.inception(side, evaluation.extractor(features, pretrained, side, keep="logits"), config)


@measurement("kid")
def kernel(
    evaluation: Evaluation,
    features: Features,
    config: Annotated[KernelConfig, Panel("Subsets")],
    paths: Paths,
    pretrained: o.Pretrained,
) -> "Measurement":
    """Kernel distance between two sets of pictures, with its standard deviation over subsets."""
    from taming_cli.evaluate import distance

    return distance.kernel(*evaluation.picture_sides(features, paths, pretrained), config)


@measurement("prc")
def manifold(
    evaluation: Evaluation,
    features: Features,
    config: Annotated[ManifoldConfig, Panel("Neighbourhoods")],
    paths: Paths,
    pretrained: o.Pretrained,
) -> "Measurement":
    """Improved precision and recall of generated pictures; first published with --features vgg16."""
    from taming_cli.evaluate import distance

    return distance.manifold(*evaluation.picture_sides(features, paths, pretrained), config)


@measurement("rfid")
def rfid(
    evaluation: Evaluation, features: Features, codec: CodecFile, images: Images, pretrained: o.Pretrained
) -> "Measurement":
    """Frechet distance between pictures and their reconstructions, which are not written to disk."""
    from taming_cli.evaluate import codecs

    network = evaluation.network(features, pretrained)
    return evaluation.codec_run(codec, images, features.size).measure(codecs.ReconstructionFid(network))


@measurement("recon")
def recon(
    evaluation: Evaluation,
    codec: CodecFile,
    images: Images,
    pretrained: o.Pretrained,
    size: o.SizeText = None,
    perceptual: Perceptual = "efficientnet-lite0",
) -> "Measurement":
    """PSNR, SSIM, L1, perceptual distance and bits/pixel of reconstructions; -o also writes the best and worst."""
    from taming_cli.evaluate import codecs

    network = evaluation.perceptual(perceptual, pretrained)
    run = evaluation.codec_run(codec, images, Size.parse(size) if size else None)
    return run.measure(codecs.ReconstructionMetrics(network, run.codec.config))


@measurement("codebook")
def codebook(
    evaluation: Evaluation,
    codec: CodecFile,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...|TOKENS", help="Pictures, or one token file.")],
    size: o.SizeText = None,
) -> "Measurement":
    """Codebook use: codes that occur, their perplexity, codes that never occur; -o also writes a histogram."""
    from taming_cli.evaluate import codecs

    if len(images) == 1 and images[0].suffix.lower() == ".h5":
        if size is not None:
            evaluation.output.note("--size crops pictures, and has no effect on the codes of a token file")
        return codecs.token_file_usage(images[0], codec)
    run = evaluation.codec_run(codec, images, Size.parse(size) if size else None)
    return run.measure(codecs.CodebookUsage(run.codec.config))


@measurement("nll")
def nll(
    evaluation: Evaluation,
    prior: Annotated[Path, typer.Argument(metavar="PRIOR", help="A prior's model file.")],
    tokens: Annotated[Path, typer.Argument(metavar="TOKENS", help="Token file of the prior's codec.")],
    stride: Annotated[
        int,
        o.number(
            "--stride", low=1, help="Columns that share a window; 1 is the published procedure.", envvar="TAMING_STRIDE"
        ),
    ] = 1,
    order: Annotated[
        Literal["plan", "raster"],
        typer.Option("--order", help="With a prior for any order: that of sampling, or raster order."),
    ] = "plan",
    sample_steps: Annotated[
        int,
        o.number(
            "--sample-steps",
            low=0,
            help="With a prior for any order: read cells in the groups of so many steps; 0: one cell at a time.",
        ),
    ] = 0,
    precision: o.Precision = "fp32",
) -> "Measurement":
    """nats/token and bits/dim of a token file's codes under a prior, by class; -o also writes a map by position."""
    from taming_cli.evaluate import likelihood

    return likelihood.nll(
        prior,
        tokens,
        stride=stride,
        order=order,
        sample_steps=sample_steps,
        batch_size=min(16, evaluation.batch_size),
        device=evaluation.device_name,
        precision=precision,
        world=evaluation.world,
        on_item=evaluation.progress("reading", "cells"),
    )


@measurement("memorization")
def memorization(
    evaluation: Evaluation,
    features: Features,
    pretrained: o.Pretrained,
    generated: Annotated[
        Path | None,
        typer.Argument(
            metavar="[GENERATED]",
            help="Samples, or a prior's run or file: its newest samples. Default: newest samples.",
        ),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TRAINING]",
            help="Training pictures or token file. Default: the token files of the prior that drew the samples.",
        ),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            "--held-out",
            metavar="IMAGES",
            help="Pictures that were not trained on. Default: those that the prior held out.",
        ),
    ] = None,
    codec: o.TokensCodec = None,
) -> "Measurement":
    """Whether samples repeat training pictures: how near they are to them, compared with held-out pictures."""
    from taming_cli.evaluate import memorization as measure
    from taming_cli.evaluate.defaults import learned_by, prior_run, run_that_drew, samples_of

    run = None if generated is None else prior_run(generated)
    if run is not None:
        prior, generated = generated, samples_of(run)
        if generated is None:
            raise UsageError(
                f"no samples of {prior} are under runs/; name their folder, or draw some with taming sample"
            )
        evaluation.output.note(f"generated: {generated} (its newest samples)")
    samples = evaluation.pictures(evaluation.newest(generated), codec)
    if training is None:
        learned = learned_by(run or run_that_drew(Path(samples.name)))
        known = measure.known_by(learned, device=evaluation.device, memory=evaluation.memory)
    elif held_out is None:
        raise UsageError("name pictures that the prior was not trained on: --held-out IMAGES")
    else:
        known = measure.Known([evaluation.pictures(training, codec)], [])
    if held_out is not None:
        known = known._replace(held_out=[evaluation.pictures(held_out, codec)])
    size = features.size or samples.first_size()
    extractor = evaluation.extractor(replace(features, size=size), pretrained, samples, *known.training)
    return measure.memorization(samples, known, extractor)


@measurement("all")
def everything(
    evaluation: Evaluation,
    features: Features,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run of train-vqgan or train-prior.")],
    pretrained: o.Pretrained,
    perceptual: Perceptual = "efficientnet-lite0",
) -> int:
    """Every measure that applies to a run, on held-out data. Writes eval.json and the report in the run folder."""
    from taming_cli.evaluate.everything import Networks, evaluate_run

    weights = pretrained.weights  # a single file holds the feature network
    shared = replace(pretrained, weights=weights if weights is None or weights.is_dir() else None)
    network = evaluation.perceptual(perceptual, shared)
    networks = Networks(
        extractor=evaluation.extractor(features, pretrained),
        perceptual=network,
        device=evaluation.device_name,
        note=evaluation.output.note,
        memory=evaluation.memory,
    )
    results = dict(evaluate_run(run, networks))
    evaluation.end_bar()
    skipped = False
    if evaluation.world.first:
        for measured in results.values():
            evaluation.warn(measured)
            skipped |= bool(measured.skipped)
        save_all(results, run)
        if evaluation.out is not None:
            for measured in results.values():
                evaluation.output.note(f"written: {save(measured, evaluation.out)}")
        text = [values(measured) for measured in results.values()]
        named = {name: measured.to_dict() for name, measured in results.items()}
        evaluation.output.result([*text, str(run / "report.html")], named, short=str(run / "eval.json"))
    return 3 if skipped else 0


EVAL = Group(
    "eval",
    "Measure pictures, codecs and priors. Every result states how it was computed; --json prints all details.",
    (fid, inception, kernel, manifold, rfid, recon, codebook, nll, memorization, everything),
)
