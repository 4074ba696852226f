"""What stands behind a run, as names and words: its data, its settings with their origins, its environment."""

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from taming_cli.config.codec import CodecConfig, CodecTrainConfig, DiscriminatorConfig
from taming_cli.config.fields import to_dict
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.report.record import RunRecord

CONFIGS: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "train-vqgan": {"codec": CodecConfig, "discriminator": DiscriminatorConfig, "train": CodecTrainConfig},
    "train-prior": {"prior": PriorConfig, "train": PriorTrainConfig},
}
NOUNS = {"train-vqgan": "Codec", "train-prior": "Prior"}
MOST_CLASSES = 40
"""Classes that are named; of more, their number."""


class Setting(NamedTuple):
    """`default` and `origin` are empty where they are not known; `usual` is whether the value is the default."""

    name: str
    value: str
    default: str
    origin: str
    usual: bool


def noun(record: RunRecord) -> str:
    """What the run makes."""
    return NOUNS.get(record.command or "", "Run")


def title(record: RunRecord) -> str:
    """`Codec 001`, or `Codec` alone where the folder is called so too."""
    what, name = noun(record), record.folder.name
    return what if name.lower() == what.lower() else f"{what} {name}"


def kind(record: RunRecord) -> str:
    """What a codec is of: `image`, or a kind of condition map; empty for a prior."""
    return str(record.config.get("train", {}).get("kind", "image")) if record.command == "train-vqgan" else ""


def data(record: RunRecord) -> dict[str, str]:
    """What it was trained on, as the settings and the model file say."""
    about = record.about
    counts = about.get("data", {})
    unit = "samples" if record.command == "train-prior" else "pictures"
    perceptual = about.get("perceptual") or {}
    labels = [
        f"{name} ({count:,})"
        for name, count in zip(about.get("label_names", []), about.get("label_counts", []), strict=False)
    ]
    more = f", and {len(labels) - MOST_CLASSES} more" if len(labels) > MOST_CLASSES else ""
    said = {
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
        "Perceptual network": f"{perceptual['name']}, sha256 {perceptual['sha256']}"
        if "sha256" in perceptual
        else None,
    }
    return {name: str(value) for name, value in said.items() if value}


def settings(record: RunRecord) -> list[Setting]:
    """Each setting, in order; those too that an older run had no name for, with what was usual."""
    found = []
    made = {group: to_dict(make()) for group, make in CONFIGS.get(record.command or "", {}).items()}
    for group in dict.fromkeys((*record.config, *made)) if record.config else ():
        defaults, values = made.get(group, {}), record.config.get(group, {})
        for name, value in {
            **values,
            **{name: usual for name, usual in defaults.items() if name not in values},
        }.items():
            default = shown(defaults[name]) if name in defaults else ""
            usual = name in defaults and defaults[name] == value
            found.append(Setting(name, shown(value), default, record.origins.get(name, ""), usual))
    return found


def environment(record: RunRecord) -> dict[str, str]:
    """The machine and the versions."""
    return {name: shown(value) for name, value in record.environment.items() if value != [] and name != "command_line"}


def command_line(record: RunRecord) -> str:
    """What was typed, as a shell reads it; empty where that is not known."""
    return shlex.join(map(str, record.environment.get("command_line", ())))


def shown(value: Any) -> str:
    """A setting's value as a person writes it."""
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
