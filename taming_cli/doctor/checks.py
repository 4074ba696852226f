"""The checks, in the order of the report. A new one is a line here."""

import importlib
from collections.abc import Callable, Iterable
from functools import partial

from taming_cli.doctor.findings import Check, CommandLine, Finding


def checks(line: CommandLine | None = None) -> tuple[Check, ...]:
    """All checks; those of the environment are left out where nothing is known of the command `line`."""
    every = (
        Check(group="Versions", look=_of("installation", "versions")),
        Check(group="Devices", look=_of("machine", "devices")),
        Check(group="Precision", look=_of("machine", "precision")),
        Check(group="Weights", look=_of("pretrained", "needed")),
        Check(group="Weights", look=_of("pretrained", "others")),
        Check(group="Models", look=_of("models", "built_in")),
        Check(group="Pictures", look=_of("installation", "pictures")),
        Check(group="Folders", look=_of("places", "folders")),
        Check(group="Extras", look=_of("installation", "extras"), broken="note"),
    )
    if line is None:
        return every
    return (*every, Check(group="Environment", look=partial(_of("settings", "variables"), line)))


def _of(room: str, name: str) -> Callable[..., Iterable[Finding]]:
    """A function of a room beside this one, which is imported as it is called: an import that fails is a finding."""

    def look(*arguments: object) -> Iterable[Finding]:
        found: Iterable[Finding] = getattr(importlib.import_module(f"taming_cli.doctor.{room}"), name)(*arguments)
        return found

    return look
