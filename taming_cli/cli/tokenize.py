"""`tokenize`: pictures, from wherever they come, to a token file."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taming_cli.cli import options as o
from taming_cli.cli import stdin
from taming_cli.cli.console import Output
from taming_cli.cli.dry_run import made, would_tokenize
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.data.sources import Listing


@o.reads_pictures
def tokenize(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES|-]",
            help="Folders, files, archives, lists of paths (.txt); - reads paths from stdin, and so does a pipe.",
            show_default=False,
        ),
    ] = None,
    ckpt: o.Ckpt = None,
    out: o.Out = None,
    size: o.SizeText = None,
    views: Annotated[
        int,
        o.number(
            "--views",
            low=1,
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
    nul: o.Nul = False,
    shard: Annotated[
        str | None,
        o.option(
            "--shard",
            metavar="I/N",
            help="Make the I-th of N parts, tokens.I-of-N.h5, for `taming tokens merge` to join.",
            envvar="TAMING_SHARD",
        ),
    ] = None,
    batch_size: o.BatchSize = 16,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    memory: Annotated[
        float | None,
        o.in_gibibytes("Memory for encoding a picture, recorded in the file; 3 by default, on every machine."),
    ] = None,
    workers: o.Workers = 2,
    config: o.Config = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Turn pictures into a token file (by default tokens.h5). The same again goes on where a killed one stopped."""
    from taming_cli.cli.models import codec_path
    from taming_cli.codec import tokenize as verb

    output = Output(json=json, quiet=quiet)
    part = o.own_part(output, shard)
    path = codec_path(output, ckpt)
    listing = _listing(output, images, nul, path)
    target = out or Path("tokens.h5")
    if part.count > 1:
        target = target.with_name(f"{target.stem}.{part.index}-of-{part.count}{target.suffix}")
    asked: dict[str, Any] = {
        "ckpt": path,
        "out": target,
        "size": Size.parse(size) if size else None,
        "views": views,
        "cond": _asked(cond or []),
        "cond_ckpts": cond_ckpt or [],
        "shard": part,
        "memory": memory,
    }
    if dry_run:
        from taming_cli.runtime.device import pick_device, pick_precision

        prepared = verb.prepare(listing.items, **asked, precision=pick_precision(precision, pick_device(device)))
        return would_tokenize(output, listing, part, prepared)
    with output.bar("tokenizing", len(part.stretch(len(listing.items))), "pictures") as bar:
        finished = verb.tokenize(
            listing.items,
            **asked,
            batch_size=batch_size,
            device=device,
            precision=precision,
            workers=workers,
            on_item=lambda done, total: bar.update(done, total=total),
        )
    output.skipped(dict(finished.skipped))
    said = f", {part.spelled()}; join the parts: taming tokens merge" if part.count > 1 else ""
    output.result(
        f"{finished.path}: {finished.count} pictures{said}",
        {"path": str(finished.path), "count": finished.count, **made(part), "skipped": dict(finished.skipped)},
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
    from taming_cli.data.lists import read_paths
    from taming_cli.data.sources import items_from_paths, list_items
    from taming_cli.runtime.checkpoint import read_header

    if stdin.asks(images, nul) or (not images and stdin.is_given()):
        return items_from_paths(read_paths(sys.stdin.buffer, nul=nul))
    if images:
        return list_items([Path(image) for image in images])
    recorded = read_header(ckpt).about.get("images")
    if not recorded:
        raise UsageError("name the pictures to tokenize; the codec's file does not say what it was trained on")
    output.note(f"pictures: {', '.join(recorded)} (what the codec was trained on)")
    return list_items([Path(path) for path in recorded])
