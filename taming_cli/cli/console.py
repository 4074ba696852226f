"""What a person or a pipe sees: results on stdout, everything else on stderr."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 5.0
"""Seconds between two progress lines where stderr is no terminal."""


class Output:
    """One command's speech. `json`: one object (or one per line) on stdout; `quiet`: only the path or the number;
    `silent`: nothing at all, as of all but the first of several processes."""

    def __init__(self, *, json: bool, quiet: bool, silent: bool = False) -> None:
        self.json, self.quiet, self.silent = json, quiet or silent, silent
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """One line on stderr, unless quiet."""
        if not self.quiet:
            self.errors.print(text, markup=False)

    def warn(self, text: str) -> None:
        """One line on stderr, also where quiet."""
        if self.silent:
            return
        self.errors.print(f"warning: {text}", markup=False)

    def result(self, line: str, values: Mapping[str, Any], *, short: str | None = None) -> None:
        """The result: `values` as one JSON object, or `short` where quiet, or `line` for people."""
        if self.silent:
            return
        if self.json:
            text = json.dumps(values, ensure_ascii=False)
        else:
            text = short if self.quiet and short is not None else line
        # A file name may hold bytes that are no utf-8: written so, they are JSON's own escapes too.
        sys.stdout.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")
        sys.stdout.flush()

    def bar(self, what: str, total: float | None) -> "Bar":
        """A progress bar on a terminal, plain lines every few seconds elsewhere, nothing where quiet."""
        return Bar(self, what, total)

    def skipped(self, reasons: Mapping[str, str]) -> None:
        """List inputs that were passed over, each with its reason."""
        if reasons and not self.silent:
            self.warn(f"{len(reasons)} inputs were skipped:")
            for name, reason in reasons.items():
                shown = reason if name in reason else f"{name}: {reason}"
                self.errors.print(f"  {printable(shown)}", markup=False)


class Bar:
    """A context manager: `update(done, text)` with `done` out of `total`."""

    def __init__(self, output: Output, what: str, total: float | None) -> None:
        self.output, self.what, self.total = output, what, total
        self.live: Progress | None = None
        if output.errors.is_terminal and not output.quiet:
            self.live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=output.errors,
                transient=True,
            )
        self.began = self.spoke = time.monotonic()

    def __enter__(self) -> "Bar":
        if self.live is not None:
            self.live.start()
            self.task = self.live.add_task(self.what, total=self.total, text="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, done: float, text: str = "") -> None:
        """Show that `done` of the total is done."""
        now = time.monotonic()
        if self.live is not None:
            self.live.update(self.task, completed=done, total=self.total, text=text)
        elif now - self.spoke >= PLAIN_SECONDS:
            self.spoke = now
            left = ""
            if self.total and done:
                left = f", {duration((now - self.began) * (self.total / done - 1))} left"
            share = f"{100 * done / self.total:.0f}% " if self.total else ""
            self.output.note(f"{self.what}: {share}{text}{left}")

    def line(self, text: str) -> None:
        """A line above the bar."""
        self.output.note(text)


def duration(seconds: float) -> str:
    """`75` -> `1:15`; `3700` -> `1:01:40`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def figures(values: Mapping[str, float]) -> str:
    """`{"l1": 0.1234, "psnr": 19.5}` -> `l1 0.1234  psnr 19.50`."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def printable(text: str) -> str:
    """Undecodable bytes of a file name as escapes, so that any terminal takes it."""
    return text.encode("utf-8", "backslashreplace").decode()
