"""Where a command prints: results on stdout, everything else on stderr."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console

from taming_cli.cli.formatting import printable
from taming_cli.cli.options import CONSOLE, option
from taming_cli.errors import DiskError

if TYPE_CHECKING:
    from taming_cli.cli.progress import Bar

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
            self.errors.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, even if quiet."""
        if not self.silent:
            self.errors.print(f"warning: {text}", markup=False)

    def result(self, line: str, values: Mapping[str, Any], *, short: str | None = None) -> None:
        """Print the result: `values` as one JSON object, or `short` if quiet, or `line`."""
        if self.silent:
            return
        if self.json:
            print_line(json.dumps(values, ensure_ascii=False))
        else:
            print_line(short if self.quiet and short is not None else line)

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


def print_line(line: str) -> None:
    """Print a line on stdout and flush it. DiskError if stdout is a file that cannot be written."""
    with flushed():
        # A file name may hold bytes that are not UTF-8; they are escaped, in a form that is also valid JSON.
        sys.stdout.write(line.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")


@contextmanager
def flushed() -> Iterator[None]:
    """Flush stdout at the end; raises as `print_line`."""
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
