"""Findings, and how checks run: a check that raises becomes a finding itself, and the others still run."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from taming_cli.errors import TamingError

Mark = Literal["ok", "note", "FAIL"]
"""FAIL: a default command would not work. A note is information, not a fault."""


class Finding(NamedTuple):
    """One line of the report; `values` are its data for programs."""

    mark: Mark
    name: str
    message: str
    values: Mapping[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check of one group. If `run` raises, that becomes a finding with the mark `broken`."""

    group: str
    run: Callable[[], Iterable[Finding]]
    broken: Mark = "FAIL"


class CommandLine(NamedTuple):
    """Functions of the command line: the parser of each environment variable of a flag, and `settle`, which resolves
    the settings of a command with given config classes. Both raise UsageError for invalid values."""

    flags: Mapping[str, Callable[[str], object]]
    settle: Callable[[Sequence[type[Any]], str], object]


class Report(NamedTuple):
    """Findings by group, in the order of the checks."""

    groups: Mapping[str, Sequence[Finding]]

    def marked(self, mark: Mark) -> list[Finding]:
        """All findings with a mark."""
        return [finding for findings in self.groups.values() for finding in findings if finding.mark == mark]

    @property
    def ok(self) -> bool:
        """Whether no finding is a failure."""
        return not self.marked("FAIL")


def examine(checks: Sequence[Check], on_check: Callable[[str], object] | None = None) -> Report:
    """Run the checks in order; `on_check` is called with the group of each. Exceptions of a check become findings, and
    warnings are suppressed."""
    groups: dict[str, list[Finding]] = {}
    for check in checks:
        if on_check is not None:
            on_check(check.group)
        earlier = [finding.message for findings in groups.values() for finding in findings if finding.mark == "FAIL"]
        groups.setdefault(check.group, []).extend(_safely(check, earlier))
    return Report({name: findings for name, findings in groups.items() if findings})


def _safely(check: Check, earlier: Sequence[str]) -> Iterator[Finding]:
    """The check's findings until it raises. If an earlier check failed for the same reason, that is only a note."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield from check.run()
        except Exception as error:
            reason = first_line(error)
            if any(reason in message for message in earlier):
                yield Finding("note", "not looked at", "for the same reason as before")
            else:
                yield Finding(check.broken, "not looked at", reason)


def first_line(error: BaseException) -> str:
    """An error in one line: its message, preceded by the class unless it is a TamingError."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return text if isinstance(error, TamingError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
