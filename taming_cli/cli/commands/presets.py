"""`presets`: list and print the named sets of settings."""

from typing import Annotated, Any

import typer

from taming_cli.cli.command import Group, command
from taming_cli.cli.console import Output
from taming_cli.config.presets import PRESETS, preset


@command("ls")
def ls(output: Output) -> int:
    """List the presets."""
    output.result(
        "\n".join(f"{name:<12} {value.about}" for name, value in PRESETS.items()),
        {name: value.about for name, value in PRESETS.items()},
        short="\n".join(PRESETS),
    )
    return 0


@command("show")
def show(output: Output, name: Annotated[str, typer.Argument(metavar="NAME", help="|".join(PRESETS))]) -> int:
    """Print all settings of a preset, as a file for --config."""
    from taming_cli.config.codec import CodecConfig, CodecTrainConfig, DiscriminatorConfig
    from taming_cli.config.fields import to_dict
    from taming_cli.config.prior import PriorConfig, PriorTrainConfig
    from taming_cli.config.resolve import Layer, resolve

    chosen = preset(name)
    stages = {
        "train-vqgan": ((CodecConfig, DiscriminatorConfig, CodecTrainConfig), chosen.codec),
        "train-prior": ((PriorConfig, PriorTrainConfig), chosen.prior),
    }
    values: dict[str, dict[str, Any]] = {}
    for stage, (classes, layer) in stages.items():
        values[stage] = {}
        for config in resolve(classes, [Layer(f"preset {name}", layer)]).configs:
            values[stage] |= to_dict(config)
    lines = []
    for stage, settings in values.items():
        lines.append(f"[{stage}]")
        lines += [f"{key} = {_toml(value)}" for key, value in settings.items() if value is not None]
    output.result("\n".join(lines), values, short="\n".join(lines))
    return 0


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


PRESET_COMMANDS = Group("presets", "List and print the named sets of settings.", (ls, show))
