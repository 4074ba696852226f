"""The completions for bash: tables of what each command has, before the functions in engine.bash, which look there.

bash 3.2, that of macOS, is enough, and nothing else is needed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from tree import MADE_BY, Command
from values import ANY, Value

ENGINE = Path(__file__).with_name("engine.bash")

Entries = Mapping[tuple[str, str], str]
"""What to do, by command and by word."""


def render(root: Command) -> str:
    """The file."""
    flags = {
        (command.key, spelling): "return 1" if flag.takes is None else _set(flag.takes)
        for command in root.walk()
        for flag in command.flags
        for spelling in flag.spellings
    }
    helps = {(command.key, below.path[-1]): below.help for command in root.walk() for below in command.commands}
    for command in root.walk():
        helps |= {
            (command.key, spelling): flag.help_of(spelling) for flag in command.flags for spelling in flag.spellings
        }
    return f"""# Completions of taming for bash, 3.2 or newer; nothing else is needed.
# {MADE_BY}

# Sets what the command $1 has: its commands, its flags (commas between the spellings of one, + before one that may be
# repeated).
_taming_command() {{
    case $1 in
{_lines(_commands(root))}
    esac
}}

# Sets what a flag may be; $1 is `command flag`. Fails where it takes no value.
_taming_value_of_flag() {{
    case $1 in
{_lines(_cases(flags, usual=_set(Value())))}
    esac
}}

# Sets what an argument may be; $1 is `command number`, counted from 0. Fails where the command takes none there.
_taming_value_of_argument() {{
    case $1 in
{_lines(_arguments(root))}
    *) return 1 ;;
    esac
}}

# Sets the help of a command or a flag; $1 is `command word`.
_taming_help() {{
    case $1 in
{_lines(_cases({key: f"help={_quoted(text)}" for key, text in helps.items()}, usual="help="))}
    esac
}}

{ENGINE.read_text()}"""


def _commands(root: Command) -> Iterator[str]:
    for command in root.walk():
        groups = [("+" if flag.repeats else "") + ",".join(flag.spellings) for flag in command.flags]
        below = " ".join(each.path[-1] for each in command.commands)
        yield f"{_quoted(command.key)}) commands={_quoted(below)} flags={_quoted(' '.join(groups))} ;;"


def _arguments(root: Command) -> Iterator[str]:
    exact: dict[str, list[str]] = {}
    general: dict[str, list[str]] = {}
    for command in root.walk():
        for number, argument in enumerate(command.arguments):
            does = _set(argument.takes)
            if argument.repeats:
                general.setdefault(does, []).append(_quoted(f"{command.key} ") + "*")
            else:
                exact.setdefault(does, []).append(_quoted(f"{command.key} {number}"))
    yield from _branches(exact)
    yield from _branches(general)


def _set(value: Value) -> str:
    """The assignments that make the tables' variables say this value, from what they are without."""
    said = {
        "words": " ".join(value.words),
        "keys": " ".join(value.keys),
        "suffixes": None if value.suffixes is None else " ".join(("any",) if ANY in value.suffixes else value.suffixes),
        "many": "1" if value.many else "",
        "bare": None if value.bare else "",
    }
    unset = {"words": "", "keys": "", "many": ""}
    return " ".join(
        f"{name}={_quoted(text)}" for name, text in said.items() if text is not None and text != unset.get(name)
    )


def _cases(entries: Entries, *, usual: str) -> Iterator[str]:
    """Branches of `case "command word"`: exceptions first, then what a word means in most commands; what is `usual`
    needs none."""
    words = dict.fromkeys(word for _, word in entries)
    by_word = {word: Counter(does for (_, each), does in entries.items() if each == word) for word in words}
    most = {word: counts.most_common(1)[0][0] for word, counts in by_word.items()}
    exact: dict[str, list[str]] = {}
    for (command, word), does in entries.items():
        if does != most[word]:
            exact.setdefault(does, []).append(_quoted(f"{command} {word}"))
    general: dict[str, list[str]] = {}
    for word, does in most.items():
        if does != usual:
            general.setdefault(does, []).append(f"*' {word}'")
    yield from _branches(exact)
    yield from _branches(general)


def _branches(patterns: Mapping[str, list[str]]) -> Iterator[str]:
    for does, each in patterns.items():
        yield f"{' | '.join(each)}) {does} ;;".replace(")  ;;", ") ;;")


def _lines(branches: Iterator[str]) -> str:
    return "\n".join(f"    {branch}" for branch in branches)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
