"""The pictures of a report: reconstructions or samples of one run over time, or the newest ones of several runs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taming_cli.report.record import RunRecord
from taming_cli.runtime.run.sheets import Picture, PngFile, halves, layout_of, pictures_on

EARLIER = 5
"""Largest number of sheets shown besides the newest one."""
EARLIER_BYTES = 3 * 2**20
"""Largest size of these sheets together."""
SIDE_BY_SIDE_BYTES = 24 * 2**20
"""Largest size of the sheets of several runs on one page."""


class Card(NamedTuple):
    """A sample, the name of its class, and the maps that it follows."""

    picture: Picture
    label: str
    maps: tuple[Picture, ...]


class SampleCards(NamedTuple):
    """The newest sheet of a run; as `cards` in `columns` columns, if classes or maps of the samples are known."""

    sheet: PngFile
    cards: Sequence[Card] = ()
    columns: int = 4


class SideBySide(NamedTuple):
    """The newest pictures of several runs, by index of the run.

    `rebuilt` pairs each different row of originals with the reconstructions of the runs that have it. `aligned` says
    whether all samples have the same classes and maps. `left_out` are runs whose pictures the page has no room for.
    """

    rebuilt: Sequence[tuple[Picture, Mapping[int, Picture]]]
    samples: Mapping[int, SampleCards]
    aligned: bool
    left_out: Sequence[int]


def samples_of(record: RunRecord) -> SampleCards:
    """The newest samples of a run that has a sheet."""
    sheet = record.sheets[-1]
    layout = layout_of(sheet)
    if layout is None:
        return SampleCards(sheet)
    maps = [pictures for condition in record.conditions.values() if (pictures := _maps(condition, layout.count))]
    labels = layout.labels or ("",) * layout.count
    pictures = pictures_on(sheet, layout) if layout.labels or maps else []
    cards = [Card(picture, labels[n], tuple(of_kind[n] for of_kind in maps)) for n, picture in enumerate(pictures)]
    return SampleCards(sheet, cards, layout.columns)


def earlier(sheets: Sequence[PngFile], most: int = EARLIER, limit: int = EARLIER_BYTES) -> list[PngFile]:
    """Sheets before the newest: at most `most`, evenly spaced from the first, of at most `limit` bytes together."""
    older = sheets[:-1]
    for count in range(min(most, len(older)), 0, -1):
        chosen = [older[n * len(older) // count] for n in range(count)]
        if sum(sheet.size for sheet in chosen) <= limit:
            return chosen
    return []


def side_by_side(records: Sequence[RunRecord]) -> SideBySide | None:
    """The newest pictures of several runs of one command; None if no run has any."""
    shown: dict[int, RunRecord] = {}
    left_out, total = [], 0
    for n, record in enumerate(records):
        if record.sheets:
            total += record.sheets[-1].size
            if total <= SIDE_BY_SIDE_BYTES or not shown:
                shown[n] = record
            else:
                left_out.append(n)
    if not shown:
        return None
    if records[0].command == "train-vqgan":
        cut = {n: parts for n, record in shown.items() if (parts := halves(record.sheets[-1]))}
        originals = dict.fromkeys(parts["originals"] for parts in cut.values())
        rebuilt = [
            (original, {n: parts["rebuilt"] for n, parts in cut.items() if parts["originals"] == original})
            for original in originals
        ]
        return SideBySide(rebuilt, {}, False, left_out)
    samples = {n: samples_of(record) for n, record in shown.items()}
    requests = [[(card.label, card.maps) for card in of_run.cards] for of_run in samples.values()]
    return SideBySide([], samples, bool(requests[0]) and all(each == requests[0] for each in requests), left_out)


def _maps(sheet: PngFile, count: int) -> list[Picture]:
    """The maps of one kind, if there are as many as samples."""
    layout = layout_of(sheet)
    return pictures_on(sheet, layout) if layout is not None and layout.count == count else []
