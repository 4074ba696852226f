"""How a command declares its arguments and options, from which the signature that typer reads is built.

A command is a function under `@command("NAME")`. Each of its parameters is one of these:

- `images: Annotated[list[Path], typer.Argument(...)]` or `cond: Annotated[..., option("--cond", ...)] = None`: an
  argument or option of its own, in typer's form.
- `device: o.Device = "auto"`: an option that commands share, from `options.py`. The default is the command's own.
- `output: Output`: a group. A class without `Annotated` contributes the parameters of its constructor, by these same
  rules, and the command gets an instance. `Output` brings `--json` and `-q`; every command has `-v` and `--debug`.
- `config: Annotated[EdgesConfig, Panel("Edges")]`: a config class. Its fields become options in a panel of that title,
  and the command gets the resolved instance.
- `settings: Annotated[Settings, Panel("Training", CodecTrainConfig), ...]`: the same for a command that resolves its
  settings itself, because they also depend on a resumed run or a model file.
- `context: typer.Context`.

`--help` lists arguments, then the options named in `first`, the other own options, the config panels in order, and the
shared options.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import Field, fields
from operator import itemgetter
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import typer
from typer.models import ParameterInfo

from taming_cli.cli import options as o
from taming_cli.cli.help import HelpCommand, HelpGroup
from taming_cli.cli.lifecycle import running
from taming_cli.cli.settings import Settings
from taming_cli.config.fields import Kind, flag_name, kinds
from taming_cli.config.presets import CONFIGS, preset
from taming_cli.config.ramp import Ramp
from taming_cli.config.size import Size

WIDEST_METAVAR = 20
"""Characters of choices shown as a metavar. A longer list of choices goes into the help text."""
_SETTINGS = "settings of config classes"
"""The key of a command's `Settings` among its values; no parameter has such a name."""


class Panel(NamedTuple):
    """A panel of `--help` with the fields of a config class: by default the annotated class itself."""

    title: str
    config: type[Any] | None = None


class Command(NamedTuple):
    """A command as typer needs it: `callback` has the signature to read."""

    name: str
    help: str
    callback: Callable[..., int]


class Group(NamedTuple):
    """Commands below a common name, as `taming eval fid`."""

    name: str
    help: str
    commands: Sequence[Command]


def command(
    name: str, *, first: Sequence[str] = (), reads_pictures: bool = False, config_file: bool = False
) -> Callable[[Callable[..., int]], Command]:
    """A decorator that makes a command of a function, which returns the exit code.

    `first` names the parameters and config fields that `--help` lists first. `reads_pictures` adds `--max-pixels`.
    `config_file` adds `--config` to a command without config classes, for its shared options.
    """

    def decorate(function: Callable[..., int]) -> Command:
        signature = _Signature(name)
        call = signature.caller(function)
        signature.add("context", typer.Context, inspect.Parameter.empty)
        if config_file or signature.panels:
            signature.add("config", o.Config, None)
        if reads_pictures:
            signature.add("max_pixels", o.MaxPixels, None)
        signature.add("verbose", o.Verbose, False)
        signature.add("debug", o.Debug, False)
        classes = [config for panel in signature.panels if (config := panel.config) is not None]
        settled = frozenset(field.name for config in classes for field in fields(config))

        def callback(**values: Any) -> int:
            with running(values, settled):
                values[_SETTINGS] = Settings(
                    command=name,
                    classes=classes,
                    flags={field: values[field] for field in settled & values.keys()},
                    preset=values.get("preset"),
                    scale=values.get("scale"),
                    config_file=values.get("config"),
                )
                code = call(values)
                assert isinstance(code, int)
                return code

        parameters = signature.ordered(first)
        callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        callback.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        callback.settled = settled  # type: ignore[attr-defined]
        return Command(name, inspect.getdoc(function) or "", callback)

    return decorate


def register(app: typer.Typer, entry: Command | Group, panel: str | None = None) -> None:
    """Add a command or a group of commands to the program, in a panel of `--help`."""
    if isinstance(entry, Group):
        below = typer.Typer(cls=HelpGroup, help=entry.help, rich_markup_mode="rich")
        for each in entry.commands:
            register(below, each)
        app.add_typer(below, name=entry.name, rich_help_panel=panel)
    else:
        app.command(entry.name, cls=HelpCommand, help=entry.help, rich_help_panel=panel)(entry.callback)


