"""Where a command prints: results on stdout, everything else on stderr."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Union

from rich.console import Console

from taming_cli.cli.formatting import printable
from taming_cli.cli.options import CONSOLE, option
from taming_cli.errors import DiskError

if TYPE_CHECKING:
    from taming_cli.cli.progress import Bar
    from taming_cli.cli.styled_text import StyledText

Text = Union[str, list[str], "StyledText"]
"""A line, a list of lines, or lines whose colours are their own. In the first two, nothing can control a terminal."""
LOG = logging.getLogger("taming_cli")
"""The library's log, which `-v` prints."""


class Output:
    """The printer of one command. `json`: one JSON object on stdout, or one per line; `quiet`: only the path or the
    number, and nothing on stderr but warnings and errors."""

    def __init__(
        self,
        *,
        json: Annotated[bool, option("--json", help="Print the result as JSON.", panel=CONSOLE)] = False,
        quiet: Annotated[
            bool, option("-q", "--quiet", help="Print only the resulting path or number.", panel=CONSOLE)
        ] = False,
    ) -> None:
        self.json, self.quiet, self.silent = json, quiet, False
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def mute(self) -> None:
        """Print nothing from now on, as do all but the first of several processes."""
        self.quiet = self.silent = True

    @property
    def verbose(self) -> bool:
        """Whether `-v` was given."""
        return LOG.isEnabledFor(logging.INFO)

    @property
    def live(self) -> bool:
        """Whether a progress bar may be drawn: stderr is a terminal that can redraw a line."""
        return self.errors.is_terminal and not self.errors.is_dumb_terminal and not self.quiet

    def note(self, text: str) -> None:
        """Print a line on stderr, unless quiet."""
        if not self.quiet:
            self.errors.print(printable(text), markup=False)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, even if quiet."""
        if not self.silent:
            self.errors.print(f"warning: {printable(text)}", markup=False)

    def result(self, text: "Text", values: Mapping[str, Any], *, short: "Text | None" = None) -> None:
        """Print the result: `values` as one JSON object, or `short` if quiet, or `text`."""
        if self.silent:
            return
        if self.json:
            print_text(json.dumps(values, ensure_ascii=False))
        else:
            print_text(short if self.quiet and short is not None else text)

    def bar(self, label: str, total: float | None = None, unit: str | None = None) -> "Bar":
        """Progress: a bar on a terminal, plain lines every few seconds elsewhere, nothing if quiet. Items counted in a
        `unit`, such as pictures, have a rate."""
        from taming_cli.cli.progress import Bar

        return Bar(self.errors, self.note, label, total, unit, live=self.live, verbose=self.verbose)

    def skipped(self, reasons: Mapping[str, str]) -> None:
        """List the inputs that were skipped, each with its reason."""
        if reasons and not self.silent:
            self.warn(f"{len(reasons)} inputs were skipped:")
            for name, reason in reasons.items():
                shown = reason if name in reason else f"{name}: {reason}"
                self.errors.print(f"  {printable(shown)}", markup=False)


def print_text(text: "Text") -> None:
    """Print text on stdout and flush it. DiskError if stdout is a file that cannot be written."""
    with flushed():
        if isinstance(text, list):
            sys.stdout.writelines(f"{printable(line)}\n" for line in text)
        else:
            sys.stdout.write(f"{printable(text) if isinstance(text, str) else text}\n")


@contextmanager
def flushed() -> Iterator[None]:
    """Flush stdout at the end; raises as `print_text`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard()
        raise DiskError(f"stdout: cannot write the result ({error.strerror}); redirect it elsewhere") from error


def discard() -> None:
    """Discard all further output on stdout, also at exit, because its reader or its disk is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
