"""`presets`: list and print the named sets of settings."""

from typing import Annotated, Any

import typer

from taming_cli.cli.command import Group, command
from taming_cli.cli.console import Output
from taming_cli.config.presets import CONFIGS, PRESETS, preset


@command("ls")
def ls(output: Output) -> int:
    """List the presets."""
    output.result(
        [f"{name:<12} {value.about}" for name, value in PRESETS.items()],
        {name: value.about for name, value in PRESETS.items()},
        short=list(PRESETS),
    )
    return 0


@command("show")
def show(output: Output, name: Annotated[str, typer.Argument(metavar="NAME", help="|".join(PRESETS))]) -> int:
    """Print all settings of a preset, as a file for --config."""
    from taming_cli.config.fields import to_dict
    from taming_cli.config.resolve import Layer, resolve

    chosen = preset(name)
    values: dict[str, dict[str, Any]] = {}
    for command_name, groups in CONFIGS.items():
        values[command_name] = {}
        layer = Layer(f"preset {name}", chosen.of(command_name))
        for config in resolve([*groups.values()], [layer]).configs:
            values[command_name] |= to_dict(config)
    lines = []
    for command_name, settings in values.items():
        lines.append(f"[{command_name}]")
        lines += [f"{key} = {_toml(value)}" for key, value in settings.items() if value is not None]
    output.result(lines, values, short=lines)
    return 0


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


PRESET_COMMANDS = Group("presets", "List and print the named sets of settings.", (ls, show))
