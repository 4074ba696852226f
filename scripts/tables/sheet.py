"""Sheets of pictures with text: columns as one self-contained SVG, rows as a PNG."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from taming_cli.config.size import Size

SHOWN_WIDTH = 160
"""Width of a picture on the page, in SVG units."""
GAP = 8
LINE = 18
"""Height of a line of text."""


class Strip(NamedTuple):
    """A column: PNG files, from top to bottom, and the lines below."""

    pictures: Sequence[Path]
    lines: Sequence[str]


class Row(NamedTuple):
    """Pictures from left to right, and the line of text above them."""

    title: str
    pictures: Sequence[Image.Image]


def png(rows: Sequence[Row], size: Size) -> Image.Image:
    """All rows below each other. The pictures have `size` pixels."""
    columns = max(len(row.pictures) for row in rows)
    height = LINE + size.height + GAP
    font = ImageFont.load_default(13)
    widest = max(int(font.getlength(row.title)) for row in rows)
    width = GAP + max(columns * (size.width + GAP), widest + GAP)
    paper = Image.new("RGB", (width, GAP + len(rows) * height), "white")
    draw = ImageDraw.Draw(paper)
    for number, row in enumerate(rows):
        top = GAP + number * height
        draw.text((GAP, top), row.title, "black", font)
        for column, picture in enumerate(row.pictures):
            paper.paste(picture, (GAP + column * (size.width + GAP), top + LINE))
    return paper


def svg(strips: Sequence[Strip], size: Size) -> str:
    """All columns side by side. The pictures, of `size` pixels, are embedded, and enlarged without smoothing."""
    height = round(SHOWN_WIDTH * size.height / size.width)
    rows = max(len(strip.pictures) for strip in strips)
    lines = max(len(strip.lines) for strip in strips)
    below = GAP + rows * (height + GAP)
    width, total = GAP + len(strips) * (SHOWN_WIDTH + GAP), below + lines * LINE + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{total}" fill="white"/>',
    ]
    for column, strip in enumerate(strips):
        left = GAP + column * (SHOWN_WIDTH + GAP)
        for row, path in enumerate(strip.pictures):
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            parts.append(
                f'<image x="{left}" y="{GAP + row * (height + GAP)}" width="{SHOWN_WIDTH}" height="{height}" '
                f'style="image-rendering: pixelated" href="data:image/png;base64,{data}"/>'
            )
        parts += [
            f'<text x="{left}" y="{below + (number + 1) * LINE - 4}">{escape(line)}</text>'
            for number, line in enumerate(strip.lines)
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
