"""How the result of a measurement is printed and written."""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taming_cli.evaluate.protocol import Measurement

_SETTINGS = (
    *("size", "pixels", "splits", "subsets", "subset_size", "neighbours", "seed"),
    *("stride", "order", "sample_steps", "precision"),
)


def values(measured: "Measurement") -> str:
    """The values of a result on one line."""
    named = {measured.metric if name == "value" else name: value for name, value in measured.values.items()}
    return "  ".join(f"{name} {value:.6g}" for name, value in named.items())


def lines(measured: "Measurement") -> list[str]:
    """A result as lines: the values, the values by class, and the protocol of the measurement."""
    by_class = measured.details.get("by_class", {})
    figures = [values(measured), "  ".join(f"{name} {value:.4g}" for name, value in by_class.items())]
    return [*filter(None, figures), _protocol(measured.protocol)]


def save(measured: "Measurement", out: Path) -> Path:
    """Write a result to `out/METRIC.json`, with its pictures beside it, and return the path of the JSON file. A number
    is added to the names if a result exists there already."""
    from taming_cli.data.disk import write_json
    from taming_cli.data.images import write_png

    metric = measured.metric.replace("/", "-per-")
    for number in count(1):
        mark = "" if number == 1 else f"-{number}"
        path = out / f"{metric}{mark}.json"
        drawn = {out / f"{Path(name).stem}{mark}.png": picture for name, picture in measured.pictures.items()}
        if not any(each.exists() for each in (path, *drawn)):
            break
    write_json(path, measured.to_dict())
    for each, picture in drawn.items():
        write_png(each, picture)
    return path


def save_all(results: Mapping[str, "Measurement"], run: Path) -> None:
    """Write results by name to a run's `eval.json` and their pictures to `eval/`, and rewrite the run's report."""
    from taming_cli.data.disk import write_json
    from taming_cli.data.images import write_png
    from taming_cli.report.page import write_report
    from taming_cli.report.record import DRAWINGS, EVAL

    write_json(run / EVAL, {name: measured.to_dict() for name, measured in results.items()})
    drawn = {drawing: picture for measured in results.values() for drawing, picture in measured.pictures.items()}
    for drawing, picture in drawn.items():
        write_png(run / DRAWINGS / drawing, picture)
    write_report(run)


def _protocol(protocol: Mapping[str, Any]) -> str:
    parts = [
        f"{role} {_described(entry)}"
        for role, entry in protocol.items()
        if isinstance(entry, Mapping) and role not in ("features", "perceptual", "versions")
    ]
    for role in ("features", "perceptual"):
        if network := protocol.get(role):
            digest = [network["sha256"][:8]] if network["sha256"] else []
            resize = [f"{network['resize']} to {network['side']}"] if "side" in network else []
            more = f" ({', '.join(digest + resize)})" if digest + resize else ""
            parts.append(f"{network['name']}{more}")
    parts += [f"{name} {protocol[name]}" for name in _SETTINGS if protocol.get(name) is not None]
    parts.append(", ".join(f"{name} {version}" for name, version in protocol["versions"].items()))
    return "; ".join(parts)


def _described(entry: Mapping[str, Any]) -> str:
    """An entry of a protocol as text: name, count, form and digest, as far as they are recorded."""
    digest = entry.get("list_sha256") or entry.get("sha256")
    count = entry.get("count")
    more = [str(count)] if count is not None else []
    more += [entry["form"]] if "form" in entry else []
    more += [digest[:8]] if digest else []
    return f"{entry['name']} ({', '.join(more)})" if "name" in entry else ", ".join(more)
