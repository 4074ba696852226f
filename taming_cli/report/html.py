"""One self-contained web page, put together of elements that escape what they are given.

Nothing is fetched and nothing runs: a content policy in the page itself forbids both.
"""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from taming_cli.report.style import STYLE

ABOUT = "taming-report"
"""The name of the element in which a page says what it shows."""
HEAD = 65536
"""Characters at a page's beginning, among which that element is."""


class Html(str):
    """Finished HTML. Every other string is text, and `el` escapes it."""

    __slots__ = ()


def el(name: str, /, *children: str | None, **attributes: str | int | None) -> Html:
    """The element `name`: children in order, None left out; `class_` and `stroke_width` write class, stroke-width."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("img", "meta"):
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def image(png: bytes, alt: str, *, width: int, height: int) -> Html:
    """A PNG file's bytes, held in the page itself."""
    text = base64.b64encode(png).decode("ascii")
    return el("img", src=f"data:image/png;base64,{text}", alt=alt, width=width, height=height)


def join(parts: Iterable[str | None]) -> Html:
    """Parts one after the other; those that are text are escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts if part is not None))


def section(title: str, *children: str | None) -> Html | None:
    """A headed part of the page, or None where there is nothing to put into it."""
    body = join(children)
    return el("section", el("h2", title), body) if body else None


def table(
    head: Sequence[str | None], rows: Iterable[Sequence[str | None]], *, class_: str | None = None
) -> Html | None:
    """A table whose first column names its rows; None without rows."""
    lines = [el("tr", el("th", row[0], scope="row"), *(el("td", cell) for cell in row[1:])) for row in rows]
    if not lines:
        return None
    heads = el("thead", el("tr", *(el("th", cell, scope="col") for cell in head)))
    return el("div", el("table", heads, el("tbody", *lines), class_=class_), class_="scroll")


def definitions(pairs: Iterable[tuple[str, str | None]]) -> Html | None:
    """Names and what they stand for, without those that stand for nothing; None where none is left."""
    items = [el("div", el("dt", name), el("dd", value)) for name, value in pairs if value]
    return el("dl", *items) if items else None


def page(title: str, *children: str | None, about: Mapping[str, Any] | None = None) -> bytes:
    """The whole document in UTF-8; what has no UTF-8 (a file name's stray bytes) becomes a question mark.

    `about` is plain data that says what the page shows; `about_of` finds it again.
    """
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        el("meta", name=ABOUT, content=json.dumps(about)) if about is not None else None,
        el("title", title),
        el("style", Html(STYLE)),
    )
    document = el("html", head, el("body", el("main", *children)), lang="en")
    return f"<!doctype html>\n{document}\n".encode("utf-8", "replace")


def about_of(path: Path) -> Any:
    """What `page` was told of the page in a file; None for any other file."""
    reader = _About()
    try:
        with path.open(encoding="utf-8") as stream:
            reader.feed(stream.read(HEAD))
        return json.loads(reader.said)
    except (OSError, ValueError):
        return None


class _About(HTMLParser):
    said = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "meta" and found.get("name") == ABOUT:
            self.said = found.get("content") or ""
