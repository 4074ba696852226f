"""The list of checks, in the order of the report."""

import importlib
from collections.abc import Callable, Iterable
from functools import partial

from taming_cli.doctor.findings import Check, CommandLine, Finding


def checks(line: CommandLine | None = None) -> tuple[Check, ...]:
    """All checks; without a command `line`, that of the environment is left out."""
    every = (
        Check(group="Versions", run=_of("installation", "versions")),
        Check(group="Devices", run=_of("machine", "devices")),
        Check(group="Precision", run=_of("machine", "precision")),
        Check(group="Weights", run=_of("pretrained", "needed")),
        Check(group="Weights", run=_of("pretrained", "others")),
        Check(group="Models", run=_of("models", "built_in")),
        Check(group="Pictures", run=_of("installation", "pictures")),
        Check(group="Folders", run=_of("places", "folders")),
        Check(group="Extras", run=_of("installation", "extras"), broken="note"),
    )
    if line is None:
        return every
    return (*every, Check(group="Environment", run=partial(_of("settings", "variables"), line)))


def _of(module: str, name: str) -> Callable[..., Iterable[Finding]]:
    """A check function of a module in this package, imported when it is called: a failing import is a finding."""

    def run(*arguments: object) -> Iterable[Finding]:
        findings: Iterable[Finding] = getattr(importlib.import_module(f"taming_cli.doctor.{module}"), name)(*arguments)
        return findings

    return run
