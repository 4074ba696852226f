"""`tokenize`: encode pictures to a token file."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taming_cli.cli import options as o
from taming_cli.cli.command import command
from taming_cli.cli.console import Output
from taming_cli.cli.dry_run import would_tokenize
from taming_cli.cli.inputs import codec_path, from_stdin, piped
from taming_cli.cli.processes import own_part, part_text, part_values, skipped_code
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.data.sources import Listing


@command("tokenize", first=("ckpt", "out", "size"), reads_pictures=True, config_file=True)
def tokenize(
    output: Output,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES|-]",
            help="Folders, files, archives, lists of paths (.txt); - reads paths from stdin, and so does a pipe.",
        ),
    ] = None,
    ckpt: o.Ckpt = None,
    out: Annotated[Path | None, o.written_to("Token file to write. Default: tokens.h5.")] = None,
    size: Annotated[
        str | None,
        o.option(
            "--size",
            metavar="WxH",
            help="Size of the pictures in pixels. Default: the codec's training size.",
            panel=None,
            envvar="TAMING_SIZE",
        ),
    ] = None,
    views: Annotated[
        int,
        o.number(
            "--views",
            low=1,
            help="Views of each picture: the centre crop, its mirror image, random crops.",
            envvar="TAMING_VIEWS",
        ),
    ] = 1,
    cond: Annotated[
        list[str] | None,
        typer.Option(
            "--cond",
            metavar="KIND=FOLDER",
            help="Also encode a condition: its kind, and the folder of its maps, named like the pictures. The kinds "
            "edges, lowres and coords need no folder; they are computed from the pictures. lowres:4 is the picture "
            "at a quarter of its size, for super-resolution by 4.",
        ),
    ] = None,
    cond_ckpt: Annotated[
        list[Path] | None,
        typer.Option(
            "--cond-ckpt",
            metavar="FILE",
            help="Codec of condition maps; its file records their kind. A prior's file gives those of its conditions.",
        ),
    ] = None,
    nul: o.Nul = False,
    shard: Annotated[
        str | None,
        o.option(
            "--shard",
            metavar="I/N",
            help="Write the I-th of N parts, tokens.I-of-N.h5, which `taming tokens merge` joins.",
            envvar="TAMING_SHARD",
        ),
    ] = None,
    batch_size: o.BatchSize = 16,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    memory: Annotated[
        float | None,
        o.in_gibibytes("Memory for encoding one picture, recorded in the file. Default: 3, on every machine."),
    ] = None,
    workers: o.Workers = 2,
    dry_run: o.DryRun = False,
) -> int:
    """Encode pictures to a token file. An interrupted run continues when it is started again."""
    from taming_cli.codec import tokenize as verb

    part = own_part(output, shard)
    path = codec_path(output, ckpt)
    listing = _listing(output, images, nul, path)
    target = out or Path("tokens.h5")
    if part.count > 1:
        target = target.with_name(f"{target.stem}.{part.index}-of-{part.count}{target.suffix}")
    request: dict[str, Any] = {
        "ckpt": path,
        "out": target,
        "size": Size.parse(size) if size else None,
        "views": views,
        "cond": _conditions(cond or []),
        "cond_ckpts": cond_ckpt or [],
        "shard": part,
        "memory": memory,
    }
    if dry_run:
        from taming_cli.runtime.device import pick_device, pick_precision

        prepared = verb.prepare(listing.items, **request, precision=pick_precision(precision, pick_device(device)))
        return would_tokenize(output, listing, part, prepared)
    with output.bar("tokenizing", len(part.stretch(len(listing.items))), "pictures") as bar:
        finished = verb.tokenize(
            listing.items,
            **request,
            batch_size=batch_size,
            device=device,
            precision=precision,
            workers=workers,
            on_item=lambda done, total: bar.update(done, total=total),
        )
    output.skipped(dict(finished.skipped))
    join = "; join the parts: taming tokens merge" if part.count > 1 else ""
    output.result(
        f"{finished.path}: {finished.count} pictures{part_text(part)}{join}",
        {"path": str(finished.path), "count": finished.count, **part_values(part), "skipped": dict(finished.skipped)},
        short=str(finished.path),
    )
    return skipped_code(finished.skipped)


def _conditions(given: Sequence[str]) -> dict[str, Path | None]:
    """`KIND=FOLDER`, or KIND alone for a condition computed from the pictures. UsageError for a repeated kind."""
    conditions: dict[str, Path | None] = {}
    for text in given:
        kind, equals, folder = text.partition("=")
        if kind in conditions:
            raise UsageError(f"condition {kind!r} is given twice; give it once")
        conditions[kind] = Path(folder) if equals else None
    return conditions


def _listing(output: Output, images: Sequence[str] | None, nul: bool, ckpt: Path) -> "Listing":
    """The pictures named on the command line, or on stdin, or, at a terminal, those the codec was trained on."""
    from taming_cli.data.lists import read_paths
    from taming_cli.data.sources import items_from_paths, list_items
    from taming_cli.runtime.checkpoint import read_header

    if from_stdin(images, nul) or (not images and piped()):
        return items_from_paths(read_paths(sys.stdin.buffer, nul=nul))
    if images:
        return list_items([Path(image) for image in images])
    recorded = read_header(ckpt).about.get("images")
    if not recorded:
        raise UsageError("name the pictures to tokenize; the codec's file does not record its training pictures")
    output.note(f"pictures: {', '.join(recorded)} (the codec's training pictures)")
    return list_items([Path(path) for path in recorded])
