"""The variables `TAMING_*` that are set: known or not, and whether what they say would be refused."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from taming_cli.config.annotate import DepthConfig, PoseConfig, SegmentationConfig
from taming_cli.config.codec import CodecConfig, CodecTrainConfig, DiscriminatorConfig
from taming_cli.config.evaluate import FeatureConfig, InceptionScoreConfig, KernelConfig, ManifoldConfig
from taming_cli.config.fields import kinds
from taming_cli.config.presets import preset
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.sampling import SampleConfig
from taming_cli.config.shard import Shard
from taming_cli.config.size import Size
from taming_cli.doctor.findings import CommandLine, Finding
from taming_cli.errors import UsageError
from taming_cli.runtime.device import pick_device, pick_precision
from taming_cli.runtime.weights import FOLDER_VARIABLE

PREFIX = "TAMING_"
SETTINGS: dict[str, tuple[type[Any], ...]] = {
    "train-vqgan": (CodecConfig, DiscriminatorConfig, CodecTrainConfig),
    "train-prior": (PriorConfig, PriorTrainConfig),
    "sample": (SampleConfig,),
    "annotate segmentation": (SegmentationConfig,),
    "annotate depth": (DepthConfig,),
    "annotate pose": (PoseConfig,),
    "eval": (FeatureConfig, InceptionScoreConfig, KernelConfig, ManifoldConfig),
}
"""The commands with settings, each of which a variable can set."""

OTHERS = ("TAMING_CKPT", "TAMING_PRESET", "TAMING_WEIGHTS_DIR", "TAMING_CACHE_DIR")
"""Variables that are read by themselves, without a flag of theirs."""

PATHS = ("TAMING_CKPT", "TAMING_WEIGHTS")
"""Variables that name what has to exist."""

_PARSERS: Mapping[str, Callable[[str], object]] = MappingProxyType(
    {
        "TAMING_DEVICE": pick_device,
        "TAMING_PRECISION": lambda text: pick_precision(text, torch.device("cpu")),
        "TAMING_PRESET": preset,
        "TAMING_SHARD": Shard.parse,
        "TAMING_SIZE": Size.parse,
    }
)
"""What commands parse some of them by."""


def variables(line: CommandLine) -> Iterator[Finding]:
    """Each variable that is set; then what commands would refuse of all of them together."""
    given = {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIX)}
    known, refused = known_variables(line), _refused(line)
    faulty = {name: fault for name, value in given.items() if (fault := _fault(line, name, value))}
    for name, value in given.items():
        values = {"value": value}
        if name not in known:
            close = get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]}?" if close else "no setting is called so"
            yield Finding("note", name, f"{value!r} is read by nothing; {meant}", values)
        elif name in faulty:
            yield Finding("FAIL", name, f"{faulty[name]}; commands that read it fail: `unset {name}`", values)
        elif name == FOLDER_VARIABLE and not Path(value).is_dir():
            yield Finding("note", name, f"{value} is no folder: nothing is found there", values)
        elif not any(_named(name, message) for message in refused):
            yield Finding("ok", name, value or "(empty)", values)
    for message, commands in refused.items():
        if not any(message in fault or _named(name, message) for name, fault in faulty.items()):
            yield Finding("FAIL", "refused", f"{message}; so say {', '.join(commands)}")


def known_variables(line: CommandLine) -> set[str]:
    """Every variable that is read by something."""
    fields = {f"{PREFIX}{name.upper()}" for classes in SETTINGS.values() for each in classes for name in kinds(each)}
    return fields | set(OTHERS) | set(line.flags)


def _fault(line: CommandLine, name: str, value: str) -> str | None:
    """What is wrong with a variable by itself."""
    if name in PATHS and not Path(value).exists():
        return f"{value} does not exist"
    for parse in filter(None, (_PARSERS.get(name), line.flags.get(name))):
        try:
            parse(value)
        except UsageError as error:
            return str(error)
    return None


def _named(name: str, message: str) -> bool:
    """Whether a refusal is of this variable, or of the setting that it sets."""
    return re.search(rf"\b({name}|{name.removeprefix(PREFIX).lower()})\b", message) is not None


def _refused(line: CommandLine) -> dict[str, list[str]]:
    """What commands would refuse of their settings, without any flag; the commands by message."""
    found: dict[str, list[str]] = {}
    for command, classes in SETTINGS.items():
        try:
            line.settle(classes, command)
        except UsageError as error:
            found.setdefault(str(error), []).append(command)
    return found
