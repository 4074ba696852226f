"""Flags: those every command shares, and those derived from the fields of config dataclasses."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from taming_cli.config.fields import flag_name, kinds
from taming_cli.config.presets import MAPS, PRESETS, preset
from taming_cli.config.resolve import COMMANDS, Layer, Resolved, from_environment, from_file, from_flags, resolve
from taming_cli.config.shard import Shard
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

SHARED, OUTPUT = "Where and how", "What is printed"
WIDEST_METAVAR = 24
"""Characters of choices that a metavar shows; more are listed in the help text."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def _option(*names: str, help: str, metavar: str | None = None, panel: str = SHARED, envvar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel, envvar=envvar, show_default=False)


Out = Annotated[Path | None, _option("-o", "--out", metavar="PATH", help="Run folder, output folder or file.")]
Name = Annotated[str | None, _option("--name", metavar="NAME", help="The run's name under runs/; else it counts up.")]
Resume = Annotated[bool, _option("--resume", help="Go on with the newest run, or with the one named.")]
Config = Annotated[Path | None, _option("--config", metavar="FILE", help="TOML or JSON file of settings.")]
PresetName = Annotated[
    str | None,
    _option("--preset", metavar="|".join(PRESETS), help="A set of settings; else tiny, on a GPU small."),
]
Weights = Annotated[
    Path | None,
    _option(
        "--weights", metavar="PATH", help="Pretrained weights: a file, or a folder of them.", envvar="TAMING_WEIGHTS"
    ),
]
Offline = Annotated[bool, _option("--offline", help="Never download.", envvar="TAMING_OFFLINE")]
DryRun = Annotated[bool, _option("--dry-run", help="Say what would be done, and write nothing.")]
Ckpt = Annotated[
    Path | None,
    _option("--ckpt", metavar="FILE", help="Model file; else $TAMING_CKPT, else the newest run's."),
]
Nproc = Annotated[
    int,
    _option("--nproc", metavar="N", help="Processes on this machine that share each batch, each on its own GPU."),
]
Device = Annotated[
    str, _option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.", envvar="TAMING_DEVICE")
]
Precision = Annotated[
    str,
    _option("--precision", metavar="|".join(PRECISIONS), help="Arithmetic of the networks.", envvar="TAMING_PRECISION"),
]
Workers = Annotated[
    int,
    typer.Option(
        "--workers", min=0, help="Threads that read pictures.", rich_help_panel=SHARED, envvar="TAMING_WORKERS"
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Pictures at once.", envvar="TAMING_BATCH_SIZE")]
SizeText = Annotated[
    str | None,
    typer.Option(
        "--size", metavar="WxH", help="Size of the pictures; by default the codec's own.", envvar="TAMING_SIZE"
    ),
]
ShardText = Annotated[
    str | None,
    _option(
        "--shard",
        metavar="I/N",
        help="Do every N-th picture, from the I-th: a part of the work.",
        envvar="TAMING_SHARD",
    ),
]
Json = Annotated[bool, _option("--json", help="Print the result as JSON.", panel=OUTPUT)]
Quiet = Annotated[bool, _option("-q", "--quiet", help="Print only the path or the number.", panel=OUTPUT)]
Debug = Annotated[bool, _option("--debug", help="Show the traceback of an error.", panel=OUTPUT)]


def own_part(shard: str | None) -> Shard:
    """The part of the work that is this process's: as named, else the one that its number among those of torchrun or
    srun gives it. UsageError for both at once."""
    from taming_cli.runtime.distributed import started

    together = started()
    if shard is None:
        return Shard(together.rank + 1, together.size)
    if together.size > 1:
        raise UsageError(f"--shard {shard} names a part, and so does this process's number; leave one of them out")
    return Shard.parse(shard)


def skipped_code(skipped: object) -> int:
    """3 where inputs were skipped; but 0 of one of several processes: torch's launcher would take it for a failure and
    end the others."""
    from taming_cli.runtime.distributed import started

    return 3 if skipped and started().size == 1 else 0


def with_flags(**panels: type[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: the command takes the fields of the given config classes as flags, as `flags: dict[str, Any]`.

    The keyword is the title of the flags' panel in `--help`, underscores as spaces.
    """
    taken = {
        field.name: _flag(config, field, panel.replace("_", " "))
        for panel, config in panels.items()
        for field in fields(config)
        if not field.metadata["hidden"]
    }

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command)
        own = [parameter for name, parameter in signature.parameters.items() if name != "flags"]

        def wrapper(**arguments: Any) -> Any:
            flags = {name: arguments.pop(name) for name in taken}
            return command(**arguments, flags=flags)

        extra = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in taken.items()
        ]
        keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        wrapper.__signature__ = inspect.Signature(keywords + extra)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in keywords + extra}
        wrapper.__doc__, wrapper.__name__ = command.__doc__, command.__name__
        return wrapper

    return decorate


def _flag(config: type[Any], field: Field[Any], panel: str) -> Any:
    kind, name = kinds(config)[field.name], flag_name(field)
    help_text = field.metadata["help"] + _said_default(field)
    if kind.base is bool:
        negative = f"/--no-{name.removeprefix('--')}" if field.default is True else ""
        return Annotated[bool | None, _option(name + negative, help=help_text, panel=panel)]
    choices = "|".join(kind.choices)
    if len(choices) > WIDEST_METAVAR:
        choices, help_text = "NAME", f"{help_text} One of {', '.join(kind.choices)}."
    base = {int: "N", float: "X", str: "TEXT", Size: "WxH"}.get(kind.base)
    metavar = field.metadata["metavar"] or choices or base
    if kind.many:
        metavar = f"{metavar},..."
    return Annotated[str | None, _option(name, metavar=metavar, help=help_text, panel=panel)]


def _said_default(field: Field[Any]) -> str:
    """` Default 8.`, or nothing where there is no default worth saying."""
    value = field.default
    if value is None or value == () or value is False:
        return ""
    if value is True:
        return " On by default."
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return f" Default {value:g}." if isinstance(value, float) else f" Default {value}."


def settle(
    classes: Sequence[type[Any]],
    flags: Mapping[str, Any],
    *,
    command: str,
    preset_name: str | None = None,
    config_file: Path | None = None,
    recorded: Mapping[str, Any] | None = None,
    fixed: Layer | None = None,
) -> Resolved:
    """The command's configs from all origins.

    `command` says which half of a preset counts, if any. `recorded` is a resumed run's config, over which only flags
    count. `fixed` is what a model file says of the architecture; it stands below the flags, which must agree with it.
    """
    given = from_flags(classes, flags)
    if recorded is not None:
        if preset_name or config_file:
            raise UsageError("a resumed run keeps its settings; leave out --preset and --config")
        from taming_cli.runtime.rundir import RESUMED

        return resolve(classes, [given, Layer(RESUMED, recorded)])
    layers = [given]
    if fixed is not None:
        layers.append(fixed)
    layers.append(from_environment(classes, os.environ))
    if config_file is not None:
        layers.append(from_file(config_file, command))
    if command in COMMANDS:
        name = preset_name or os.environ.get("TAMING_PRESET") or _default_preset()
        layers += [_of_kind(layers), Layer(f"preset {name}", preset(name).of(command))]
    return resolve(classes, layers)


def _of_kind(layers: Sequence[Layer]) -> Layer:
    """What differs where a codec is trained on condition maps."""
    kind = next((layer.values["kind"] for layer in layers if "kind" in layer.values), "image")
    return Layer(f"kind {kind}", {} if kind == "image" else MAPS)


def _default_preset() -> str:
    from taming_cli.runtime.device import pick_device

    return "tiny" if pick_device(os.environ.get("TAMING_DEVICE", "auto")).type == "cpu" else "small"
