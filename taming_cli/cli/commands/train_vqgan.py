"""`train-vqgan`: train a codec on pictures or condition maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taming_cli.cli import options as o
from taming_cli.cli.command import Panel, command
from taming_cli.cli.dry_run import print_estimate, where
from taming_cli.cli.inputs import stdin_as_list
from taming_cli.cli.processes import launched
from taming_cli.cli.settings import Settings
from taming_cli.cli.training import Training, architecture_of, print_result, progress_printer
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.size import Size

if TYPE_CHECKING:
    from taming_cli.codec.perturb import Redraw

FIRST = ("preset", "scale", "minutes", "steps", "size", "out", "name", "resume")


@command("train-vqgan", first=FIRST, reads_pictures=True)
@stdin_as_list
def train_vqgan(
    run: Training,
    pretrained: o.Pretrained,
    settings: Annotated[
        Settings,
        Panel("Training", CodecTrainConfig),
        Panel("Architecture", CodecConfig),
        Panel("Discriminator", DiscriminatorConfig),
    ],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGES|-]",
            help="Folders, picture files, zip and tar archives, lists of paths (.txt); - reads paths from stdin.",
        ),
    ] = None,
    nul: o.Nul = False,
) -> int:
    """Train a codec on pictures. Writes a run folder with checkpoints, curves and reconstructions."""
    if (code := launched(run.nproc, settings.flags["device"], run.dry_run, images or ())) is not None:
        return code
    from taming_cli.codec.train import COMMAND, fit
    from taming_cli.report.page import write_report
    from taming_cli.runtime.distributed import world

    usage = "name the pictures to train on: taming train-vqgan IMAGES"
    pictures, recorded = run.start(COMMAND, images, usage)
    resolved = settings.resolve(
        CodecConfig,
        DiscriminatorConfig,
        CodecTrainConfig,
        recorded=recorded,
        fixed=architecture_of(settings.flags["init"], "codec"),
    )
    codec, discriminator, train = resolved.configs
    redraw = None
    if train.perturb_prior is not None:
        from taming_cli.prior.redraw import load_redraw

        redraw = load_redraw(Path(train.perturb_prior), codec.latent(train.size))
    if run.dry_run:
        return _dry_run(run, pretrained, pictures, codec, discriminator, train, redraw)
    with world() as together, run.output.bar("training", total=1.0) as bar:
        trained = fit(
            pictures,
            codec=codec,
            discriminator=discriminator,
            train=train,
            place=run.place,
            origins=resolved.origins,
            on_step=progress_printer(bar),
            on_bytes=bar.fetching,
            write_report=write_report,
            redraw=redraw,
            world=together,
            **vars(pretrained),
        )
    run.output.skipped(trained.skipped)
    print_result(run.output, trained, skipped=dict(trained.skipped))
    return 3 if trained.skipped and together.first else 0


def _dry_run(
    run: Training,
    pretrained: o.Pretrained,
    images: Sequence[Path],
    codec: CodecConfig,
    discriminator: DiscriminatorConfig,
    train: CodecTrainConfig,
    redraw: "Redraw | None",
) -> int:
    from taming_cli.codec.estimate import estimate
    from taming_cli.codec.setup import identity, set_up
    from taming_cli.codec.train import COMMAND
    from taming_cli.data.oversized import find_oversized
    from taming_cli.pretrained.perceptual import build as build_perceptual
    from taming_cli.runtime.run.folder import inspect_run, saved_run

    saved = saved_run(COMMAND, run.place)
    known = set_up(images, codec, discriminator, train, run=saved, processes=max(1, run.nproc))
    inspect_run(COMMAND, run.place, **identity(images, discriminator, known))
    find_oversized([*known.pictures.train, *known.pictures.held])
    at = where(run.device_name, train.device, train.precision)
    with run.output.bar("estimating") as bar:
        perceptual = build_perceptual(
            train.perceptual, classify=bool(train.logits_weight), on_bytes=bar.fetching, **vars(pretrained)
        )
    latent = known.codec.latent(train.size)
    pictures = len(known.pictures.train) + len(known.pictures.held)
    values = {
        "pictures": pictures,
        "downsample_factor": known.codec.downsample_factor,
        "codes_per_picture": sum(latent.width * latent.height // 4**level for level in range(known.codec.levels)),
    }
    text = f"{pictures} pictures of {train.size} become {latent} codes of {known.codec.codebook_size}"
    if known.codec.levels > 1:
        text += f", and {Size(latent.width // 2, latent.height // 2)} above them"
    cost = estimate(known.codec, discriminator, known.train, perceptual, at.dtype, redraw)
    return print_estimate(run.output, text, values, cost, train, at, run.nproc)
