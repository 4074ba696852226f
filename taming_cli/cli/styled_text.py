"""Text for stdout: on a terminal in colour, and wrapped with a hanging indent; elsewhere plain."""

import re
import textwrap

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from taming_cli.cli.formatting import printable

NARROWEST = 24
"""Smallest number of columns for wrapped text. If a terminal has fewer after the beginning of a line, nothing is
wrapped."""
_COMMAND = re.compile("`[^`]*`")
_GLUE = "\0"


class StyledText:
    """Collects lines; `str` renders them. Colours follow `NO_COLOR` and the type of the terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._lines: list[Text] = []

    def line(self, *parts: str | tuple[str, str], wrapped: str = "") -> None:
        """Add a line of `parts`, each text or (text, style), then the text `wrapped` with a hanging indent. Words and
        text in backticks are never broken, so that paths and commands can be copied."""
        line = Text.assemble(*(_printable(part) for part in parts))
        wrapped = printable(wrapped)
        indent = cell_len(line.plain)
        width = self._console.width - indent - 1
        if self._console.is_terminal and width >= NARROWEST:
            glued = _COMMAND.sub(lambda match: match[0].replace(" ", _GLUE), wrapped)
            lines = textwrap.wrap(glued, width, break_long_words=False, break_on_hyphens=False)
            wrapped = ("\n" + " " * indent).join(lines).replace(_GLUE, " ")
        self._lines.append(line.append(wrapped))

    def __str__(self) -> str:
        with self._console.capture() as captured:
            for line in self._lines:
                line.rstrip()
                self._console.print(line)
        return captured.get().rstrip("\n")


def _printable(part: str | tuple[str, str]) -> str | tuple[str, str]:
    return printable(part) if isinstance(part, str) else (printable(part[0]), part[1])
