"""`train-vqgan`, `tokenize`, `reconstruct`, `decode`."""

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taming_cli.cli import options as o
from taming_cli.cli.console import Output, figures
from taming_cli.cli.launch import launched
from taming_cli.cli.training import architecture_of, last_word, say_estimate, take_up
from taming_cli.config.codec import CodecConfig, CodecTrainConfig, CriticConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.data.sources import Listing

Images = Annotated[
    list[Path] | None,
    typer.Argument(metavar="IMAGES", help="Folders, picture files, zip and tar archives.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("train-vqgan", rich_help_panel="Train")(train_vqgan)
    app.command("tokenize", rich_help_panel="Use")(tokenize)
    app.command("reconstruct", rich_help_panel="Use")(reconstruct)
    app.command("decode", rich_help_panel="Use")(decode)


@o.with_flags(Training=CodecTrainConfig, Architecture=CodecConfig, Critic=CriticConfig)
def train_vqgan(
    images: Images = None,
    preset: o.PresetName = None,
    config: o.Config = None,
    out: o.Out = None,
    name: o.Name = None,
    resume: o.Resume = False,
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
    if not dry_run and (code := launched(nproc, flags["device"])) is not None:
        return code
    from taming_cli.codec.train import COMMAND, fit
    from taming_cli.runtime.distributed import started, world
    from taming_cli.runtime.progress import Progress
    from taming_cli.runtime.rundir import Place

    output = Output(json=json, quiet=quiet, silent=not started().first)
    place = Place(out=out, name=name, resume=resume)
    usage = "name the pictures to train on: taming train-vqgan IMAGES"
    pictures, recorded = take_up(output, COMMAND, place, images, usage)
    resolved = o.settle(
        (CodecConfig, CriticConfig, CodecTrainConfig),
        flags,
        command=COMMAND,
        preset_name=preset,
        config_file=config,
        recorded=recorded,
        fixed=architecture_of(flags["init"], "codec"),
    )
    codec_config, critic, train = resolved.configs
    if dry_run:
        return _dry_run(output, pictures, codec_config, critic, train, weights, offline, nproc)

    with world() as together, output.bar("training", 1.0) as bar:

        def on_step(progress: Progress) -> None:
            values = progress.values
            if progress.validation:
                bar.line(f"step {progress.step}: held-out  {figures(values)}")
                return
            keys = ("l1", "perceptual", "critic", "cross_entropy", "codebook_perplexity")
            shown = {key.replace("codebook_", ""): values[key] for key in keys if key in values}
            text = f"step {progress.step}  {figures(shown)}  {progress.images_per_second:.1f} images/s"
            bar.update(progress.spent, text)

        trained = fit(
            pictures,
            codec=codec_config,
            critic=critic,
            train=train,
            place=place,
            weights=weights,
            offline=offline,
            origins=resolved.origins,
            on_step=on_step,
            world=together,
        )
    output.skipped(trained.skipped)
    last_word(output, trained, skipped=dict(trained.skipped))
    return 3 if trained.skipped and together.first else 0


def _dry_run(
    output: Output,
    images: Sequence[Path],
    codec: CodecConfig,
    critic: CriticConfig,
    train: CodecTrainConfig,
    weights: Path | None,
    offline: bool,
    nproc: int,
) -> int:
    from taming_cli.codec.estimate import estimate
    from taming_cli.codec.train import settled
    from taming_cli.judges import perceptual
    from taming_cli.runtime.device import pick_device, pick_precision

    known = settled(images, codec, critic, train)
    device = pick_device(train.device)
    dtype = pick_precision(train.precision, device)
    judge = perceptual.build(train.perceptual, weights=weights, offline=offline)
    latent = known.codec.latent(train.size)
    pictures = len(known.pictures.train) + len(known.pictures.held)
    values = {
        "pictures": pictures,
        "downsample_factor": known.codec.downsample_factor,
        "codes_per_picture": latent.width * latent.height,
    }
    said = f"{pictures} pictures of {train.size} become {latent} codes of {known.codec.codebook_size}"
    found = estimate(known.codec, critic, known.train, judge, dtype)
    return say_estimate(output, said, values, found, train, device, dtype, nproc)


def tokenize(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES|-]",
            help="Folders, files, archives; - reads paths from stdin, and so does a pipe.",
            show_default=False,
        ),
    ] = None,
    ckpt: o.Ckpt = None,
    out: o.Out = None,
    size: o.SizeText = None,
    views: Annotated[
        int,
        typer.Option(
            "--views",
            min=1,
            help="Views of each picture: centre crop, its mirror image, random crops.",
            envvar="TAMING_VIEWS",
        ),
    ] = 1,
    cond: Annotated[
        list[str] | None,
        typer.Option(
            "--cond",
            metavar="KIND=FOLDER",
            help="Keep a condition beside the codes: with the folder of its maps, named like the pictures; edges, "
            "lowres and coords also as KIND alone, made of the picture.",
        ),
    ] = None,
    cond_ckpt: Annotated[
        list[Path] | None,
        typer.Option("--cond-ckpt", metavar="FILE", help="Codec of such maps; its file says of which kind."),
    ] = None,
    nul: Annotated[
        bool, typer.Option("-0", "--null", help="Paths on stdin end with NUL, as of `find -print0`.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Make the I-th of N parts, tokens.I-of-N.h5, for `taming tokens merge` to join.",
            envvar="TAMING_SHARD",
        ),
    ] = None,
    batch_size: o.BatchSize = 16,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    workers: o.Workers = 2,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Turn pictures into a token file (by default tokens.h5). The same again goes on where a killed one stopped."""
    from taming_cli.cli.models import codec_path
    from taming_cli.codec import tokenize as verb

    part = o.own_part(shard)
    output = Output(json=json, quiet=quiet)
    path = codec_path(output, ckpt)
    listing = _listing(output, images, nul, path)
    target = out or Path("tokens.h5")
    if part.count > 1:
        target = target.with_name(f"{target.stem}.{part.index}-of-{part.count}{target.suffix}")
    with output.bar("tokenizing", len(part.stretch(len(listing.items)))) as bar:
        finished = verb.tokenize(
            listing.items,
            ckpt=path,
            out=target,
            size=Size.parse(size) if size else None,
            views=views,
            cond=_asked(cond or []),
            cond_ckpts=cond_ckpt or [],
            batch_size=batch_size,
            device=device,
            precision=precision,
            workers=workers,
            shard=part,
            on_item=lambda done, total: bar.update(done, f"{done}/{total} pictures"),
        )
    output.skipped(dict(finished.skipped))
    said = f", part {part} of the work; join them: taming tokens merge" if part.count > 1 else ""
    output.result(
        f"{finished.path}: {finished.count} pictures{said}",
        {"path": str(finished.path), "count": finished.count, "skipped": dict(finished.skipped)},
        short=str(finished.path),
    )
    return o.skipped_code(finished.skipped)


def _asked(given: Sequence[str]) -> dict[str, Path | None]:
    """`KIND=FOLDER`, or KIND alone for what is made of the picture."""
    asked: dict[str, Path | None] = {}
    for text in given:
        kind, equals, folder = text.partition("=")
        if kind in asked:
            raise UsageError(f"condition {kind!r} is asked for twice; once is enough")
        asked[kind] = Path(folder) if equals else None
    return asked


def _listing(output: Output, images: Sequence[str] | None, nul: bool, ckpt: Path) -> "Listing":
    """The pictures named; or those whose paths stdin gives; or, at a terminal, those the codec was trained on."""
    from taming_cli.data.sources import items_from_paths, list_items, read_paths
    from taming_cli.runtime.checkpoint import read_header

    if images and list(images) != ["-"]:
        if "-" in images:
            raise UsageError("- (paths from stdin) cannot be mixed with other inputs")
        return list_items([Path(image) for image in images])
    if images or nul or _stdin_is_given():
        return items_from_paths(read_paths(sys.stdin.buffer, nul=nul))
    recorded = read_header(ckpt).about.get("images")
    if not recorded:
        raise UsageError("name the pictures to tokenize; the codec's file does not say what it was trained on")
    output.note(f"pictures: {', '.join(recorded)} (what the codec was trained on)")
    return list_items([Path(path) for path in recorded])


def _stdin_is_given() -> bool:
    """Whether stdin is a pipe or a file: then its paths are meant."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def reconstruct(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES... OUT", help="Pictures, then the folder to write.")],
    ckpt: o.Ckpt = None,
    out: o.Out = None,
    size: o.SizeText = None,
    batch_size: o.BatchSize = 8,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    workers: o.Workers = 2,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Send pictures (or a codec's condition maps) through it and back, each at its own size; prints the mean PSNR."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.cli.models import codec_path
    from taming_cli.codec import reconstruct as verb
    from taming_cli.codec.locate import content_in
    from taming_cli.data.sources import list_items
    from taming_cli.runtime.checkpoint import read_header

    if out is None:
        if len(images) < 2:
            raise UsageError("name the folder to write: taming reconstruct IMAGES OUT")
        *images, out = images
    path = codec_path(output, ckpt)
    items = list_items(images, extensions=content_in(read_header(path)).extensions).items
    with output.bar("reconstructing", len(items)) as bar:
        written = verb.reconstruct(
            items,
            out,
            ckpt=path,
            size=Size.parse(size) if size else None,
            batch_size=batch_size,
            device=device,
            precision=precision,
            workers=workers,
            on_item=lambda done, total: bar.update(done, f"{done}/{total} pictures"),
        )
    output.skipped(dict(written.skipped))
    mean = f", mean PSNR {written.psnr:.2f} dB" if written.psnr is not None else ""
    if written.accuracy is not None:
        mean = f", {100 * written.accuracy:.1f} % of the pixels with their own label"
    output.result(
        f"{written.folder}: {written.count} pictures{mean}",
        {
            "path": str(written.folder),
            "count": written.count,
            **{name: mean for name in ("psnr", "accuracy") if (mean := getattr(written, name)) is not None},
            "skipped": dict(written.skipped),
        },
        short=str(written.folder),
    )
    return 3 if written.skipped else 0


def decode(
    tokens: Annotated[Path, typer.Argument(metavar="TOKENS", help="Token file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    codec: Annotated[
        Path | None, typer.Option("--codec", metavar="FILE", help="The codec, where the token file does not find it.")
    ] = None,
    batch_size: o.BatchSize = 8,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Turn a token file back into pictures."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.codec import reconstruct as verb

    pictures = 0
    with output.bar("decoding", None) as bar:

        def on_item(done: int, total: int) -> None:
            nonlocal pictures
            pictures = done
            bar.update(done, f"{done}/{total}")

        def on_decode(done: int, total: int) -> None:
            if done < total:
                bar.update(pictures, f"{done}/{total} cells of the next")

        written = verb.decode(
            tokens,
            out,
            codec_path=codec,
            batch_size=batch_size,
            device=device,
            precision=precision,
            on_item=on_item,
            on_decode=on_decode,
        )
    output.result(
        f"{written.folder}: {written.count} pictures",
        {"path": str(written.folder), "count": written.count},
        short=str(written.folder),
    )
    return 0
