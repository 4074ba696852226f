"""`report`: what a run has learned so far, or several beside one another, as one page to look at."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from taming_cli.cli import options as o
from taming_cli.cli.console import Output


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", rich_help_panel="Look")(report)


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="Run folders, such as runs/train-vqgan/001, or folders of runs.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="The page; by default report.html, of one run in its folder, of several here.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        Literal["step", "images", "time"] | None,
        typer.Option(
            "--by",
            help="What the charts of several runs count along; by default steps, or images where batches differ.",
            show_default=False,
        ),
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Write one page: of a run anew, or of several runs beside one another."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.report import comparison

    made = comparison.report(runs, out=out, by=by)
    output.skipped(made.skipped)
    for record in made.runs:
        for note in record.notes:
            output.warn(note)
    groups = comparison.grouped(made.runs)
    shown = ", ".join(comparison.title(group, counted=True) for group in groups)
    output.result(f"{made.path}: {shown}", made.to_dict(), short=str(made.path))
    return 3 if made.skipped else 0
