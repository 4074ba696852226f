"""`eval`: how good pictures, codecs and priors are, by the measures that the field quotes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taming_cli.cli import options as o
from taming_cli.cli.measured import save_all, values
from taming_cli.cli.session import Session, measures, pictures_of
from taming_cli.config.evaluate import FeatureConfig, InceptionScoreConfig, KernelConfig, ManifoldConfig
from taming_cli.config.size import Size

if TYPE_CHECKING:
    from taming_cli.evaluate.protocol import Measurement

Generated = Annotated[
    Path | None,
    typer.Argument(
        metavar="[GENERATED]",
        help="Folder, archive, list (.txt), token file, or .npz of pictures or statistics; else the newest samples.",
        show_default=False,
    ),
]
Reference = Annotated[
    Path | None,
    typer.Argument(
        metavar="[REFERENCE]",
        help="Likewise; else the pictures that the samples' codec was trained on.",
        show_default=False,
    ),
]
Codec = Annotated[
    Path | None, typer.Option("--codec", metavar="FILE", help="Of a token file, where that does not find its own.")
]
CodecFile = Annotated[Path, typer.Argument(metavar="CODEC", help="A codec's model file, or a prior's.")]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Folders, pictures, archives or lists (.txt).")]
Perceptual = Annotated[
    str,
    o.option(
        "--perceptual",
        metavar="NAME",
        help="lpips-vgg, lpips-alex, efficientnet-lite0 (the default) or none.",
        panel=None,
        envvar="TAMING_PERCEPTUAL",
    ),
]
SizeText = Annotated[
    str | None,
    o.option(
        "--size",
        metavar="WxH",
        help="Centre crops of this size; by default each picture whole.",
        panel=None,
        envvar="TAMING_SIZE",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Measure pictures, codecs and priors. Every result says how it was taken; --json has all of it.",
        rich_markup_mode="rich",
    )
    for name, command in (
        ("fid", fid),
        ("is", inception),
        ("kid", kernel),
        ("prc", manifold),
        ("rfid", rfid),
        ("recon", recon),
        ("codebook", codebook),
        ("nll", nll),
        ("all", everything),
    ):
        group.command(name)(command)
    app.add_typer(group, name="eval", rich_help_panel="Measure")


@measures(Seen_by=FeatureConfig)
def fid(
    session: Session,
    features: FeatureConfig,
    generated: Generated = None,
    reference: Reference = None,
    codec: Codec = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> "Measurement":
    """Frechet distance of two sides' features: FID, or under another network's name."""
    from taming_cli.evaluate import distance
    from taming_cli.evaluate.image_sets import FeatureStatistics

    sides = session.sides(features, generated, reference, codec)
    if isinstance(sides.generated, FeatureStatistics) and isinstance(sides.reference, FeatureStatistics):
        return distance.fid_of_statistics(sides.generated, sides.reference, sides.features)
    extractor = session.extractor(sides.features, weights, offline)
    return distance.fid(sides.generated, sides.reference, extractor, cache=features.cache)


@measures(Seen_by=FeatureConfig, Parts=InceptionScoreConfig)
def inception(
    session: Session,
    features: FeatureConfig,
    config: InceptionScoreConfig,
    generated: Generated = None,
    codec: Codec = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> "Measurement":
    """Inception score of pictures, and its deviation over parts."""
    from taming_cli.evaluate import distance

    side = session.pictures(session.newest(generated), codec)
    return distance.inception(side, session.extractor(features, weights, offline, side, keep="logits"), config)


@measures(Seen_by=FeatureConfig, Subsets=KernelConfig)
def kernel(
    session: Session,
    features: FeatureConfig,
    config: KernelConfig,
    generated: Generated = None,
    reference: Reference = None,
    codec: Codec = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> "Measurement":
    """Kernel distance of two sides' features, and its deviation over subsets."""
    from taming_cli.evaluate import distance

    sides = session.sides(features, generated, reference, codec)
    pair = pictures_of(sides.generated), pictures_of(sides.reference)
    return distance.kernel(*pair, session.extractor(sides.features, weights, offline, *pair), config)


