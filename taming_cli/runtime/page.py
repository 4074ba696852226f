"""One self-contained web page: elements that escape what they are given, and the style they share.

Nothing is fetched and nothing runs: a content policy in the page itself forbids both.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path


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


def image(path: Path, alt: str, *, width: int, height: int) -> Html:
    """A PNG file, held in the page itself."""
    text = base64.b64encode(path.read_bytes()).decode("ascii")
    return el("img", src=f"data:image/png;base64,{text}", alt=alt, width=width, height=height)


def join(parts: Iterable[str | None]) -> Html:
    """Parts one after the other; those that are text are escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts if part is not None))


def section(title: str, *children: str | None) -> Html | None:
    """A headed part of the page, or None where there is nothing to put into it."""
    body = join(children)
    return el("section", el("h2", title), body) if body else None


def table(head: Sequence[str], rows: Iterable[Sequence[str | None]], *, class_: str | None = None) -> Html | None:
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


def page(title: str, *children: str | None) -> bytes:
    """The whole document in UTF-8; what has no UTF-8 (a file name's stray bytes) becomes a question mark."""
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
        el("title", title),
        el("style", Html(STYLE)),
    )
    document = el("html", head, el("body", el("main", *children)), lang="en")
    return f"<!doctype html>\n{document}\n".encode("utf-8", "replace")


STYLE = """
:root {
  --paper: #fcfbf9; --ink: #1d1d1f; --soft: #6a6965; --line: #e4e1db; --panel: #f4f2ee;
  --hue0: #12668f; --hue1: #b2500b; --faint: .42;
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, "URW Palladio L", Georgia, serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #161719; --ink: #e9e7e3; --soft: #9d9b96; --line: #313236; --panel: #1f2023;
    --hue0: #79c1e6; --hue1: #f0a465; --faint: .5;
  }
}
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1120px; margin: 0 auto; padding: clamp(2rem, 6vw, 5rem) clamp(1.1rem, 4vw, 2.5rem) 6rem; }
h1, h2 { font-family: var(--serif); font-weight: 500; line-height: 1.15; text-wrap: balance; }
h1 { font-size: clamp(2.1rem, 6vw, 3.2rem); margin: .1em 0 .25em; overflow-wrap: anywhere; }
h2 { font-size: 1.6rem; margin: 0 0 1.2rem; }
h3 { font-size: .8rem; font-weight: 600; letter-spacing: .07em; text-transform: uppercase; color: var(--soft);
  margin: 2.2rem 0 .9rem; }
p { max-width: 44rem; margin: 0 0 1rem; }
section { margin-top: clamp(3rem, 7vw, 5rem); }
.soft, figcaption, .eyebrow { color: var(--soft); }
.eyebrow { font-family: var(--mono); font-size: .85rem; margin: 0; }
.notice { border-left: 3px solid var(--hue1); padding-left: .9rem; overflow-wrap: anywhere; }
code, pre, .path { font-family: var(--mono); font-size: .85rem; overflow-wrap: anywhere; }
pre { background: var(--panel); border-radius: 6px; padding: .8rem 1rem; margin: .3rem 0 1.4rem;
  white-space: pre-wrap; user-select: all; }

.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: 1.6rem 2rem;
  margin-top: 2.6rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
.headline b { display: block; font: 500 2.3rem/1.1 var(--serif); font-variant-numeric: lining-nums tabular-nums; }
.headline b small { font: 400 .95rem system-ui, sans-serif; color: var(--soft); }
.headline span { color: var(--soft); font-size: .9rem; }

figure { margin: 0; }
.sheet img { display: block; max-width: 100%; height: auto; border-radius: 3px; }
.sheet figcaption, .past figcaption { font-size: .9rem; margin-top: .6rem; }
.scroll { overflow-x: auto; }
.pixels img { image-rendering: pixelated; }
.wide .sheet img { width: 100%; }
.strip { display: flex; gap: 1.2rem; overflow-x: auto; padding-bottom: .6rem; }
.strip .past { flex: 1 0 9rem; max-width: 17rem; }
.past img { display: block; width: 100%; height: auto; border-radius: 2px; }
.past .band { overflow: hidden; border-radius: 3px; }
.band img { height: 100%; object-fit: cover; object-position: bottom; }
.bands .past { margin-bottom: 1.1rem; }
.bands figcaption, .sheet figcaption, .wide h3 { position: sticky; left: 0; width: fit-content; max-width: 86vw; }
@media (max-width: 640px) { .scroll > .wide { width: 42rem; } }

.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 2.4rem 1.8rem; }
.chart.wide { grid-column: 1 / -1; }
.chart figcaption { display: flex; flex-wrap: wrap; gap: 0 1rem; align-items: baseline; font-size: .8rem; }
.chart figcaption strong { flex: 1 0 100%; color: var(--ink); font-size: .98rem; font-weight: 600; }
.key::before { content: ""; display: inline-block; width: 1.1em; margin-right: .4em; vertical-align: .25em;
  border-top: 2.2px solid currentColor; }
.key.faint::before { border-top-width: 1.5px; }
.plot { position: relative; height: 170px; margin: 1.8rem 3.6rem 1.7rem 3.1rem; font-size: .75rem; line-height: 1; }
.wide .plot { height: 250px; }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.plot path { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; stroke-linecap: round; }
.plot .grid { stroke: var(--line); stroke-width: 1; }
.plot span { position: absolute; white-space: nowrap; color: var(--soft); }
.plot .y { right: calc(100% + .6rem); transform: translateY(50%); }
.plot .x { top: calc(100% + .6rem); transform: translateX(-50%); }
.plot .last { left: calc(100% + .45rem); transform: translateY(50%); }
.plot .unit { left: -3.1rem; bottom: calc(100% + .7rem); }
.plot .steps { left: calc(100% + .45rem); top: calc(100% + .6rem); }
.hue0 { stroke: var(--hue0); } .hue1 { stroke: var(--hue1); }
span.hue0, .plot span.hue0 { color: var(--hue0); } span.hue1, .plot span.hue1 { color: var(--hue1); }
.strong { stroke-width: 2.2px; } .dot { stroke-width: 6px; }
.plot span.strong { font-weight: 650; }
.faint { stroke-width: 1.3px; opacity: var(--faint); }
.plot span.faint, .key.faint { opacity: .75; }

table { border-collapse: collapse; width: 100%; font-size: .94rem; }
th, td { text-align: left; vertical-align: baseline; padding: .5rem 1.4rem .5rem 0;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 500; font-size: .85rem; }
tbody th { font-weight: 500; }
table.figures td:not(:last-child), table.figures thead th:not(:first-child):not(:last-child) { text-align: right; }
table.figures td:last-child { color: var(--soft); }
table.settings tbody th, table.settings td { font-family: var(--mono); font-size: .84rem; overflow-wrap: anywhere; }
table.settings td:nth-child(n+3) { color: var(--soft); }
details { margin-top: 1.4rem; }
summary { cursor: pointer; color: var(--soft); margin-bottom: .8rem; }
dl { margin: 0; }
dl div { display: grid; grid-template-columns: 11rem 1fr; gap: 0 1.4rem; padding: .45rem 0;
  border-bottom: 1px solid var(--line); }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
@media (max-width: 640px) { dl div { grid-template-columns: 1fr; } th, td { padding-right: .9rem; } }
@media print { pre, .chart, .past { break-inside: avoid; } }
"""
