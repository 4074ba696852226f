"""The completions for zsh: a function for each command, by zsh's own `_arguments`."""

from collections.abc import Iterator
from pathlib import Path

from tree import MADE_BY, Argument, Command, Flag
from values import ANY, Value

ENGINE = Path(__file__).with_name("engine.zsh")


def render(root: Command) -> str:
    """The file."""
    functions = "\n\n".join(_function(command) for command in root.walk())
    return f"""#compdef taming
# Completions of taming for zsh.
# {MADE_BY}

{functions}

{ENGINE.read_text()}"""


def _function(command: Command) -> str:
    name = "-".join(("_taming", *command.path))
    specifications = [each for flag in command.flags for each in _flag(flag)]
    if command.commands:
        below = [_quoted(f"{each.path[-1]}:{_escaped(each.help, ':')}") for each in command.commands]
        lines = [f"_taming_group {name}", *below, "--", *specifications]
    else:
        arguments = [_argument(number, each) for number, each in enumerate(command.arguments, start=1)]
        lines = ["_arguments -s -S", *specifications, *arguments]
    return f"{name}() {{\n    " + " \\\n        ".join(lines) + "\n}"


def _flag(flag: Flag) -> Iterator[str]:
    """`'(-o --out)'{-o+,--out=}'[help]:PATH:action'`: one for the flag, one for its opposite."""
    said = flag.names[-1].lstrip("-") if "|" in flag.metavar else flag.metavar
    value = "" if flag.takes is None else f":{_escaped(said, ':')}:{_action(flag.takes)}"
    before = "*" if flag.repeats else f"({' '.join(flag.spellings)})" if len(flag.spellings) > 1 else ""
    for names in filter(None, (flag.names, flag.opposite)):
        after = _quoted(f"[{_escaped(flag.help_of(names[0]), '[]')}]{value}")
        marked = [name + _mark(name, flag) for name in names]
        together = f"{{{','.join(marked)}}}" if len(marked) > 1 else marked[0]
        yield (_quoted(before) if before else "") + together + after


def _mark(name: str, flag: Flag) -> str:
    """How a value may follow: --out=X, -oX, or in both cases as the next word."""
    if flag.takes is None:
        return ""
    return "=" if name.startswith("--") else "+"


def _argument(number: int, argument: Argument) -> str:
    place = "*" if argument.repeats else str(number)
    return _quoted(f"{place}:{_escaped(argument.metavar, ':')}:{_action(argument.takes)}")


def _action(value: Value) -> str:
    """What `_arguments` does for a value."""
    files = None if value.suffixes is None else _files(value.suffixes)
    words = " ".join(value.words)
    if value.keys or (words and files):
        bare = "bare" if value.bare else ""
        return f'{{_taming_mixed "{" ".join(value.keys)}" "{words}" "{bare}" {files}}}'
    if value.many:
        return f"{{_values -s , choice {words}}}"
    return f"({words})" if words else files or " "


def _files(suffixes: tuple[str, ...]) -> str:
    if ANY in suffixes:
        return "_files"
    if not suffixes:
        return "_path_files -/"
    return f'_files -g "(#i)*({"|".join(suffixes)})(-.)"'


def _escaped(text: str, special: str) -> str:
    return "".join(f"\\{each}" if each in special + "\\" else each for each in text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
