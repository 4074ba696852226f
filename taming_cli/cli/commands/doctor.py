"""`doctor`: check whether everything works on this machine."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer
from typer.exceptions import TyperException

from taming_cli.cli.command import command
from taming_cli.cli.console import Output
from taming_cli.cli.settings import Settings
from taming_cli.cli.styled_text import StyledText
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.doctor.findings import CommandLine, Report

STYLES = {"ok": "green", "note": "yellow", "FAIL": "bold red"}
_WIDEST = 18
"""Characters of the column of names; the text of a longer name follows it directly."""


@command("doctor")
def doctor(context: typer.Context, output: Output) -> int:
    """Check versions, devices, precision, weights, folders and settings. Exit code 1 if something needed would fail."""
    from taming_cli.doctor.checks import checks
    from taming_cli.doctor.findings import examine

    every = checks(_command_line(context))
    with contextlib.ExitStack() as stack:
        show = None
        if output.errors.is_terminal and not output.quiet:
            show = stack.enter_context(output.errors.status("checking")).update
        report = examine(every, on_check=lambda group: show and show(f"checking {group.lower()}"))
    output.result(_page(report), _values(report), short=_short(report))
    return 0 if report.ok else 1


def _page(report: "Report") -> StyledText:
    text = StyledText()
    names = [each.name for findings in report.groups.values() for each in findings]
    widest = max((len(name) for name in names if len(name) <= _WIDEST), default=0)
    for group, findings in report.groups.items():
        text.line((group, "bold"))
        for each in findings:
            text.line("  ", (f"{each.mark:<4}", STYLES[each.mark]), f"  {each.name:<{widest}}  ", wrapped=each.message)
        text.line("")
    notes, faults = len(report.marked("note")), len(report.marked("FAIL"))
    noted = f"{notes} note{'s' * (notes != 1)}"
    if faults:
        text.line((f"{faults} failure{'s' * (faults != 1)}", STYLES["FAIL"]), f", {noted}")
    else:
        text.line(("No failure", STYLES["ok"]), f", {noted}")
    return text


def _short(report: "Report") -> list[str]:
    return [f"FAIL {each.name}: {each.message}" for each in report.marked("FAIL")] or ["ok"]


def _values(report: "Report") -> dict[str, Any]:
    groups = {
        group: [{"mark": each.mark, "name": each.name, "says": each.message, **each.values} for each in findings]
        for group, findings in report.groups.items()
    }
    notes, faults = len(report.marked("note")), len(report.marked("FAIL"))
    return {"ok": report.ok, "failures": faults, "notes": notes, "groups": groups}


def _command_line(context: typer.Context) -> "CommandLine":
    """The parser of each environment variable that an option of any command reads, and how settings are resolved."""
    from taming_cli.doctor.findings import CommandLine

    def parser(parameter: Any) -> Callable[[str], object]:
        def parse(text: str) -> object:
            try:
                return parameter.process_value(context, text)
            except TyperException as error:
                raise UsageError(f"{text!r}: {getattr(error, 'message', error)}") from None

        return parse

    every = _parameters(context.find_root().command)
    flags = {name: parser(parameter) for parameter in every for name in _variables(parameter)}
    return CommandLine(flags, lambda classes, command: Settings(command=command, flags={}).resolve(*classes))


def _parameters(command: Any) -> Iterator[Any]:
    yield from command.params
    for child in getattr(command, "commands", {}).values():
        yield from _parameters(child)


def _variables(parameter: Any) -> list[str]:
    named = getattr(parameter, "envvar", None) or []
    return [named] if isinstance(named, str) else list(named)