@measures(Seen_by=FeatureConfig, Balls=ManifoldConfig)
def manifold(
    session: Session,
    features: FeatureConfig,
    config: ManifoldConfig,
    generated: Generated = None,
    reference: Reference = None,
    codec: Codec = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> "Measurement":
    """Improved precision and recall of generated pictures; first published with --features vgg16."""
    from taming_cli.evaluate import distance

    sides = session.sides(features, generated, reference, codec)
    pair = pictures_of(sides.generated), pictures_of(sides.reference)
    return distance.manifold(*pair, session.extractor(sides.features, weights, offline, *pair), config)


@measures(Seen_by=FeatureConfig)
def rfid(
    session: Session,
    features: FeatureConfig,
    codec: CodecFile,
    images: Images,
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> "Measurement":
    """Frechet distance from pictures to their reconstructions, which are not written."""
    from taming_cli.evaluate import codecs

    network = session.network(features, weights, offline)
    return session.codec_run(codec, images, features.size).measure(codecs.ReconstructionFid(network))


@measures()
def recon(
    session: Session,
    codec: CodecFile,
    images: Images,
    size: SizeText = None,
    perceptual: Perceptual = "efficientnet-lite0",
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> "Measurement":
    """PSNR, SSIM, L1, perceptual distance and bits per pixel of a codec's reconstructions; -o keeps worst and best."""
    from taming_cli.evaluate import codecs

    network = session.perceptual(perceptual, weights, offline)
    run = session.codec_run(codec, images, Size.parse(size) if size else None)
    return run.measure(codecs.ReconstructionMetrics(network, run.codec.config.codebook_size))


@measures()
def codebook(
    session: Session,
    codec: CodecFile,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...|TOKENS", help="Pictures, or one token file.")],
    size: SizeText = None,
) -> "Measurement":
    """How a codebook is used: codes that occur, their perplexity, those that never do; -o keeps a histogram."""
    from taming_cli.evaluate import codecs

    if len(images) == 1 and images[0].suffix.lower() == ".h5":
        if size is not None:
            session.output.note("--size cuts pictures; the codes of a token file are taken as they are")
        return codecs.token_file_usage(images[0], codec)
    run = session.codec_run(codec, images, Size.parse(size) if size else None)
    return run.measure(codecs.CodebookUsage(run.codec.config.codebook_size))


@measures()
def nll(
    session: Session,
    prior: Annotated[Path, typer.Argument(metavar="PRIOR", help="A prior's model file.")],
    tokens: Annotated[Path, typer.Argument(metavar="TOKENS", help="Token file of the prior's codec.")],
    stride: Annotated[
        int,
        o.number(
            "--stride", low=1, help="Columns that share a window; 1 is the published rule.", envvar="TAMING_STRIDE"
        ),
    ] = 1,
    precision: o.Precision = "fp32",
) -> "Measurement":
    """nats/token and bits/dim of a token file's codes under a prior; by class, and -o keeps a map by position."""
    from taming_cli.evaluate import likelihood

    return likelihood.nll(
        prior,
        tokens,
        stride=stride,
        batch_size=min(16, session.batch_size),
        device=session.device_name,
        precision=precision,
        world=session.world,
        on_item=session.told("reading", "cells"),
    )


@measures(Seen_by=FeatureConfig)
def everything(
    session: Session,
    features: FeatureConfig,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run of train-vqgan or train-prior.")],
    perceptual: Perceptual = "efficientnet-lite0",
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> int:
    """Everything that fits a run, on what it never learned from, into its eval.json and its report."""
    from taming_cli.evaluate.everything import Networks, evaluate_run

    shared = weights if weights is None or weights.is_dir() else None  # a file holds one network: the features'
    network = session.perceptual(perceptual, shared, offline)
    networks = Networks(
        extractor=session.extractor(features, weights, offline),
        perceptual=network,
        device=session.device_name,
        note=session.output.note,
        memory=session.memory,
    )
    results = dict(evaluate_run(run, networks))
    session.end_bar()
    skipped = False
    if session.world.first:
        for measured in results.values():
            session.heed(measured)
            skipped |= bool(measured.skipped)
        save_all(results, run)
        text = "\n".join(values(measured) for measured in results.values())
        named = {name: measured.to_dict() for name, measured in results.items()}
        session.output.result(f"{text}\n{run / 'report.html'}", named, short=str(run / "eval.json"))
    return 3 if skipped else 0
