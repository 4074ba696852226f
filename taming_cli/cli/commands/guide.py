"""`guide`: the user's guides, which the package contains as Markdown."""

import re
import sys
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated

import typer

from taming_cli.cli.command import command
from taming_cli.cli.console import Output, flushed
from taming_cli.config.fields import one_of
from taming_cli.errors import UsageError

NAMES = (
    "own-pictures",
    "conditions",
    "any-size",
    "comparisons",
    "evaluation",
    "several-gpus",
    "published-models",
    "settings",
    "security",
    "troubleshooting",
)
"""The guides, in the order to read them."""
_LINK = re.compile(r"\[[^]]+\]\(([a-z-]+)\.md\)")
"""To another guide: on a terminal it becomes the command that prints that."""


@command("guide")
def guide(
    output: Output,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="|".join(NAMES))] = None,
) -> int:
    """List the guides, or print one. With -q: only the names, or the path of the file."""
    if name is None:
        purposes = {each: purpose(each) for each in NAMES}
        widest = max(map(len, NAMES))
        lines = [f"{each:<{widest}}  {purposes[each]}" for each in NAMES]
        output.result(lines, purposes, short=list(NAMES))
        output.note("`taming guide NAME` prints one")
        return 0
    if name not in NAMES:
        raise UsageError(f"no guide is called {name!r}; {one_of(NAMES, name)}")
    text = _file(name).read_text(encoding="utf-8").rstrip()
    if sys.stdout.isatty() and not (output.json or output.quiet):
        from taming_cli.cli.markdown import rendered

        with flushed():
            sys.stdout.write(rendered(_LINK.sub(r"`taming guide \1`", text)) + "\n")
    else:
        output.result(text.split("\n"), {"name": name, "purpose": purpose(name), "text": text}, short=str(_file(name)))
    return 0


def purpose(name: str) -> str:
    """The first sentence of a guide, which states its purpose."""
    return _file(name).read_text(encoding="utf-8").split("\n\n", maxsplit=2)[1]


def _file(name: str) -> Traversable:
    return resources.files("taming_cli") / "guides" / f"{name}.md"
