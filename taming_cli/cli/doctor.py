"""`doctor`: whether what a user needs works here."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer
from typer.exceptions import TyperException

from taming_cli.cli import options as o
from taming_cli.cli.console import Output
from taming_cli.cli.sheet import Sheet
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.doctor.findings import CommandLine, Report

STYLES = {"ok": "green", "note": "yellow", "FAIL": "bold red"}
_WIDEST = 18
"""Characters of a name that stand beside what is said of it; after a longer one it follows."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", rich_help_panel="Look")(doctor)


def doctor(context: typer.Context, json: o.Json = False, quiet: o.Quiet = False, debug: o.Debug = False) -> int:
    """Check versions, devices, precision, weights, folders, settings: exit code 1 where something needed would fail."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.doctor.checks import checks
    from taming_cli.doctor.findings import examine

    every = checks(_command_line(context))
    with contextlib.ExitStack() as while_looking:
        say = None
        if output.errors.is_terminal and not quiet:
            say = while_looking.enter_context(output.errors.status("looking")).update
        report = examine(every, on_check=lambda group: say and say(f"looking at {group.lower()}"))
    output.result(_page(report), _values(report), short=_short(report))
    return 0 if report.ok else 1


def _page(report: "Report") -> str:
    sheet = Sheet()
    names = [each.name for findings in report.groups.values() for each in findings]
    widest = max((len(name) for name in names if len(name) <= _WIDEST), default=0)
    for group, findings in report.groups.items():
        sheet.line((group, "bold"))
        for each in findings:
            sheet.line("  ", (f"{each.mark:<4}", STYLES[each.mark]), f"  {each.name:<{widest}}  ", says=each.message)
        sheet.line("")
    notes, faults = len(report.marked("note")), len(report.marked("FAIL"))
    noted = f"{notes} note{'s' * (notes != 1)}"
    if faults:
        sheet.line((f"{faults} failure{'s' * (faults != 1)}", STYLES["FAIL"]), f", {noted}")
    else:
        sheet.line(("No failure", STYLES["ok"]), f", {noted}")
    return str(sheet)


def _short(report: "Report") -> str:
    return "\n".join(f"FAIL {each.name}: {each.message}" for each in report.marked("FAIL")) or "ok"


def _values(report: "Report") -> dict[str, Any]:
    groups = {
        group: [{"mark": each.mark, "name": each.name, "says": each.message, **each.values} for each in findings]
        for group, findings in report.groups.items()
    }
    notes, faults = len(report.marked("note")), len(report.marked("FAIL"))
    return {"ok": report.ok, "failures": faults, "notes": notes, "groups": groups}


def _command_line(context: typer.Context) -> "CommandLine":
    """What each variable is parsed by that a flag of any command reads, and how settings are settled."""
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
    return CommandLine(flags, lambda classes, command: o.settle(classes, {}, command=command))


def _parameters(command: Any) -> Iterator[Any]:
    yield from command.params
    for child in getattr(command, "commands", {}).values():
        yield from _parameters(child)


def _variables(parameter: Any) -> list[str]:
    named = getattr(parameter, "envvar", None) or []
    return [named] if isinstance(named, str) else list(named)
