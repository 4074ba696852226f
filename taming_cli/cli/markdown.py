"""Markdown on a terminal, by rich. Imported only where it is needed: rich's Markdown takes as long to import as all
commands together."""

from typing import ClassVar

from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement, TableElement
from rich.syntax import Syntax
from rich.table import Table
from rich.theme import Theme

WIDEST = 100
"""Largest number of columns of rendered text."""
_STYLES = Theme(
    {
        "markdown.code": "bold cyan",  # without colours, it is still bold
        "markdown.h2": "bold underline",
        "markdown.h3": "bold",
        "markdown.table.border": "dim",
        "markdown.table.header": "bold",
    }
)


def rendered(text: str, width: int | None = None) -> str:
    """Markdown as text for the terminal at stdout, `width` columns wide: by default that of the terminal, at most
    WIDEST."""
    screen = Console(theme=_STYLES, highlight=False, width=width)
    with screen.capture() as captured:
        screen.print(_Page(text, hyperlinks=False), width=min(screen.width, WIDEST))
    return "\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines())


class _Title(Heading):
    """A heading at the left, as in the file."""

    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class _Code(CodeBlock):
    """Code without a background, padding or line breaks of its own, so that it can be copied."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = Syntax("", self.lexer_name, theme="ansi_dark").highlight(str(self.text))
        code.rstrip()
        code.no_wrap, code.overflow = True, "ignore"
        yield code


class _Table(TableElement):
    """A table without blank lines above and below."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            assert isinstance(table, Table)
            table.show_edge = False
            yield table


class _Page(Markdown):
    """A guide."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Title,
        "fence": _Code,
        "table_open": _Table,
    }
