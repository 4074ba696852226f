"""The facts behind a run as names and texts: its data, its settings with their origins, its environment."""

import json
import shlex
from typing import Any, NamedTuple

from taming_cli.config.fields import to_dict
from taming_cli.config.presets import CONFIGS
from taming_cli.report.record import RunRecord

NOUNS = {"train-vqgan": "Codec", "train-prior": "Prior"}
MOST_CLASSES = 40
"""Classes listed by name; the others are counted."""


class Setting(NamedTuple):
    """`default` and `origin` are empty if they are not known; `is_default` compares the value with the default."""

    name: str
    value: str
    default: str
    origin: str
    is_default: bool


def noun(record: RunRecord) -> str:
    """The kind of model that the run trains."""
    return NOUNS.get(record.command or "", "Run")


def title(record: RunRecord) -> str:
    """`Codec 001`, or `Codec` if that is the folder's name too."""
    model, name = noun(record), record.folder.name
    return model if name.lower() == model.lower() else f"{model} {name}"


def kind(record: RunRecord) -> str:
    """The content of a codec's pictures: `image`, or a kind of condition map; empty for a prior."""
    return str(record.config.get("train", {}).get("kind", "image")) if record.command == "train-vqgan" else ""


def data(record: RunRecord) -> dict[str, str]:
    """The training data, from the settings and the model file."""
    about = record.about
    counts, perceptual = about.get("data", {}), about.get("perceptual") or {}
    unit = "samples" if record.command == "train-prior" else "pictures"
    labels = [
        f"{name} ({count:,})"
        for name, count in zip(about.get("label_names", []), about.get("label_counts", []), strict=False)
    ]
    more = f", and {len(labels) - MOST_CLASSES} more" if len(labels) > MOST_CLASSES else ""
    facts = {
        "From": "\n".join(map(str, record.inputs)),
        "Trained on": f"{counts['train']:,} {unit}" if "train" in counts else None,
        "Held out": f"{counts['held']:,} {unit}" if "held" in counts else None,
        "Held out from": record.config.get("train", {}).get("val"),
        "Size": f"{about['size']} pixels" if "size" in about else None,
        "Grid": f"{about['grid']} codes" if "grid" in about else None,
        "Pixels per code": f"{about['downsample_factor']} along a side" if "downsample_factor" in about else None,
        "Classes": ", ".join(labels[:MOST_CLASSES]) + more,
        "Labels": about.get("labels"),
        "sha256 of the data": counts.get("sha256"),
        "Perceptual network": "{name}, sha256 {sha256}".format_map(perceptual) if "sha256" in perceptual else None,
    }
    return {name: str(value) for name, value in facts.items() if value}


def settings(record: RunRecord) -> list[Setting]:
    """Each setting, in order. Settings that an earlier version did not have are included with their default."""
    settings = []
    defaults = {group: to_dict(make()) for group, make in CONFIGS.get(record.command or "", {}).items()}
    for group in dict.fromkeys((*record.config, *defaults)) if record.config else ():
        usual, recorded = defaults.get(group, {}), record.config.get(group, {})
        for name in dict.fromkeys((*recorded, *usual)):
            value = recorded[name] if name in recorded else usual[name]
            default = shown(usual[name]) if name in usual else ""
            is_default = name in usual and usual[name] == value
            settings.append(Setting(name, shown(value), default, record.origins.get(name, ""), is_default))
    return settings


def environment(record: RunRecord) -> dict[str, str]:
    """The machine and the versions of packages."""
    return {name: shown(value) for name, value in record.environment.items() if value != [] and name != "command_line"}


def command_line(record: RunRecord) -> str:
    """The command that started the run, quoted for a shell; empty if it is not known."""
    return shlex.join(map(str, record.environment.get("command_line", ())))


def shown(value: Any) -> str:
    """A setting's value as text."""
    if isinstance(value, list) and not any(isinstance(one, (list, dict)) for one in value):
        return ", ".join(map(str, value)) or "none"
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def duration(seconds: float) -> str:
    """`75` -> `1 min 15 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
