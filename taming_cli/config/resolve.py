"""Resolve settings: flag > environment > config file > preset > default. The origin of each value is recorded."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from taming_cli.config import former
from taming_cli.config.fields import flag_name, kinds, one_of, parse, revive
from taming_cli.config.parsing import parse_json, parse_toml
from taming_cli.config.presets import CONFIGS
from taming_cli.errors import UsageError


@dataclass(frozen=True)
class Layer:
    """Values by field name from one origin, such as `preset tiny`: in JSON form, or as the fields hold them. `file` is
    the file that holds them, by which errors name it."""

    origin: str
    values: Mapping[str, Any]
    file: str = field(default="", compare=False)


@dataclass(frozen=True)
class Resolved:
    """One instance of each config class, and the origin of each field's value."""

    configs: tuple[Any, ...]
    origins: Mapping[str, str]


def resolve(classes: Sequence[type[Any]], layers: Sequence[Layer]) -> Resolved:
    """Build each class from the layers, of which earlier ones take precedence; other fields keep their defaults.

    Raises UsageError for a key that is not a field of any class, and for invalid values.
    """
    owners = {each.name: config for config in classes for each in fields(config)}
    origins = dict.fromkeys(owners, "default")
    files = dict.fromkeys(owners, "")
    arguments: dict[type[Any], dict[str, Any]] = {config: {} for config in classes}
    for layer in reversed(layers):
        for name, value in layer.values.items():
            where = layer.file or layer.origin
            if name not in owners:
                raise UsageError(f"{where}: unknown key {name!r}; {one_of(owners, name)}")
            with _naming({name: layer.file}):
                arguments[owners[name]][name] = revive(owners[name], name, value, where)
            origins[name], files[name] = layer.origin, layer.file
    configs = []
    for config in classes:
        with _naming({name: files[name] for name in arguments[config]}):
            configs.append(config(**arguments[config]))
    return Resolved(tuple(configs), origins)


@contextmanager
def _naming(files: Mapping[str, str]) -> Iterator[None]:
    """A context in which an error about a field names the file that its value comes from. `files` are by field."""
    try:
        yield
    except UsageError as error:
        named = [word for word in re.findall(r"\w+", str(error)) if word in files]
        if len(files) == 1:
            named = list(files)
        file = files[named[0]] if named else ""
        if not file or file in str(error):
            raise
        raise UsageError(f"{file}: {error}") from None


def suggest(resolved: Resolved, suggested: Layer) -> Resolved:
    """The same settings, with suggested values in place of defaults."""
    free = {name: value for name, value in suggested.values.items() if resolved.origins.get(name) in (None, "default")}
    classes = [type(config) for config in resolved.configs]
    settled = {name: value for config in resolved.configs for name, value in vars(config).items()}
    configs = resolve(classes, [Layer(suggested.origin, free), Layer("", settled)]).configs
    return Resolved(configs, {**resolved.origins, **dict.fromkeys(free, suggested.origin)})


def from_flags(classes: Sequence[type[Any]], given: Mapping[str, Any]) -> Layer:
    """The layer of the given flags, by field name; text is parsed according to the field's type."""
    owners = {each.name: (config, flag_name(each)) for config in classes for each in fields(config)}
    values = {
        name: parse(owners[name][0], name, value, owners[name][1]) if isinstance(value, str) else value
        for name, value in given.items()
        if value is not None
    }
    return Layer("flag", values)


def from_environment(classes: Sequence[type[Any]], environment: Mapping[str, str]) -> Layer:
    """The layer of the environment: `TAMING_BATCH_SIZE` and so on, for every field."""
    values = {}
    for config in classes:
        for name in kinds(config):
            variable = f"TAMING_{name.upper()}"
            if variable in environment:
                values[name] = parse(config, name, environment[variable], variable)
    return Layer("environment", values)


def from_file(path: Path, command: str = "") -> Layer:
    """The layer of a TOML or JSON file of values for `command`.

    Groups such as `[codec]` are flattened, so the config.json of a run can be used. A table named after a training
    command applies to that command only, so the output of `taming presets show` can be used too.
    """
    try:
        text = path.read_text()
        values = parse_json(text) if path.suffix == ".json" else parse_toml(text)
    except OSError as error:
        raise UsageError(f"config file {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"config file {path}: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"config file {path} holds no settings; write them as name = value")
    if isinstance(values.get("config"), dict):  # a run's config.json
        values = values["config"]
    values |= {name: {} for name in values if name in CONFIGS and name != command}
    return Layer(f"config file {path}", former.renamed(flatten(values), former.SETTINGS), f"config file {path}")


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"codec": {"ch": 32}, "steps": 5}` -> `{"ch": 32, "steps": 5}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= value if isinstance(value, Mapping) else {name: value}
    return flat
