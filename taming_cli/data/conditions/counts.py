"""Counts the labels in segmentation maps, and detects how the maps are stored.

Labels are counted before a codec is built for them, because its first and last layer have a channel per label. A mask
of 0 and 255, or 255 for unlabelled pixels, would make a codec of 256 labels of which few occur.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taming_cli.data.conditions.labels import Colours, read_labels
from taming_cli.data.sources import Item
from taming_cli.errors import BadImageError, UsageError

SAMPLED = 1000
"""Number of maps that are read if the number of labels is known."""

_VOID = 255
_SPARSE = 8
"""If fewer than one in this many labels occur, the numbers are probably not consecutive."""
_LISTED = 64
"""The most labels that a suggested flag lists."""
_ENDS = 0.8
"""The least share of pixels of 0 and 255 for which other values are considered smoothed edges."""


class Counted(NamedTuple):
    """The labels of a set of maps."""

    labels: int
    """Number of labels: as given, or one more than the largest that occurs, at least 2."""

    occurring: tuple[int, ...]
    """The labels that occur, in order."""

    read: int
    maps: int
    """Number of maps, of which `read` were read."""

    warnings: tuple[str, ...]
    """One line each."""

    def __str__(self) -> str:
        few = f" (in {self.read:,} of {self.maps:,} maps)" if self.read < self.maps else ""
        many = f"of which {len(self.occurring):,} occur{'s' if len(self.occurring) == 1 else ''}"
        return f"{self.labels:,} labels, {many}: {_ranges(self.occurring)}{few}"


class _Map(NamedTuple):
    """One map: its labels in order and their numbers of pixels, or the reason why it cannot be read."""

    name: str
    labels: NDArray[np.int64]
    pixels: NDArray[np.int64]
    reason: str = ""

    @property
    def largest(self) -> int:
        return int(self.labels[-1])


def count_labels(
    items: Sequence[Item],
    *,
    labels: int = 0,
    unlabelled: bool = False,
    colours: Colours | None = None,
    values: Sequence[int] = (),
) -> Counted:
    """Count the labels of segmentation maps, which are read by `read_labels`.

    With `labels`, or a table of colours, or `values`, the number of labels is known, and up to 1,000 of the maps are
    read to see which labels occur. Otherwise all are read, and the number is one more than the largest label.

    Raises UsageError if no map can be read (with the first reason), or if no map fits the given labels; and, without a
    given number, for masks of 0 and 255, maps in which 255 probably means unlabelled, and label maps mixed with maps of
    instance numbers. The message states the remedy.
    """
    given = labels or len(values) or (len(colours.rgb) if colours is not None else 0)
    chosen = items[:: -(-len(items) // SAMPLED)] if given else items

    def count(item: Item) -> _Map:
        try:
            image = read_labels(item.read(), item.name, unlabelled=unlabelled, colours=colours, values=values)
        except BadImageError as error:
            return _Map(item.name, np.zeros(0, np.int64), np.zeros(0, np.int64), str(error))
        pixels = np.bincount(np.asarray(image).ravel())
        return _Map(item.name, np.flatnonzero(pixels), pixels[pixels > 0])

    with ThreadPoolExecutor(8) as readers:
        counted = list(readers.map(count, chosen))
    maps = [each for each in counted if not each.reason]
    unread = [each for each in counted if each.reason]
    if not maps:
        raise UsageError(f"none of the {len(items)} segmentation maps can be read; the first: {unread[0].reason}")
    pixels = np.zeros(1 + max(each.largest for each in maps), np.int64)
    for each in maps:
        pixels[each.labels] += each.pixels
    occurring = tuple(np.flatnonzero(pixels).tolist())
    summary = Counted(given or max(len(pixels), 2), occurring, len(counted), len(items), ())
    warnings = list[str]()
    if unread:
        warnings.append(f"{len(unread)} of {len(counted)} maps cannot be read; the first: {unread[0].reason}")
    if given:
        warnings += _beyond(maps, given, unlabelled)
    else:
        _refuse_mixed(maps, summary)
        _refuse_void(summary, pixels, unlabelled)
        if len(occurring) * _SPARSE < summary.labels:
            warnings.append(
                f"few of the {summary.labels:,} labels occur, and a codec has a channel for each: {_renumber(summary)}"
            )
    if len(occurring) == 1:
        warnings.append(f"every pixel has label {occurring[0]}: there is nothing to learn from these maps")
    return summary._replace(warnings=tuple(warnings))


def _beyond(maps: Sequence[_Map], labels: int, unlabelled: bool) -> list[str]:
    """Return a warning if some maps hold labels beyond the last; raises UsageError if all do."""
    beyond = [each for each in maps if each.largest >= labels]
    if not beyond:
        return []
    first = beyond[0]
    example = f"{first.name} holds label {first.largest}, but the labels are 0 to {labels - 1}"
    void = first.largest == _VOID and not unlabelled
    remedy = "; if 255 means unlabelled, give --unlabelled" if void else ""
    if len(beyond) == len(maps):
        raise UsageError(f"no map can be used: {example}{remedy}")
    return [f"{len(beyond)} of {len(maps)} maps will be skipped: {example}{remedy}"]


def _refuse_void(summary: Counted, pixels: NDArray[np.int64], unlabelled: bool) -> None:
    """Raise UsageError for masks of 0 and 255, sharp or smoothed, and if 255 probably means unlabelled."""
    if summary.labels != _VOID + 1 or unlabelled:
        return
    as_they_are = f"(--labels {summary.labels} trains on them as they are); see: taming guide conditions"
    others = summary.occurring[:-1]
    if others in ((), (0,)):
        raise UsageError(
            f"{summary}. These are masks of 0 and 255: --label-values 0,255 makes two labels of them, 0 and 1 "
            f"{as_they_are}"
        )
    if pixels[[0, _VOID]].sum() >= _ENDS * pixels.sum() and len(others) > _LISTED and pixels[_VOID - 1]:
        raise UsageError(
            f"{summary}. But {pixels[[0, _VOID]].sum() / pixels.sum():.0%} of the pixels are 0 or 255: masks whose "
            f"edges were smoothed. Save them with 0 and 255 alone, and give --label-values 0,255 {as_they_are}"
        )
    if pixels[_VOID - 1]:
        return
    usual = "--unlabelled makes it label 0 and moves the others up"
    if others[-1] > _SPARSE * len(others) + _SPARSE:  # neither from 0 nor from 1 on
        usual = f"{_renumber(summary)}, and --unlabelled makes 255 label 0 and moves the others up"
    raise UsageError(f"{summary}. In many data sets 255 marks unlabelled pixels: {usual} {as_they_are}")


def _renumber(summary: Counted) -> str:
    if len(summary.occurring) > _LISTED:
        return f"--label-values lists those that count (--labels {summary.labels} takes them as they are)"
    listed = ",".join(map(str, summary.occurring))
    return f"--label-values {listed} makes {len(summary.occurring)} labels of them"


def _refuse_mixed(maps: Sequence[_Map], summary: Counted) -> None:
    """Raise UsageError if maps of instance numbers are among label maps. The two are told apart by the last word of
    their names, or by their folders."""
    if summary.labels <= _VOID + 1:
        return
    for series in (_last_word, _folder):
        names = {series(each.name) for each in maps}
        numbered = {series(each.name) for each in maps if each.largest > _VOID}
        if numbered == names or len(names) > max(2, len(maps) // 2):  # a series has several maps
            continue
        one = min((each for each in maps if each.largest > _VOID), key=_name_of)
        other = [each for each in maps if series(each.name) not in numbered]
        raise UsageError(
            f"{summary}. {one.name} holds numbers up to {one.largest}, {min(other, key=_name_of).name} none above "
            f"{max(each.largest for each in other)}: maps of instances among label maps? Give the label maps alone, in "
            f"a folder of their own (--labels {summary.labels} takes all as label maps)"
        )


def _last_word(name: str) -> str:
    """Return `labelIds` of a/berlin_000000_gtFine_labelIds.png; empty if the name ends in a number."""
    word = re.search(r"(?:^|[_.\- ])([A-Za-z]+)$", PurePosixPath(name).stem)
    return word[1] if word else ""


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _ranges(numbers: Sequence[int], most: int = 8) -> str:
    """Return `0 to 4, 255`; of many ranges only the first."""
    steps = np.flatnonzero(np.diff(numbers) > 1) + 1
    runs = np.split(np.array(numbers), steps)
    ranges = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run.tolist())) for run in runs[:most]]
    return ", ".join(ranges + (["..."] if len(runs) > most else []))


def _name_of(each: _Map) -> str:
    return each.name
