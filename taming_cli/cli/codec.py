"""`train-vqgan`, `reconstruct`, `decode`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taming_cli.cli import options as o
from taming_cli.cli import stdin
from taming_cli.cli.console import Output
from taming_cli.cli.dry_run import made, say_estimate, would_write
from taming_cli.cli.launch import launched
from taming_cli.cli.tokenize import tokenize
from taming_cli.cli.training import architecture_of, last_word, take_up, teller
from taming_cli.config.codec import CodecConfig, CodecTrainConfig, DiscriminatorConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.runtime.run.folder import Place

Images = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[IMAGES|-]",
        help="Folders, picture files, zip and tar archives, lists of paths (.txt); - reads paths from stdin.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("train-vqgan", rich_help_panel="Train")(train_vqgan)
    app.command("tokenize", rich_help_panel="Use")(tokenize)
    app.command("reconstruct", rich_help_panel="Use")(reconstruct)
    app.command("decode", rich_help_panel="Use")(decode)


@o.reads_pictures
@o.with_flags(Training=CodecTrainConfig, Architecture=CodecConfig, Discriminator=DiscriminatorConfig)
@stdin.as_list
def train_vqgan(
    images: Images = None,
    preset: o.PresetName = None,
    config: o.Config = None,
    out: o.Out = None,
    name: o.Name = None,
    resume: o.Resume = False,
    nul: o.Nul = False,
    weights: o.Weights = None,
    offline: o.Offline = False,
    dry_run: o.DryRun = False,
    nproc: o.Nproc = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
    *,
    flags: dict[str, Any],
) -> int:
    """Train a codec on pictures: a run folder with its checkpoints, curves and reconstructions."""
    if (code := launched(nproc, flags["device"], dry_run, images or ())) is not None:
        return code
    from taming_cli.codec.train import COMMAND, fit
    from taming_cli.report.page import write_report
    from taming_cli.runtime.distributed import world
    from taming_cli.runtime.processes import started
    from taming_cli.runtime.run.folder import Place

    output = Output(json=json, quiet=quiet, silent=not started().first)
    place = Place(out=out, name=name, resume=resume)
    usage = "name the pictures to train on: taming train-vqgan IMAGES"
    pictures, recorded = take_up(output, COMMAND, place, images, usage)
    resolved = o.settle(
        (CodecConfig, DiscriminatorConfig, CodecTrainConfig),
        flags,
        command=COMMAND,
        preset_name=preset,
        config_file=config,
        recorded=recorded,
        fixed=architecture_of(flags["init"], "codec"),
    )
    codec_config, discriminator, train = resolved.configs
    if dry_run:
        return _dry_run(output, pictures, codec_config, discriminator, train, place, weights, offline, nproc)

    with world() as together, output.bar("training", total=1.0) as bar:
        trained = fit(
            pictures,
            codec=codec_config,
            discriminator=discriminator,
            train=train,
            place=place,
            weights=weights,
            offline=offline,
            origins=resolved.origins,
            on_step=teller(bar),
            on_bytes=bar.fetching,
            write_report=write_report,
            world=together,
        )
    output.skipped(trained.skipped)
    last_word(output, trained, skipped=dict(trained.skipped))
    return 3 if trained.skipped and together.first else 0


def _dry_run(
    output: Output,
    images: Sequence[Path],
    codec: CodecConfig,
    discriminator: DiscriminatorConfig,
    train: CodecTrainConfig,
    place: "Place",
    weights: Path | None,
    offline: bool,
    nproc: int,
) -> int:
    from taming_cli.codec.estimate import estimate
    from taming_cli.codec.setup import identity, set_up
    from taming_cli.codec.train import COMMAND
    from taming_cli.data.oversized import find_oversized
    from taming_cli.pretrained.perceptual import build as build_perceptual
    from taming_cli.runtime.device import pick_device, pick_precision
    from taming_cli.runtime.run.folder import inspect_run, saved_run

    known = set_up(images, codec, discriminator, train, run=saved_run(COMMAND, place), processes=max(1, nproc))
    inspect_run(COMMAND, place, **identity(images, discriminator, known))
    find_oversized([*known.pictures.train, *known.pictures.held])
    device = pick_device(train.device)
    dtype = pick_precision(train.precision, device)
    with output.bar("reckoning") as bar:
        perceptual = build_perceptual(train.perceptual, weights=weights, offline=offline, on_bytes=bar.fetching)
    latent = known.codec.latent(train.size)
    pictures = len(known.pictures.train) + len(known.pictures.held)
    values = {
        "pictures": pictures,
        "downsample_factor": known.codec.downsample_factor,
        "codes_per_picture": latent.width * latent.height,
    }
    said = f"{pictures} pictures of {train.size} become {latent} codes of {known.codec.codebook_size}"
    found = estimate(known.codec, discriminator, known.train, perceptual, dtype)
    return say_estimate(output, said, values, found, train, device, dtype, nproc)


@o.reads_pictures
def reconstruct(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES... OUT", help="Folders, pictures, archives or lists (.txt), then the folder to write."
        ),
    ],
    ckpt: o.Ckpt = None,
    out: o.Out = None,
    size: o.SizeText = None,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", metavar="PATH", help="Pictures that keypoints belong to, where these lack sizes."),
    ] = None,
    batch_size: o.BatchSize = 8,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    memory: o.Memory = None,
    workers: o.Workers = 2,
    shard: o.ShardText = None,
    config: o.Config = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Send pictures (or a codec's condition maps) through it and back, each at its own size; prints the mean PSNR."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.cli.models import codec_path
    from taming_cli.codec import reconstruct as verb
    from taming_cli.codec.locate import content_in
    from taming_cli.data.conditions.pairs import each_picture, with_pictures
    from taming_cli.data.sources import list_items
    from taming_cli.runtime.checkpoint import read_header

    if out is None:
        if len(images) < 2:
            raise UsageError("name the folder to write: taming reconstruct IMAGES OUT")
        *images, out = images
    part = o.own_part(output, shard)
    path = codec_path(output, ckpt)
    items = each_picture(list_items(images, extensions=content_in(read_header(path)).extensions).items)
    if pictures is not None:
        items = with_pictures(items, pictures, images[0])
    with output.bar("reconstructing", len(items[part.places]), "pictures") as bar:
        written = verb.reconstruct(
            items,
            out,
            ckpt=path,
            size=Size.parse(size) if size else None,
            batch_size=batch_size,
            device=device,
            precision=precision,
            memory=memory,
            workers=workers,
            shard=part,
            dry_run=dry_run,
            on_item=lambda done, total: bar.update(done, total=total),
        )
    if dry_run:
        return would_write(output, written, part)
    output.skipped(dict(written.skipped))
    said = f", {part.spelled()}" if part.count > 1 else ""
    mean = f", mean PSNR {written.psnr:.2f} dB" if written.psnr is not None else ""
    if written.accuracy is not None:
        mean = f", {100 * written.accuracy:.1f} % of the pixels with their own label"
    output.result(
        f"{written.folder}: {written.count} pictures{said}{mean}",
        {
            "path": str(written.folder),
            "count": written.count,
            "estimated": written.estimated,
            **made(part),
            **{name: mean for name in ("psnr", "accuracy") if (mean := getattr(written, name)) is not None},
            "skipped": dict(written.skipped),
        },
        short=str(written.folder),
    )
    return o.skipped_code(written.skipped)


def decode(
    tokens: Annotated[Path, typer.Argument(metavar="TOKENS", help="Token file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    codec: Annotated[
        Path | None, typer.Option("--codec", metavar="FILE", help="The codec, where the token file does not find it.")
    ] = None,
    batch_size: o.BatchSize = 8,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    memory: o.Memory = None,
    shard: o.ShardText = None,
    config: o.Config = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Turn a token file back into pictures."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.codec import reconstruct as verb

    part = o.own_part(output, shard)
    with output.bar("decoding", unit="pictures") as bar:
        written = verb.decode(
            tokens,
            out,
            codec_path=codec,
            batch_size=batch_size,
            device=device,
            precision=precision,
            memory=memory,
            shard=part,
            dry_run=dry_run,
            on_item=lambda done, total: bar.update(done, total=total),
            on_decode=bar.within,
        )
    if dry_run:
        return would_write(output, written, part)
    said = f", {part.spelled()}" if part.count > 1 else ""
    output.result(
        f"{written.folder}: {written.count} pictures{said}",
        {"path": str(written.folder), "count": written.count, "estimated": written.estimated, **made(part)},
        short=str(written.folder),
    )
    return 0
