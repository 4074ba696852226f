"""What a check finds, and how checks are run: one that breaks is a finding too, and none keeps another from looking."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from taming_cli.errors import TamingError

Mark = Literal["ok", "note", "FAIL"]
"""FAIL: something that a user needs by default would not work. A note is worth knowing, and no fault."""


class Finding(NamedTuple):
    """One line of the report; `values` are what a program may want of it."""

    mark: Mark
    name: str
    says: str
    values: Mapping[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Check:
    """Findings of one group. `look` may raise anything: that is a finding of the mark `broken`."""

    group: str
    look: Callable[[], Iterable[Finding]]
    broken: Mark = "FAIL"


class CommandLine(NamedTuple):
    """What only the command line knows: for each variable that a flag reads, what parses it; and how a command with
    these config classes settles its settings. Both raise UsageError for what they refuse."""

    flags: Mapping[str, Callable[[str], object]]
    settle: Callable[[Sequence[type[Any]], str], object]


class Report(NamedTuple):
    """Findings by group, in the order of the checks."""

    groups: Mapping[str, Sequence[Finding]]

    def marked(self, mark: Mark) -> list[Finding]:
        """All findings of a mark."""
        return [finding for findings in self.groups.values() for finding in findings if finding.mark == mark]

    @property
    def ok(self) -> bool:
        """Whether nothing fails."""
        return not self.marked("FAIL")


def examine(checks: Sequence[Check], on_check: Callable[[str], object] | None = None) -> Report:
    """Run the checks one by one; `on_check` is told the group that comes now. Raises nothing that a check
    raises, and lets no warning through: what is worth saying is a finding."""
    groups: dict[str, list[Finding]] = {}
    for check in checks:
        if on_check is not None:
            on_check(check.group)
        before = [finding.says for findings in groups.values() for finding in findings if finding.mark == "FAIL"]
        groups.setdefault(check.group, []).extend(_safely(check, before))
    return Report({name: findings for name, findings in groups.items() if findings})


def _safely(check: Check, before: Sequence[str]) -> Iterator[Finding]:
    """The check's findings, up to where it breaks. What broke an earlier one too fails once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield from check.look()
        except Exception as error:
            reason = first_line(error)
            if any(reason in says for says in before):
                yield Finding("note", "not looked at", "for the same reason as before")
            else:
                yield Finding(check.broken, "not looked at", reason)


def first_line(error: BaseException) -> str:
    """An error in one line: our own as it says itself, another one with its kind."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return text if isinstance(error, TamingError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
