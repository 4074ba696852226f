"""Renders the templates in `templates/` to one self-contained page: no part of it is fetched, and nothing in it runs.

All text is escaped. A content policy in the page forbids scripts and requests.
"""

import base64
import html
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from taming_cli.config.parsing import parse_json
from taming_cli.data.disk import write_atomically
from taming_cli.report import facts
from taming_cli.report.charts import number, numbered_line, tick_label

PAGE = "report.html"
ABOUT = "taming-report"
"""Name of the meta element that records which runs a page shows."""
HEAD = 65536
"""Characters at the beginning of a page that contain this element."""


def render(template: str, *, about: Mapping[str, Any] | None = None, **values: Any) -> bytes:
    """The page in UTF-8. Undecodable bytes of file names become question marks. `about` is plain data, which `about_of`
    reads back from the page."""
    text = templates().get_template(template).render(values, about=about, about_name=ABOUT)
    return text.encode("utf-8", "replace")


@cache
def templates() -> Environment:
    """The environment in which templates are rendered."""
    environment = Environment(
        loader=PackageLoader("taming_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    environment.filters |= {
        "base64": lambda png: base64.b64encode(png).decode("ascii"),
        "commas": "{:,}".format,
        "count": lambda value: f"{value:,.0f}" if value == round(value) else number(value),
        "time": "{:%Y-%m-%d %H:%M %Z}".format,
        "duration": facts.duration,
        "command_line": facts.command_line,
        "number": number,
        "tick": tick_label,
    }
    environment.globals |= {"facts": facts, "numbered_line": numbered_line}
    return environment


def write_page(path: Path, content: bytes) -> None:
    """Write a page atomically. DiskError if it cannot be written."""
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def about_of(path: Path) -> Any:
    """The `about` of a page that `render` made; None for any other file."""
    try:
        with path.open(encoding="utf-8") as stream:
            meta = re.search(rf"""<meta name="{ABOUT}" content=(["'])(.*?)\1>""", stream.read(HEAD))
        return parse_json(html.unescape(meta[2])) if meta else None
    except (OSError, ValueError):
        return None
