"""A table with its protocol and the paper's own values, as JSON and as Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A key of the rows, the heading with its unit, and the format of the values."""

    key: str
    heading: str
    form: str = ""

    def text(self, row: Mapping[str, Any]) -> str:
        """The value as Markdown shows it; nothing for a value that was not measured."""
        value = row.get(self.key)
        return "" if value is None else format(value, self.form)


class Published(NamedTuple):
    """Values of the paper: their place and data set, and a table as it is."""

    source: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Section(NamedTuple):
    """A further table below the first one. `name` is its key in the JSON."""

    name: str
    heading: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]


TRAININGS = (
    Column("training", "training"),
    Column("parameters", "parameters", ",d"),
    Column("steps", "optimiser steps", ",d"),
    Column("pictures_seen", "pictures seen", ",d"),
    Column("minutes", "minutes", ".2f"),
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """What was measured. `more` is for the JSON alone. A value may be a dataclass with a `__format__`."""

    title: str
    protocol: Sequence[str]
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    trainings: Sequence[Mapping[str, Any]]
    published: Published | None = None
    sections: Sequence[Section] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All of it, unrounded."""
        return {
            "title": self.title,
            "protocol": list(self.protocol),
            "rows": [dict(row) for row in self.rows],
            **{section.name: [dict(row) for row in section.rows] for section in self.sections},
            "trainings": [dict(row) for row in self.trainings],
            **({} if self.published is None else {"published": self.published._asdict()}),
            **self.more,
        }

    def markdown(self) -> str:
        """Title, tables, trainings, protocol and the paper's values."""
        parts = [f"# {self.title}", _markdown(self.columns, self.rows)]
        for section in self.sections:
            parts += [f"## {section.heading}", _markdown(section.columns, section.rows)]
        parts += ["## Trainings", _markdown(TRAININGS, self.trainings)]
        parts += ["## Protocol", "\n".join(f"- {line}" for line in self.protocol)]
        if self.published is not None:
            parts += ["## The paper", self.published.source, _grid(self.published.headings, self.published.rows)]
        return "\n\n".join(parts) + "\n"

    def write(self, out: Path, name: str) -> None:
        """Write `NAME.json` and `NAME.md`."""
        text = json.dumps(self.to_dict(), indent=2, default=asdict)
        (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        (out / f"{name}.md").write_text(self.markdown(), encoding="utf-8")


def _markdown(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    return _grid([column.heading for column in columns], [[column.text(row) for column in columns] for row in rows])


def _grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
