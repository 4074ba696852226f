"""typer's classes for commands and groups, whose `--help` prints no Python type beside a switch or an argument."""

from typing import Any

from typer.core import TyperCommand, TyperGroup


class _PlainHelp:
    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)  # type: ignore[misc]
        for each in params:
            if each.param_type_name == "argument":
                each.display_type_rich = lambda ctx: None
            elif each.is_flag:
                each.metavar = ""
        return params


class HelpCommand(_PlainHelp, TyperCommand):
    """A command."""


class HelpGroup(_PlainHelp, TyperGroup):
    """A group of commands."""
