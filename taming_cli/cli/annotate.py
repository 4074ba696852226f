"""`annotate`: the condition maps of pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from taming_cli.cli import options as o
from taming_cli.cli.console import Output
from taming_cli.cli.dry_run import made
from taming_cli.config.annotate import AnnotateConfig, DepthConfig, EdgesConfig, PoseConfig, SegmentationConfig
from taming_cli.errors import UsageError

Places = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGES... OUT", help="Folders, pictures, archives or lists (.txt), then the folder to write."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Make the condition maps of pictures, each at its picture's size and relative path, as PNG. The same "
        "again goes on where it stopped.",
        rich_markup_mode="rich",
    )
    group.command("segmentation")(segmentation)
    group.command("depth")(depth)
    group.command("pose")(pose)
    group.command("edges")(edges)
    app.add_typer(group, name="annotate", rich_help_panel="Use")


@o.reads_pictures
@o.with_flags(Network=SegmentationConfig)
def segmentation(
    images: Places,
    out: o.Out = None,
    shard: o.ShardText = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
    device: o.Device = "auto",
    workers: o.Workers = 2,
    config: o.Config = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
    *,
    flags: dict[str, Any],
) -> int:
    """Label maps by a network of torchvision (by default DeepLabV3, 21 labels), with labels.txt beside them."""
    (chosen,) = o.settle((SegmentationConfig,), flags, command="annotate", config_file=config).configs
    network = {"weights": weights, "offline": offline, "device": device}
    return _annotate(Output(json=json, quiet=quiet), images, out, chosen, shard, workers, dry_run, network)


@o.reads_pictures
@o.with_flags(Network=DepthConfig)
def depth(
    images: Places,
    out: o.Out = None,
    shard: o.ShardText = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
    device: o.Device = "auto",
    workers: o.Workers = 2,
    config: o.Config = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
    *,
    flags: dict[str, Any],
) -> int:
    """Depth by a model of transformers (pip install 'taming\\[annotate]'), 16-bit grey, each map by its own range."""
    (chosen,) = o.settle((DepthConfig,), flags, command="annotate", config_file=config).configs
    network = {"weights": weights, "offline": offline, "device": device}
    return _annotate(Output(json=json, quiet=quiet), images, out, chosen, shard, workers, dry_run, network)


@o.reads_pictures
@o.with_flags(Drawn=PoseConfig)
def pose(
    images: Places,
    out: o.Out = None,
    shard: o.ShardText = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
    device: o.Device = "auto",
    workers: o.Workers = 2,
    config: o.Config = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
    *,
    flags: dict[str, Any],
) -> int:
    """Skeletons of the people in them, by torchvision's keypoint R-CNN, on black."""
    (chosen,) = o.settle((PoseConfig,), flags, command="annotate", config_file=config).configs
    network = {"weights": weights, "offline": offline, "device": device}
    return _annotate(Output(json=json, quiet=quiet), images, out, chosen, shard, workers, dry_run, network)


@o.reads_pictures
def edges(
    images: Places,
    out: o.Out = None,
    shard: o.ShardText = None,
    workers: o.Workers = 2,
    config: o.Config = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """White edges on black by Canny's method, as `tokenize --cond edges` makes them; needs no network."""
    return _annotate(Output(json=json, quiet=quiet), images, out, EdgesConfig(), shard, workers, dry_run, {})


def _annotate(
    output: Output,
    images: list[Path],
    out: Path | None,
    config: AnnotateConfig,
    shard: str | None,
    workers: int,
    dry_run: bool,
    network: Mapping[str, Any],
) -> int:
    if out is None:
        if len(images) < 2:
            raise UsageError(f"name the folder to write: taming annotate {config.kind} IMAGES OUT")
        *images, out = images
    part = o.own_part(output, shard)
    from taming_cli.annotate import LABELS, annotate

    with output.bar("annotating", unit="pictures") as bar:
        annotated = annotate(
            images,
            out,
            config,
            shard=part,
            workers=workers,
            dry_run=dry_run,
            on_item=lambda done, total: bar.update(done, total=total),
            on_bytes=bar.fetching,
            **network,
        )
    if dry_run:
        output.result(
            f"{annotated.folder}: {annotated.made} maps would be made; {annotated.present} files are there",
            {"path": str(out), "kind": annotated.kind, "would_make": annotated.made, "there": annotated.present},
            short=str(annotated.made),
        )
        return 0
    output.skipped(dict(annotated.skipped))
    there = f" ({annotated.present} were there)" if annotated.present else ""
    said = f"; {part.spelled()}" if part.count > 1 else ""
    labels = f"; {len(annotated.labels)} labels, named in {out / LABELS}" if annotated.labels else ""
    output.result(
        f"{annotated.folder}: {annotated.count} maps{there}{labels}{said}",
        {
            "path": str(annotated.folder),
            "kind": annotated.kind,
            "count": annotated.count,
            "made": annotated.made,
            **made(part),
            **({"labels": list(annotated.labels)} if annotated.labels else {}),
            "skipped": dict(annotated.skipped),
        },
        short=str(annotated.folder),
    )
    return o.skipped_code(annotated.skipped)
