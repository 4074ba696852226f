"""`demo-data`: draw a small data set."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from taming_cli.cli import options as o
from taming_cli.cli.command import command
from taming_cli.cli.console import Output
from taming_cli.config.size import Size


@command("demo-data")
def demo_data(
    output: Output,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    count: Annotated[int, o.number("-n", "--count", low=1, help="Number of scenes.")] = 200,
    size: Annotated[
        str, o.option("--size", metavar="WxH", help="Size of the pictures in pixels.", panel=None)
    ] = "256x256",
    seed: Annotated[int, o.number("--seed", low=0, help="Seed of the scenes.")] = 0,
    kind: Annotated[Literal["landscape", "figure"] | None, typer.Option("--kind", help="Draw only this kind.")] = None,
    workers: Annotated[
        int | None,
        o.number(
            "--workers",
            low=0,
            help="Processes that draw. Default: depends on the number of scenes.",
            envvar="TAMING_WORKERS",
        ),
    ] = None,
) -> int:
    """Draw a small data set of landscapes and figures, with segmentation, depth and pose maps and classes."""
    from taming_cli.scenes.folder import workers_for, write

    with output.bar("drawing", count, "scenes") as bar:
        folder = write(
            out,
            count=count,
            size=Size.parse(size),
            seed=seed,
            kind=kind,
            workers=workers_for(count) if workers is None else workers,
            on_item=lambda done, total: bar.update(done, total=total),
        )
    output.result(
        f"{folder}: {count} scenes; pictures in {folder / 'images'}",
        {"path": str(folder), "images": str(folder / "images"), "count": count},
        short=str(folder / "images"),
    )
    return 0
