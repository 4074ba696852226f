"""The pictures of a report: reconstructions and samples, the newest large and earlier ones small; and those of several
runs under one another."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from taming_cli.report.charts import swatch
from taming_cli.report.html import Html, el, image, join, section
from taming_cli.report.record import RunRecord
from taming_cli.runtime.run.sheets import Layout, Piece, Sheet, halves, layout_of, pieces

EARLIER = 5
"""Sheets shown besides the newest, at most, and the bytes they may have together."""
EARLIER_BYTES = 3 * 2**20
SIDE_BY_SIDE_BYTES = 24 * 2**20
"""Bytes of the sheets of several runs that one page holds."""
SMALL = 120
"""Pixels below which a picture is enlarged without smoothing."""


class Sample(NamedTuple):
    """A picture, a word on what it was asked to be, and the maps that it was drawn for."""

    picture: Piece
    label: str
    maps: tuple[Piece, ...]


def pictures(record: RunRecord) -> Html | None:
    """The newest sheet large, and earlier ones over time; of a codec's only the lower half, the originals being one."""
    if not record.sheets:
        return None
    newest, codec = record.sheets[-1], record.command == "train-vqgan"
    samples = [] if codec else labelled(record)
    said = (
        "Held-out pictures above, what the codec makes of them below"
        if codec
        else "Samples at temperature 1, always with the same noise and for the same conditions"
    )
    said += ", the maps above them as their codec has them" if samples and samples[0].maps else ""
    caption = el("figcaption", f"{said}. Step {newest.step:,}.")
    scale = max(1, 480 // newest.width)
    if samples:
        layout = layout_of(newest)
        large = el("figure", _cards(samples, layout.columns if layout else 4), caption, class_="sheet")
    else:
        shown = image(
            newest.path.read_bytes(),
            f"{said}, step {newest.step}",
            width=scale * newest.width,
            height=scale * newest.height,
        )
        large = el("figure", shown, caption, class_="sheet")
    past = [_past(sheet, codec) for sheet in earlier(record.sheets)]
    over_time = el("div", *past, class_="bands" if codec else "strip") if past else None
    title = "Reconstructions" if codec else "Samples"
    # Few pictures, as wide as the page, would be too high for a screen.
    wide = {"class_": "wide", "style": f"--wide:{34 * newest.width / newest.height:.4g}rem"} if codec else {}
    together = el("div", large, el("h3", "Over time") if past else None, over_time, **wide)
    return section(title, el("div", together, class_="scroll pixels" if scale > 1 else "scroll"))


def earlier(sheets: Sequence[Sheet], most: int = EARLIER, limit: int = EARLIER_BYTES) -> list[Sheet]:
    """Sheets before the newest, evenly chosen with the first among them: `most` of `limit` bytes together, at most."""
    older = sheets[:-1]
    for count in range(min(most, len(older)), 0, -1):
        chosen = [older[n * len(older) // count] for n in range(count)]
        if sum(sheet.bytes for sheet in chosen) <= limit:
            return chosen
    return []


def labelled(record: RunRecord) -> list[Sample]:
    """The newest samples one by one, where their sheet says of which class they are or maps tell what they were drawn
    for; else none."""
    if not record.sheets or (layout := layout_of(record.sheets[-1])) is None:
        return []
    drawn = pieces(record.sheets[-1], layout)
    maps = [of_kind for sheet in record.conditions.values() if (of_kind := _alike(sheet, layout))]
    if not drawn or not (layout.labels or maps):
        return []
    labels = layout.labels or ("",) * layout.count
    return [Sample(picture, labels[n], tuple(of[n] for of in maps)) for n, picture in enumerate(drawn)]


def side_by_side(records: Sequence[RunRecord], names: Sequence[str]) -> Html | None:
    """The newest pictures of several runs of one command under one another: each original, or each condition, once
    where the runs have the same."""
    shown: dict[int, RunRecord] = {}
    left_out, bytes_so_far = [], 0
    for n, record in enumerate(records):
        if record.sheets:
            bytes_so_far += record.sheets[-1].bytes
            if bytes_so_far <= SIDE_BY_SIDE_BYTES or not shown:
                shown[n] = record
            else:
                left_out.append(names[n])
    if not shown:
        return None
    heads = {n: _run_head(n, names[n], record) for n, record in shown.items()}
    make = _rebuilt if records[0].command == "train-vqgan" else _sampled
    more = f"The page would grow too large with those of {', '.join(left_out)}: see their own." if left_out else None
    return join([make(shown, heads), el("p", more, class_="soft") if more else None])


def _rebuilt(records: Mapping[int, RunRecord], heads: Mapping[int, Html]) -> Html:
    """Rows of reconstructions under the row of their originals, which runs share where they are the same."""
    cut = {n: found for n, record in records.items() if (found := halves(record.sheets[-1]))}
    rows = []
    for original in dict.fromkeys(found["originals"] for found in cut.values()):
        rows += [el("div", "Originals", class_="whose"), _row([original])]
        for n, found in cut.items():
            if found["originals"] == original:
                rows += [heads[n], _row([found["rebuilt"]])]
    return el("div", el("div", *rows, class_="runs"), class_="scroll")


def _sampled(records: Mapping[int, RunRecord], heads: Mapping[int, Html]) -> Html:
    """Rows of samples under what they were asked to be, where that is the same for all runs; else each run's own."""
    samples = {n: labelled(record) for n, record in records.items()}
    asked = {n: [(sample.label, *(piece.png for piece in sample.maps)) for sample in of] for n, of in samples.items()}
    first = next(iter(samples.values()))
    if first and all(each == asked[next(iter(asked))] for each in asked.values()):
        rows = [el("div", *(el("div", sample.label) for sample in first), class_="row labels")]
        rows += [_row([sample.maps[n] for sample in first], cells=True) for n in range(len(first[0].maps))]
        for n, of_run in samples.items():
            rows += [heads[n], _row([sample.picture for sample in of_run], cells=True)]
        return el("div", el("div", *rows, class_="runs"), class_="scroll")
    blocks = []
    for n, record in records.items():
        sheet, layout = record.sheets[-1], layout_of(record.sheets[-1])
        own = _cards(samples[n], layout.columns) if samples[n] and layout else _whole(sheet)
        blocks.append(el("div", heads[n], own))
    return el("div", *blocks, class_="beside")


def _run_head(n: int, name: str, record: RunRecord) -> Html:
    return el("div", swatch(n), " ", el("strong", name), f", step {record.sheets[-1].step:,}", class_="whose")


def _row(shown: Sequence[Piece], *, cells: bool = False) -> Html:
    """Pictures beside one another. Rows of one width each fill the page, but are no higher than pictures need be."""
    if cells:
        return el("div", *(_picture(piece) for piece in shown), class_="row cells")
    (band,) = shown
    height = max(6.0, min(13.0, 65 * band.height / band.width))
    drawn = image(band.png, "", width=band.width, height=band.height)
    return el("div", drawn, class_="row band-of", style=f"--height:{height:.3g}rem")


def _cards(samples: Iterable[Sample], columns: int) -> Html:
    """Each sample with its label below it and its maps above."""
    cards = [
        el(
            "figure",
            *(_picture(piece) for piece in sample.maps),
            _picture(sample.picture, sample.label),
            el("figcaption", sample.label) if sample.label else None,
        )
        for sample in samples
    ]
    return el("div", *cards, class_="cards", style=f"--columns:{columns}")


def _picture(piece: Piece, alt: str = "") -> Html:
    shown = image(piece.png, alt, width=piece.width, height=piece.height)
    return el("div", shown, class_="pixels") if piece.width < SMALL else shown


def _whole(sheet: Sheet) -> Html:
    return image(sheet.path.read_bytes(), f"Samples, step {sheet.step}", width=sheet.width, height=sheet.height)


def _alike(sheet: Sheet, layout: Layout) -> list[Piece]:
    """The pictures of a sheet of maps, where there are as many as samples."""
    own = layout_of(sheet)
    return pieces(sheet, own) if own is not None and own.count == layout.count else []


def _past(sheet: Sheet, codec: bool) -> Html:
    caption = el("figcaption", f"Step {sheet.step:,}")
    shown = image(sheet.path.read_bytes(), f"Step {sheet.step}", width=sheet.width, height=sheet.height)
    if not codec:
        return el("figure", shown, caption, class_="past")
    half = el("div", shown, class_="band", style=f"aspect-ratio:{sheet.width}/{max(1, (sheet.height - 2) // 2)}")
    return el("figure", half, caption, class_="past")
