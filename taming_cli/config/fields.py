"""Config fields: each is declared once, with its default, help text and limits. This module checks them and converts
them to and from JSON.

A config is a frozen keyword-only dataclass whose fields are created by `option` and whose `__post_init__` calls
`check`. Flags, `TAMING_*` variables, `--config` files and `config.json` all go through `parse` and `from_dict`, so a
value has the same meaning in each of them.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Literal, TypeVar, Union

from taming_cli.config.ramp import Ramp
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

Config = TypeVar("Config")

MOST_NAMED = 24
"""Largest number of names that a message lists."""


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    flag: str | None = None,
    metavar: str | None = None,
    hidden: bool = False,
    live: bool = False,
) -> Any:
    """Create a dataclass field with the help text, inclusive limits and metavar of its flag.

    `flag` replaces the default name of the flag, such as `--learning-rate` for `learning_rate`. A `hidden` field has no
    flag; its value can come from a preset or a config file only. A `live` field may change when a run is resumed: it
    affects how long or on which hardware the run computes, but not its result.
    """
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "flag": flag,
        "metavar": metavar,
        "hidden": hidden,
        "live": live,
    }
    return dataclasses.field(default=default, metadata=metadata)


class Kind(typing.NamedTuple):
    """The parts of a field's type: `tuple[int, ...]` is base int, many; `Size | None` is base Size, optional."""

    base: type
    choices: tuple[str, ...]
    many: bool
    optional: bool


def kinds(config: type[Any]) -> Mapping[str, Kind]:
    """The kind of each field of a config dataclass, in order."""
    return _kinds(typing.cast(Hashable, config))


@functools.cache  # reading the annotations of a class takes a tenth of a millisecond, and is done for each field
def _kinds(config: Hashable) -> Mapping[str, Kind]:
    assert isinstance(config, type)
    hints = typing.get_type_hints(config)
    kinds_by_name = {field.name: _kind(hints[field.name]) for field in dataclasses.fields(config)}
    return types.MappingProxyType(kinds_by_name)  # read-only, since all callers share it


def _kind(hint: Any) -> Kind:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        if inner == [float, Ramp]:
            return _kind(Ramp)
        return _kind(*inner)._replace(optional=True)
    if origin is Literal:
        return Kind(str, arguments, many=False, optional=False)
    if origin is tuple:
        return _kind(arguments[0])._replace(many=True)
    return Kind(hint, (), many=False, optional=False)


def flag_name(field: dataclasses.Field[Any]) -> str:
    """`learning_rate` -> `--learning-rate`, unless the field defines its own flag."""
    return str(field.metadata.get("flag") or "--" + field.name.replace("_", "-"))


def parse(config: type, name: str, text: str, where: str) -> Any:
    """The value of field `name` from the text of a flag or an environment variable. UsageError names `where`."""
    kind = kinds(config)[name]
    if kind.optional and text.lower() == "none" and "none" not in kind.choices:
        return None
    parts = [part for part in text.split(",") if part.strip()] if kind.many else [text]
    values = [_parse_one(kind, part.strip(), where) for part in parts]
    return tuple(values) if kind.many else values[0]


def _parse_one(kind: Kind, text: str, where: str) -> Any:
    if kind.base is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise UsageError(f"{where}: {text!r} is neither true nor false")
    if kind.base is Size:
        return Size.parse(text)
    if kind.base is Ramp:
        try:
            return Ramp.parse(text)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    if kind.base in (int, float):
        try:
            return kind.base(text)
        except ValueError:
            number = "a whole number" if kind.base is int else "a number"
            raise UsageError(f"{where}: {text!r} is not {number}") from None
    return text


def check(config: Any) -> None:
    """UsageError for a value outside its field's type, choices or limits; it names field, value and remedy."""
    kind_of = kinds(type(config))
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), kind_of[field.name]
        if value is None and kind.optional:
            continue
        if kind.many and not isinstance(value, tuple):
            raise UsageError(f"{field.name} is {value!r}; give a list")
        for one in value if kind.many else (value,):
            _check_one(field, kind, one)


def check_training(config: Any) -> None:
    """UsageError for a training without a limit of its length, or with other than two betas."""
    check(config)
    if not config.steps and not config.minutes:
        raise UsageError("steps and minutes are both 0; limit the training with --steps or --minutes")
    if len(config.betas) != 2:
        usual = ",".join(map(str, type(config).betas))
        raise UsageError(f"betas is {config.betas}; give two, like {usual}")


def _check_one(field: dataclasses.Field[Any], kind: Kind, value: Any) -> None:
    if kind.choices:
        if value not in kind.choices:
            raise UsageError(f"{field.name} is {value!r}; {one_of(kind.choices, str(value))}")
        return
    if isinstance(value, Ramp) and kind.base is Ramp:
        for end in (value.start, value.end):
            _check_one(field, kind, end)
        return
    accepted = (int, float) if kind.base in (float, Ramp) else kind.base
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind.base is not bool):
        raise UsageError(f"{field.name} is {value!r}; it must be {_article(kind.base)}")
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise UsageError(f"{field.name} is {value}; it must be finite")
        if low is not None and value < low:
            raise UsageError(f"{field.name} is {value}; it must be at least {low}")
        if high is not None and value > high:
            raise UsageError(f"{field.name} is {value}; it must be at most {high}")


_ARTICLES = {
    int: "a whole number",
    float: "a number",
    Ramp: "a number",
    bool: "true or false",
    str: "text",
    Size: "WIDTHxHEIGHT",
}


def _article(base: type) -> str:
    return _ARTICLES.get(base, base.__name__)


def one_of(valid: Iterable[str], wrong: str) -> str:
    """The end of a message that refuses a name: `did you mean 'x'? valid: x, y`."""
    from difflib import get_close_matches  # imported only for an error, since it takes time

    valid = list(valid)
    close = get_close_matches(wrong, valid, n=1)
    more = f", ... ({len(valid)} in all)" if len(valid) > MOST_NAMED else ""
    return (f"did you mean {close[0]!r}? " if close else "") + f"valid: {', '.join(valid[:MOST_NAMED])}{more}"


def to_dict(config: Any) -> dict[str, Any]:
    """A config as JSON values: sizes as `"WxH"`, nested configs as objects."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, Size | Ramp):
        return str(value)
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value


def from_dict(config: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """The inverse of `to_dict`. UsageError for an unknown key (with the nearest valid one) or a bad value."""
    known = kinds(config)
    if (unknown := next((name for name in values if name not in known), None)) is not None:
        raise UsageError(f"{where}: unknown key {unknown!r}; {one_of(known, unknown)}")
    try:
        return config(**{name: revive(config, name, value, where) for name, value in values.items()})
    except UsageError as error:
        raise UsageError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def revive(config: type, name: str, value: Any, where: str) -> Any:
    """Convert a JSON value to what field `name` of `config` holds: lists to tuples, text to sizes, objects to
    configs."""
    kind = kinds(config)[name]
    if isinstance(value, (list, tuple)) and kind.many:
        return tuple(_revive_one(kind, one, where) for one in value)
    return _revive_one(kind, value, where)


def _revive_one(kind: Kind, value: Any, where: str) -> Any:
    if kind.base in (Size, Ramp) and isinstance(value, str):
        return kind.base.parse(value)
    if dataclasses.is_dataclass(kind.base) and isinstance(value, Mapping):
        return from_dict(kind.base, value, where)
    if kind.base in (float, Ramp) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value
