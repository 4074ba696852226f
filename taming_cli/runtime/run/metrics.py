"""`metrics.jsonl` of a run: one JSON object per line, with `kind` ("train" or "validation"), `step`, `images`,
`seconds`, and figures by name."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from taming_cli.config import former
from taming_cli.config.parsing import parse_json
from taming_cli.data.disk import appending, write_atomically

METRICS = "metrics.jsonl"
"""The file's name in a run folder."""
_NUMBERS = {"step": None, "images": 0, "seconds": 0}
"""What has to be a number, and what stands for one that is missing."""
_POSITION = ("kind", "step", "images", "seconds")


class Log(NamedTuple):
    """The lines of a log in order, and how many others are damaged. A last line cut short by a kill is not counted."""

    lines: list[dict[str, Any]]
    damaged: int


def append_metrics(path: Path, line: Mapping[str, Any]) -> None:
    """Append one line. DiskError if the disk is full; the file is then unchanged."""
    with appending(path), path.open("a") as stream:
        stream.write(_text(line))


def write_metrics(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace the whole log, atomically. DiskError if the disk is full."""
    text = "".join(map(_text, lines))
    write_atomically(path, lambda temporary: temporary.write_text(text))


def read_metrics(path: Path) -> Log:
    """Read the log; it is empty if there is no file. A line counts if it is a JSON object with a numeric step, and
    numeric images and seconds where it has them."""
    lines, damaged = [], 0
    texts = path.read_text(errors="replace").splitlines() if path.is_file() else []
    for number, text in enumerate(texts, start=1):
        try:
            line = parse_json(text)
        except ValueError:
            damaged += number < len(texts)
            continue
        if isinstance(line, dict) and all(is_number(line.get(name, default)) for name, default in _NUMBERS.items()):
            lines.append(former.renamed(line, former.METRICS))
        else:
            damaged += 1
    return Log(lines, damaged)


def figures_in(line: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a line that are finite numbers."""
    return {name: value for name, value in line.items() if name not in _POSITION and is_number(value)}


def is_number(value: object) -> bool:
    """Whether `value` is a finite number, not larger than a float can be."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line) + "\n"
