"""What a trial of a drill ended with, and the table of all of them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol


class Outcome(NamedTuple):
    """One trial: its row, what was done, and what was lost (empty: nothing), or why it was not tried."""

    row: str
    trial: str
    loss: str = ""
    skipped: str = ""


class Drill(Protocol):
    """A module of this folder."""

    TIMES: int
    """Trials of each row that the promise names."""

    QUICK: int
    """Trials of each row in the short selection."""

    def run(self, times: int, seed: int, folder: Path) -> Iterator[Outcome]:
        """Up to `times` trials of each row, the same for the same seed, in an empty folder that is removed after it."""


class Row(NamedTuple):
    """A line of the table."""

    drill: str
    row: str
    tried: int
    lost: int
    skipped: int


def rows(drill: str, outcomes: Iterable[Outcome]) -> list[Row]:
    """The lines of one drill, in the order of their first trials."""
    counted: dict[str, list[int]] = {}
    for outcome in outcomes:
        counts = counted.setdefault(outcome.row, [0, 0, 0])
        counts[0] += not outcome.skipped
        counts[1] += bool(outcome.loss)
        counts[2] += bool(outcome.skipped)
    return [Row(drill, row, *counts) for row, counts in counted.items()]


def markdown(lines: Iterable[Row]) -> str:
    """The table."""
    head = "| drill | what | trials | lost | not tried |\n|---|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
