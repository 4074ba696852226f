"""The part of a run's report that says what `taming eval all` found: every figure, how it was taken, what was drawn."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from taming_cli.errors import UsageError
from taming_cli.metrics import use_by_rank
from taming_cli.report.charts import Line, draw, number
from taming_cli.report.curves import USE, use_chart, use_points
from taming_cli.report.figures import Better
from taming_cli.report.html import Html, el, image, join, section, table
from taming_cli.report.record import RunRecord
from taming_cli.runtime.run.metrics import is_number

_TITLES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "l1": "L1 (of 2)", "codes_used": "codes used (share)"}
_ABOUT = ("metric", "protocol", "details", "warnings", "skipped")
_HIGHER = ("psnr", "ssim", "codes_used", "perplexity", "precision", "recall")
_NEITHER = ("bits_per_pixel", "dead", "codes_counted", "deviation")
_CHARTED = "codebook"
"""The drawing that the page has as a chart, where the counts behind it are there."""


class Taken(NamedTuple):
    """A value that was measured: of which result, under which name, which end of it is better, and how it was taken."""

    result: str
    name: str
    title: str
    value: float
    better: Better
    protocol: Mapping[str, Any]


def measured(record: RunRecord) -> Html | None:
    """The section, or None where nothing was measured."""
    if not record.measured:
        return None
    rows = [[one.title, number(one.value), how(one.protocol)] for one in taken(record)]
    warnings = dict.fromkeys(
        str(warning) for result in record.measured.values() for warning in result.get("warnings", ())
    )
    use = _use(record)
    drawn = [
        el(
            "figure",
            image(sheet.path.read_bytes(), sheet.path.stem, width=sheet.width, height=sheet.height),
            el("figcaption", sheet.path.stem.replace("_", " ").capitalize()),
        )
        for sheet in record.drawings
        if not (use and sheet.path.stem == _CHARTED)
    ]
    return section(
        "Measured",
        table(["", "Value", "Taken"], rows, class_="figures"),
        *(el("p", warning, class_="soft") for warning in warnings),
        *_by_class(record),
        el("div", use, class_="charts") if use else None,
        el("div", join(drawn), class_="scroll drawn") if drawn else None,
    )


def taken(record: RunRecord) -> Iterator[Taken]:
    """Every value of a run's eval.json, in order."""
    for result, found in record.measured.items():
        metric, protocol = str(found.get("metric", "")), found.get("protocol")
        for name, value in found.items():
            if name not in _ABOUT and is_number(value):
                title = metric if name == "value" else f"{metric}: {_TITLES.get(name, name.replace('_', ' '))}"
                better = _better(metric, name)
                yield Taken(result, name, title, value, better, protocol if isinstance(protocol, Mapping) else {})


def how(protocol: Mapping[str, Any]) -> str:
    """The network and the number of pictures on each side, in a few words; the JSON has all of it."""
    sides = [
        f"{side['count']:,} {role}"
        for role, side in protocol.items()
        if isinstance(side, Mapping) and is_number(side.get("count"))
    ]
    seen = protocol.get("features")
    network = [str(seen["name"])] if isinstance(seen, Mapping) and "name" in seen else []
    return ", ".join(sides + network)


def _better(metric: str, name: str) -> Better:
    if name in _NEITHER:
        return ""
    inception_score = name == "value" and metric.partition("-")[0] == "is"
    return "higher" if name in _HIGHER or inception_score else "lower"


def _by_class(record: RunRecord) -> Iterator[Html | None]:
    """What a result says of each class, the hardest first, folded away."""
    for found in record.measured.values():
        details = found.get("details")
        by_class = details.get("by_class") if isinstance(details, Mapping) else None
        if isinstance(by_class, Mapping):
            known = sorted(((value, str(name)) for name, value in by_class.items() if is_number(value)), reverse=True)
            metric = str(found.get("metric", ""))
            rows = [[name, number(value), metric] for value, name in known]
            classes = table(["Class", "Value", "Unit"], rows, class_="figures")
            yield el("details", el("summary", f"{metric} by class"), classes) if classes else None


def _use(record: RunRecord) -> Html | None:
    """How the codebook was used on what was measured."""
    details = record.measured.get("codebook", {}).get("details")
    counts = details.get("counts") if isinstance(details, Mapping) else None
    if not isinstance(counts, list) or not all(is_number(count) for count in counts):
        return None
    try:
        shares = use_by_rank(torch.tensor(counts))
    except UsageError:
        return None
    line = Line(name="measured", points=use_points({USE: shares}), dots=False)
    return draw(use_chart([line], keys=False))
