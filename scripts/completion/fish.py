"""The completions for fish: a `complete` for each flag and argument, with a condition that says at which commands."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tree import MADE_BY, Command, Flag
from values import ANY, Value

ENGINE = Path(__file__).with_name("engine.fish")


def render(root: Command) -> str:
    """The file."""
    return f"""# Completions of taming for fish.
# {MADE_BY}

# The commands of a group.
function __taming_commands
    switch "$argv"
{_lines(_groups(root), 8)}
    end
end

# Whether a command's flag takes a value.
function __taming_takes
    switch $argv[1]
{_lines(_takes(root), 8)}
        case '*'
            return 1
    end
end

{ENGINE.read_text()}
complete -c taming -f

{_lines(_commands(root))}

{_lines(_arguments(root))}

{_lines(_flags(root))}
"""


def _groups(root: Command) -> Iterator[str]:
    for command in root.walk():
        if command.commands:
            below = " ".join(each.path[-1] for each in command.commands)
            yield f"case {_quoted(command.key)}\n            printf '%s\\n' {below}"


def _takes(root: Command) -> Iterator[str]:
    for command in root.walk():
        flags = " ".join(name for flag in command.flags if flag.takes is not None for name in flag.names)
        if flags:
            yield f"case {_quoted(command.key)}\n            contains -- $argv[2] {flags}"


def _commands(root: Command) -> Iterator[str]:
    for command in root.walk():
        for below in command.commands:
            condition = _quoted(f"__taming_at 0 {_quoted(command.key)}")
            yield f"complete -c taming -n {condition} -a {below.path[-1]} -d {_quoted(below.help)}"


def _arguments(root: Command) -> Iterator[str]:
    """One line for what the same arguments of several commands may be."""
    where: dict[tuple[str, Value], list[str]] = {}
    for command in root.walk():
        for number, argument in enumerate(command.arguments):
            test = f"__taming_from {number}" if argument.repeats else f"__taming_at {number}"
            where.setdefault((test, argument.takes), []).append(command.key)
    for (test, value), commands in where.items():
        if candidates := _candidates(value):
            yield f"complete -c taming -n {_quoted(f'{test} {_listed(commands)}')} -a {_quoted(candidates)}"


def _flags(root: Command) -> Iterator[str]:
    """One line for the same flag of several commands, and one for its opposite."""
    where: dict[Flag, list[str]] = {}
    for command in root.walk():
        for flag in command.flags:
            where.setdefault(flag, []).append(command.key)
    for flag, commands in where.items():
        needless = "" if flag.repeats else " ".join(flag.spellings)
        condition = _quoted(f"__taming_may {_quoted(needless)} {_listed(commands)}")
        for names in filter(None, (flag.names, flag.opposite)):
            spelt = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in names)
            line = f"complete -c taming -n {condition} {spelt} -d {_quoted(flag.help_of(names[0]))}"
            if flag.takes is not None:
                candidates = _candidates(flag.takes)
                line += f" -x -a {_quoted(candidates)}" if candidates else " -x"
            yield line


def _candidates(value: Value) -> str:
    """What `complete -a` takes."""
    if value.many:
        return f"(__taming_list {' '.join(value.words)})"
    parts = [f"{word}\\t" for word in value.words]  # the tab: without a help of its own it would show the flag's
    if value.keys:
        parts.append(f"(__taming_keys {' '.join(value.keys)})")
    if value.suffixes is not None:
        of_key = "" if value.bare else "_of_key"
        ends = "''" if ANY in value.suffixes else " ".join(value.suffixes)
        parts.append(f"(__taming_files{of_key} {ends})".replace(" )", ")"))
    return " ".join(parts)


def _listed(commands: Iterable[str]) -> str:
    return " ".join(_quoted(command) if " " in command or not command else command for command in commands)


def _lines(lines: Iterator[str], indent: int = 0) -> str:
    return "\n".join(" " * indent + line for line in lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