class _Signature:
    """Collects a command's options from its parameters."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.panels: list[Panel] = []
        self._options: dict[str, inspect.Parameter] = {}

    def add(self, name: str, annotation: Any, default: Any) -> None:
        """Add one argument or option."""
        self._options[name] = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=_with_default(annotation, default), default=default
        )

    def caller(self, function: Callable[..., Any]) -> Callable[[Mapping[str, Any]], Any]:
        """Add the options of each parameter of a function or constructor. Returns a function that calls it with its
        arguments, given the values of all options."""
        takers = {name: self._taker(each) for name, each in inspect.signature(function).parameters.items()}
        return lambda values: function(**{name: take(values) for name, take in takers.items()})

    def _taker(self, parameter: inspect.Parameter) -> Callable[[Mapping[str, Any]], Any]:
        """Add the options of one parameter. Returns a function from the values of all options to its argument."""
        hint: Any = parameter.annotation
        extras: list[Any] = []
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
        if hint is typer.Context or any(isinstance(extra, ParameterInfo) for extra in extras):
            self.add(parameter.name, parameter.annotation, parameter.default)
            return itemgetter(parameter.name)
        panels = [Panel(extra.title, extra.config or hint) for extra in extras if isinstance(extra, Panel)]
        if not panels:
            return self.caller(hint)
        for panel in panels:
            self._add_panel(panel)
        if hint is Settings:
            return itemgetter(_SETTINGS)
        return lambda values: values[_SETTINGS].config(hint)

    def _add_panel(self, panel: Panel) -> None:
        assert panel.config is not None
        self.panels.append(panel)
        if self.name in CONFIGS:
            self.add("preset", o.PresetName, None)
            self.add("scale", o.Scale, None)
        of_tiny = preset("tiny").of(self.name)  # the preset for a CPU, whose values the help calls defaults
        for field, kind in zip(fields(panel.config), kinds(panel.config).values(), strict=True):
            if not field.metadata["hidden"]:
                default = of_tiny.get(field.name, field.default)
                self.add(field.name, _field_option(kind, field, default, panel.title), None)

    def ordered(self, first: Sequence[str]) -> list[inspect.Parameter]:
        """All options in the order of `--help`, which orders panels by their first option."""
        panels = [None, *(panel.title for panel in self.panels), o.SHARED, o.CONSOLE]
        rest = [parameter for name, parameter in self._options.items() if name not in first]
        rest.sort(key=lambda parameter: panels.index(_panel(parameter)))
        return [*(_without_panel(self._options[name]) for name in first), *rest]


def _panel(parameter: inspect.Parameter) -> str | None:
    extras = get_args(parameter.annotation)[1:]
    return next((extra.rich_help_panel for extra in extras if isinstance(extra, ParameterInfo)), None)


def _without_panel(parameter: inspect.Parameter) -> inspect.Parameter:
    hint, *extras = map(copy, get_args(parameter.annotation))
    for extra in extras:
        if isinstance(extra, ParameterInfo):
            extra.rich_help_panel = None
    return parameter.replace(annotation=Annotated[hint, *extras])


def _with_default(annotation: Any, default: Any) -> Any:
    """The annotation of an argument or option with its default in the help text, as for config fields."""
    hint, *extras = map(copy, get_args(annotation)) if get_origin(annotation) is Annotated else (annotation,)
    for extra in extras:
        if isinstance(extra, ParameterInfo):
            extra.help, extra.show_default = f"{extra.help}{_default_text(default)}", False
    return Annotated[hint, *extras] if extras else annotation


def _field_option(kind: Kind, field: Field[Any], default: Any, panel: str) -> Any:
    """The option of a config field. One that takes a value is annotated with its `Kind` too, which completions read."""
    name, help_text = flag_name(field), field.metadata["help"] + _default_text(default)
    if kind.base is bool:
        negative = f"/--no-{name.removeprefix('--')}" if default is True else ""
        return Annotated[bool | None, o.option(name + negative, help=help_text, panel=panel)]
    choices = "|".join(kind.choices)
    if len(choices) > WIDEST_METAVAR:
        choices, help_text = "NAME", f"{help_text} One of {', '.join(kind.choices)}."
    base = {int: "N", float: "X", str: "TEXT", Size: "WxH", Ramp: "X[:Y]"}.get(kind.base)
    metavar = field.metadata["metavar"] or choices or base or ""
    if kind.many:
        metavar = f"{metavar},..."
    return Annotated[str | None, o.option(name, metavar=metavar, help=help_text, panel=panel), kind]


def _default_text(value: Any) -> str:
    """` Default 8.`, or nothing for a default that means "none"."""
    if value in (None, (), inspect.Parameter.empty) or value is False:
        return ""
    if value is True:
        return " On by default."
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return f" Default {value:g}." if isinstance(value, float) else f" Default {value}."
