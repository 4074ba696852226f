"""The part of a run's report that says what `taming eval all` found: every figure, how it was taken, what was drawn."""

from collections.abc import Iterator, Mapping
from typing import Any

from taming_cli.runtime.charts import number
from taming_cli.runtime.page import Html, el, image, join, section, table
from taming_cli.runtime.record import RunRecord, is_number

_TITLES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "l1": "L1 (of 2)"}
_ABOUT = ("metric", "protocol", "details", "warnings", "skipped")


def measured(record: RunRecord) -> Html | None:
    """The section, or None where nothing was measured."""
    if not record.measured:
        return None
    rows = [row for result in record.measured.values() for row in _rows(result)]
    warnings = dict.fromkeys(
        str(warning) for result in record.measured.values() for warning in result.get("warnings", ())
    )
    drawn = [
        el(
            "figure",
            image(sheet.path, sheet.path.stem, width=sheet.width, height=sheet.height),
            el("figcaption", sheet.path.stem.replace("_", " ").capitalize()),
        )
        for sheet in record.drawings
    ]
    return section(
        "Measured",
        table(["", "Value", "Taken"], rows, class_="figures"),
        *(el("p", warning, class_="soft") for warning in warnings),
        el("div", join(drawn), class_="scroll") if drawn else None,
    )


def _rows(result: Mapping[str, Any]) -> Iterator[list[str | None]]:
    taken = _taken(result.get("protocol", {}))
    for name, value in result.items():
        if name not in _ABOUT and is_number(value):
            metric = str(result.get("metric", ""))
            said = metric if name == "value" else f"{metric}: {_TITLES.get(name, name.replace('_', ' '))}"
            yield [said, number(value), taken]


def _taken(protocol: Any) -> str:
    """The network and the number of pictures on each side, in a few words; the JSON has all of it."""
    if not isinstance(protocol, Mapping):
        return ""
    sides = [
        f"{side['count']:,} {role}"
        for role, side in protocol.items()
        if isinstance(side, Mapping) and is_number(side.get("count"))
    ]
    seen = protocol.get("features")
    network = [str(seen["name"])] if isinstance(seen, Mapping) and "name" in seen else []
    return ", ".join(sides + network)
