"""The command tree as completions need it: commands, their flags and arguments, and what each of these may be.

Read from the program's own tree by attributes alone, which is all that the command line's library promises of it.
"""

import inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from values import Value, value_of

from taming_cli.config.fields import Kind

PROGRAM = "taming"
MADE_BY = "Made by scripts/completions from the commands of taming: run that again instead of changing this."


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag. `names` are its spellings, `opposite` those of its `--no-` form; any of them makes all others needless,
    unless it `repeats`. `takes` is None where no value follows."""

    names: tuple[str, ...]
    opposite: tuple[str, ...]
    help: str
    takes: Value | None
    metavar: str
    repeats: bool

    @property
    def spellings(self) -> tuple[str, ...]:
        """All of it, what turns it off included."""
        return self.names + self.opposite

    def help_of(self, spelling: str) -> str:
        """The help of one spelling."""
        return f"Turn {self.names[-1]} off." if spelling in self.opposite else self.help


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument by position; one that `repeats` is the last."""

    takes: Value
    metavar: str
    help: str
    repeats: bool


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command, or a group of them: `path` is what is typed to come there, and empty for the program itself."""

    path: tuple[str, ...]
    help: str
    flags: tuple[Flag, ...]
    arguments: tuple[Argument, ...]
    commands: tuple["Command", ...]

    @property
    def key(self) -> str:
        """`tokens merge`."""
        return " ".join(self.path)

    def walk(self) -> Iterator["Command"]:
        """This one and all below it."""
        yield self
        for command in self.commands:
            yield from command.walk()


def read(command: Any, path: tuple[str, ...] = (), help_names: tuple[str, ...] = ("--help",)) -> Command:
    """The tree below a command of `typer.main.get_command`, without what it hides."""
    help_names = tuple((command.context_settings or {}).get("help_option_names", help_names))
    known = _kinds(command)
    flags, arguments = [], []
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        if parameter.param_type_name == "option":
            flags.append(_flag(path, parameter, known.get(parameter.name)))
        else:
            arguments.append(_argument(path, parameter, known.get(parameter.name)))
    told = Flag(
        names=help_names, opposite=(), help="Show this message and exit.", takes=None, metavar="", repeats=False
    )
    below = getattr(command, "commands", {})
    return Command(
        path=path,
        help=_first_sentence(command.help or ""),
        flags=(*flags, told),
        arguments=tuple(arguments),
        commands=tuple(read(each, (*path, name), help_names) for name, each in below.items() if not each.hidden),
    )


def _kinds(command: Any) -> dict[str, Kind]:
    """The kind of each parameter that is annotated with one, by its name in Python."""
    parameters = inspect.signature(command.callback).parameters if command.callback else {}
    return {
        name: extra
        for name, parameter in parameters.items()
        for extra in getattr(parameter.annotation, "__metadata__", ())
        if isinstance(extra, Kind)
    }


def _flag(path: tuple[str, ...], option: Any, kind: Kind | None) -> Flag:
    metavar = option.metavar or ""
    alone = option.is_flag or option.count
    takes = None if alone else value_of(path, tuple(option.opts), _hint(option), metavar, option.help or "", kind)
    return Flag(
        names=tuple(option.opts),
        opposite=tuple(option.secondary_opts),
        help=_line(option.help or ""),
        takes=takes,
        metavar=metavar or _base(option),
        repeats=bool(option.multiple or option.count),
    )


def _argument(path: tuple[str, ...], argument: Any, kind: Kind | None) -> Argument:
    metavar = argument.metavar or argument.name.upper()
    return Argument(
        takes=value_of(path, (metavar,), _hint(argument), metavar, argument.help or "", kind),
        metavar=metavar,
        help=_line(argument.help or ""),
        repeats=argument.nargs == -1,
    )


def _hint(parameter: Any) -> Any:
    """The type of one value: `list[Path]` is of Paths."""
    hint = parameter.type_descriptor.annotation
    return typing.get_args(hint)[0] if typing.get_origin(hint) is list else hint


def _base(parameter: Any) -> str:
    return {int: "N", float: "X"}.get(_hint(parameter), "VALUE")


def _line(text: str) -> str:
    """One line, without the backslashes that keep brackets from being markup."""
    return " ".join(text.replace("\\[", "[").split())


def _first_sentence(text: str) -> str:
    return _line(text.split("\n\n", maxsplit=1)[0]).split(". ", maxsplit=1)[0].removesuffix(".")
