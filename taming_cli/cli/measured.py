"""How a measurement's result is said and kept. Imported by `cli.evaluate`."""

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taming_cli.evaluate.protocol import Measurement

_SETTINGS = ("size", "pixels", "splits", "subsets", "subset_size", "neighbours", "seed", "stride", "precision")


def values(measured: "Measurement") -> str:
    """A result's values in one line."""
    named = {measured.metric if name == "value" else name: value for name, value in measured.values.items()}
    return "  ".join(f"{name} {value:.6g}" for name, value in named.items())


def lines(measured: "Measurement") -> str:
    """A result for people: the values, what stands behind them where that is short, and how all was taken."""
    by_class = measured.details.get("by_class", {})
    said = [values(measured), "  ".join(f"{name} {value:.4g}" for name, value in by_class.items())]
    return "\n".join([*filter(None, said), _taken(measured.protocol)])


def save(measured: "Measurement", out: Path) -> Path:
    """Write all of a result to `out/METRIC.json`, and what it draws beside it; with a number where other results are
    there already. -> the JSON's path."""
    from taming_cli.data.images import write_png

    metric = measured.metric.replace("/", "-per-")
    for number in count(1):
        mark = "" if number == 1 else f"-{number}"
        path = out / f"{metric}{mark}.json"
        drawn = {out / f"{Path(name).stem}{mark}.png": picture for name, picture in measured.pictures.items()}
        if not any(each.exists() for each in (path, *drawn)):
            break
    _write_json(path, measured.to_dict())
    for each, picture in drawn.items():
        write_png(each, picture)
    return path


def save_all(results: Mapping[str, "Measurement"], run: Path) -> None:
    """Write results by name to a run's `eval.json`, what they draw to `eval/`, and its report anew."""
    from taming_cli.data.images import write_png
    from taming_cli.report.page import write_report
    from taming_cli.report.record import DRAWINGS, EVAL

    _write_json(run / EVAL, {name: measured.to_dict() for name, measured in results.items()})
    drawn = {drawing: picture for measured in results.values() for drawing, picture in measured.pictures.items()}
    for drawing, picture in drawn.items():
        write_png(run / DRAWINGS / drawing, picture)
    write_report(run)


def _write_json(path: Path, value: Any) -> None:
    from taming_cli.data.disk import write_atomically

    text = json.dumps(value, indent=2) + "\n"  # in ASCII: a file name may hold bytes that are no utf-8

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def _taken(protocol: Mapping[str, Any]) -> str:
    said = [
        f"{role} {_thing(about)}"
        for role, about in protocol.items()
        if isinstance(about, Mapping) and role not in ("features", "perceptual", "versions")
    ]
    for role in ("features", "perceptual"):
        if seen := protocol.get(role):
            where = [f"{seen['resize']} to {seen['side']}"] if "side" in seen else []
            digest = [seen["sha256"][:8]] if seen["sha256"] else []
            said.append(f"{seen['name']} ({', '.join(digest + where)})" if digest + where else seen["name"])
    said += [f"{name} {protocol[name]}" for name in _SETTINGS if protocol.get(name) is not None]
    said.append(", ".join(f"{name} {version}" for name, version in protocol["versions"].items()))
    return "; ".join(said)


def _thing(about: Mapping[str, Any]) -> str:
    digest = about.get("list_sha256") or about.get("sha256")
    count = about.get("count")
    more = [str(count)] if count is not None else []
    more += [about["form"]] if "form" in about else []
    more += [digest[:8]] if digest else []
    return f"{about['name']} ({', '.join(more)})" if "name" in about else ", ".join(more)
