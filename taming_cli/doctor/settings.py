"""Check the environment variables `TAMING_*`: whether they are known, and whether their values are valid."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from taming_cli.config.annotate import DepthConfig, PoseConfig, SegmentationConfig
from taming_cli.config.evaluate import FeatureConfig, InceptionScoreConfig, KernelConfig, ManifoldConfig
from taming_cli.config.fields import kinds
from taming_cli.config.presets import CONFIGS, preset
from taming_cli.config.sampling import SampleConfig
from taming_cli.config.shard import Shard
from taming_cli.config.size import Size
from taming_cli.doctor.findings import CommandLine, Finding
from taming_cli.errors import UsageError
from taming_cli.runtime.device import pick_device, pick_precision
from taming_cli.runtime.weights import FOLDER_VARIABLE

PREFIX = "TAMING_"
SETTINGS: dict[str, tuple[type[Any], ...]] = {
    **{command: tuple(groups.values()) for command, groups in CONFIGS.items()},
    "sample": (SampleConfig,),
    "annotate segmentation": (SegmentationConfig,),
    "annotate depth": (DepthConfig,),
    "annotate pose": (PoseConfig,),
    "eval": (FeatureConfig, InceptionScoreConfig, KernelConfig, ManifoldConfig),
}
"""The config classes of each command; a variable can set each field."""

OTHERS = ("TAMING_CKPT", "TAMING_PRESET", "TAMING_WEIGHTS_DIR", "TAMING_CACHE_DIR")
"""Variables without a flag or field."""

PATHS = ("TAMING_CKPT", "TAMING_WEIGHTS")
"""Variables whose value is an existing path."""

_PARSERS: Mapping[str, Callable[[str], object]] = MappingProxyType(
    {
        "TAMING_DEVICE": pick_device,
        "TAMING_PRECISION": lambda text: pick_precision(text, torch.device("cpu")),
        "TAMING_PRESET": preset,
        "TAMING_SHARD": Shard.parse,
        "TAMING_SIZE": Size.parse,
    }
)
"""Parsers of the values, as commands use them."""


def variables(line: CommandLine) -> Iterator[Finding]:
    """Each variable that is set, then the combinations that commands refuse."""
    given = {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIX)}
    known, refused = known_variables(line), _refused(line)
    faulty = {name: fault for name, value in given.items() if (fault := _fault(line, name, value))}
    for name, value in given.items():
        values = {"value": value}
        if name not in known:
            close = get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]}?" if close else "no setting has this name"
            yield Finding("note", name, f"{value!r} is not used; {meant}", values)
        elif name in faulty:
            yield Finding("FAIL", name, f"{faulty[name]}; commands that read it fail: `unset {name}`", values)
        elif name == FOLDER_VARIABLE and not Path(value).is_dir():
            yield Finding("note", name, f"{value} is not a folder and is ignored", values)
        elif not any(_named(name, message) for message in refused):
            yield Finding("ok", name, value or "(empty)", values)
    for message, commands in refused.items():
        if not any(message in fault or _named(name, message) for name, fault in faulty.items()):
            yield Finding("FAIL", "refused", f"{message} (in {', '.join(commands)})")


def known_variables(line: CommandLine) -> set[str]:
    """Every variable that is used."""
    fields = {f"{PREFIX}{name.upper()}" for classes in SETTINGS.values() for each in classes for name in kinds(each)}
    return fields | set(OTHERS) | set(line.flags)


def _fault(line: CommandLine, name: str, value: str) -> str | None:
    """The fault of a single variable, or None."""
    if name in PATHS and not Path(value).exists():
        return f"{value} does not exist"
    for parse in filter(None, (_PARSERS.get(name), line.flags.get(name))):
        try:
            parse(value)
        except UsageError as error:
            return str(error)
    return None


def _named(name: str, message: str) -> bool:
    """Whether an error message is about this variable, or about the setting that it sets."""
    return re.search(rf"\b({name}|{name.removeprefix(PREFIX).lower()})\b", message) is not None


def _refused(line: CommandLine) -> dict[str, list[str]]:
    """The errors of commands that run with these variables and without flags: the commands by message."""
    errors: dict[str, list[str]] = {}
    for command, classes in SETTINGS.items():
        try:
            line.settle(classes, command)
        except UsageError as error:
            errors.setdefault(str(error), []).append(command)
    return errors
