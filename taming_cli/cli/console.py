"""What a person or a pipe sees: results on stdout, everything else on stderr."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from taming_cli.errors import DiskError

if TYPE_CHECKING:
    from taming_cli.cli.bar import Bar

HEARD = logging.getLogger("taming_cli")
"""What the rooms say of their choices, which `-v` lets be heard."""


class Output:
    """One command's speech. `json`: one object (or one per line) on stdout; `quiet`: only the path or the number;
    `silent`: nothing at all, as of all but the first of several processes."""

    def __init__(self, *, json: bool, quiet: bool, silent: bool = False) -> None:
        self.json, self.quiet, self.silent = json, quiet or silent, silent
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)

    @property
    def verbose(self) -> bool:
        """Whether `-v` was given."""
        return HEARD.isEnabledFor(logging.INFO)

    @property
    def live(self) -> bool:
        """Whether stderr is a terminal that can show a moving line, and may."""
        return self.errors.is_terminal and not self.errors.is_dumb_terminal and not self.quiet

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
        say(text)

    def bar(self, what: str, total: float | None = None, unit: str | None = None) -> "Bar":
        """Progress: a bar on a terminal, plain lines every few seconds elsewhere, nothing where quiet. What is counted
        in a `unit`, such as pictures, has a rate."""
        from taming_cli.cli.bar import Bar

        return Bar(self, what, total, unit)

    def skipped(self, reasons: Mapping[str, str]) -> None:
        """List inputs that were passed over, each with its reason."""
        if reasons and not self.silent:
            self.warn(f"{len(reasons)} inputs were skipped:")
            for name, reason in reasons.items():
                shown = reason if name in reason else f"{name}: {reason}"
                self.errors.print(f"  {printable(shown)}", markup=False)


def say(line: str) -> None:
    """A line on stdout, at once; DiskError where that is a file on a disk that does not take it."""
    with sent():
        # A file name may hold bytes that are no utf-8: written so, they are JSON's own escapes too.
        sys.stdout.write(line.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")


@contextmanager
def sent() -> Iterator[None]:
    """What is written to stdout meanwhile is sent at its end; raises as `say`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence()
        raise DiskError(f"stdout: the result cannot be written ({error.strerror}); send it to another place") from error


def silence() -> None:
    """Let nothing more be written to stdout, which cannot take it, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def duration(seconds: float) -> str:
    """`75` -> `1:15`; `3700` -> `1:01:40`; `100000` -> `1d 3:46`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def figure(value: float) -> str:
    """Three digits, always: `0.200`, `13.2`, `1024`."""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def printable(text: str) -> str:
    """Undecodable bytes of a file name as escapes, so that any terminal takes it."""
    return text.encode("utf-8", "backslashreplace").decode()
