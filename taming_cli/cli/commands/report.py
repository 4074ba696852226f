"""`report`: one page about a run, or about several runs side by side."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from taming_cli.cli.command import command
from taming_cli.cli.console import Output


@command("report")
def report(
    output: Output,
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Run folders, such as runs/train-vqgan/001, or folders of runs."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="The page to write. Default: report.html in the run folder; for several runs, in the current folder.",
        ),
    ] = None,
    by: Annotated[
        Literal["step", "images", "time"] | None,
        typer.Option(
            "--by",
            help="Horizontal axis of the charts of several runs. Default: step, or images if batch sizes differ.",
        ),
    ] = None,
) -> int:
    """Write the report of a run, or a comparison of several runs, as one HTML page."""
    from taming_cli.report import comparison

    written = comparison.report(runs, out=out, by=by)
    output.skipped(written.skipped)
    for record in written.runs:
        for note in record.notes:
            output.warn(note)
    groups = comparison.grouped(written.runs)
    titles = ", ".join(comparison.title(group, counted=True) for group in groups)
    output.result(f"{written.path}: {titles}", written.to_dict(), short=str(written.path))
    return 3 if written.skipped else 0
