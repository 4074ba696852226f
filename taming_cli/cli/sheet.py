"""Lines for people: on a terminal with words in colour and wrapped under their own beginning, elsewhere plain."""

import re
import textwrap

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

NARROWEST = 24
"""Columns that wrapped text gets at the least: on a terminal narrower than its beginning plus that, it runs over."""


_COMMAND = re.compile("`[^`]*`")
_GLUE = "\0"


class Sheet:
    """Text for stdout, line by line. Colours follow `NO_COLOR` and the kind of the terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._lines: list[Text] = []

    def line(self, *parts: str | tuple[str, str], says: str = "") -> None:
        """A line of `parts`, each text or (text, style), and of what it `says`, which is wrapped under itself. Words
        are not broken, nor what stands in backticks, so that paths and commands can be copied."""
        line = Text.assemble(*parts)
        indent = cell_len(line.plain)
        width = self._console.width - indent - 1
        if self._console.is_terminal and width >= NARROWEST:
            glued = _COMMAND.sub(lambda found: found[0].replace(" ", _GLUE), says)
            wrapped = textwrap.wrap(glued, width, break_long_words=False, break_on_hyphens=False)
            says = ("\n" + " " * indent).join(wrapped).replace(_GLUE, " ")
        self._lines.append(line.append(says))

    def __str__(self) -> str:
        with self._console.capture() as captured:
            for line in self._lines:
                line.rstrip()
                self._console.print(line)
        return captured.get().rstrip("\n")
