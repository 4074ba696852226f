"""Flags: those every command shares, and those derived from the fields of config dataclasses."""

import inspect
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from taming_cli.cli.console import HEARD, Output
from taming_cli.config.fields import Kind, flag_name, kinds, one_of, to_dict
from taming_cli.config.presets import MAPS, PRESETS, preset
from taming_cli.config.resolve import COMMANDS, Layer, Resolved, from_environment, from_file, from_flags, resolve
from taming_cli.config.shard import Shard
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

SHARED, OUTPUT = "Where and how", "What is printed"
WIDEST_METAVAR = 24
"""Characters of choices that a metavar shows; more are listed in the help text."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def option(*names: str, help: str, metavar: str = "", panel: str | None = SHARED, envvar: str | None = None) -> Any:
    """An option; one without a metavar is a switch."""
    return typer.Option(
        *names,
        help=help,
        metavar=metavar,
        rich_help_panel=panel,
        envvar=envvar,
        show_envvar=False,  # the epilogue of `taming --help` names all of them at once
        show_default=False,
    )


def number(*names: str, low: int, help: str, panel: str | None = None, envvar: str | None = None) -> Any:
    """An option that takes a whole number of at least `low`. UsageError, which names it, for anything else."""

    def parsed(text: object) -> int:
        try:
            value = int(str(text))  # of a config file, 1.5 and true are no whole numbers either
        except ValueError:
            raise UsageError(f"{names[0]} is {text!r}; give a whole number") from None
        if value < low:
            raise UsageError(f"{names[0]} is {value}; it must be at least {low}")
        return value

    return typer.Option(
        *names, help=help, metavar="N", parser=parsed, rich_help_panel=panel, envvar=envvar, show_envvar=False
    )


Out = Annotated[Path | None, option("-o", "--out", metavar="PATH", help="Run folder, output folder or file.")]
Name = Annotated[str | None, option("--name", metavar="NAME", help="The run's name under runs/; else it counts up.")]
Resume = Annotated[bool, option("--resume", help="Go on with the newest run, or with the one named.")]
PresetName = Annotated[
    str | None,
    option("--preset", metavar="|".join(PRESETS), help="A set of settings; else tiny, on a GPU small."),
]
Weights = Annotated[
    Path | None,
    option(
        "--weights", metavar="PATH", help="Pretrained weights: a file, or a folder of them.", envvar="TAMING_WEIGHTS"
    ),
]
Offline = Annotated[bool, option("--offline", help="Never download.", envvar="TAMING_OFFLINE")]
DryRun = Annotated[bool, option("--dry-run", help="Say what would be done, and write nothing.")]
Ckpt = Annotated[
    Path | None,
    option("--ckpt", metavar="FILE", help="Model file; else $TAMING_CKPT, else the newest run's, else `builtin`."),
]
Nul = Annotated[bool, option("-0", "--null", help="Paths on stdin end with NUL, as of `find -print0`.", panel=None)]
Nproc = Annotated[
    int,
    number(
        "--nproc",
        low=1,
        help="Processes on this machine that share each batch, each on its own GPU.",
        panel=SHARED,
        envvar="TAMING_NPROC",
    ),
]
Device = Annotated[
    str, option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.", envvar="TAMING_DEVICE")
]


def in_precision(help: str) -> Any:
    """The option `--precision`."""
    return option("--precision", metavar="|".join(PRECISIONS), help=help, envvar="TAMING_PRECISION")


Precision = Annotated[str, in_precision("Arithmetic of the networks.")]
Workers = Annotated[
    int,
    number("--workers", low=0, help="Threads that read pictures.", panel=SHARED, envvar="TAMING_WORKERS"),
]


def in_gibibytes(help: str) -> Any:
    """The option `--memory`."""
    return typer.Option(
        "--memory",
        metavar="GIB",
        help=help,
        parser=_gibibytes,
        rich_help_panel=SHARED,
        envvar="TAMING_MEMORY",
        show_envvar=False,
        show_default=False,
    )


def _gibibytes(text: object) -> float:
    """UsageError for what is no number above 0."""
    try:
        value = float(str(text))
    except ValueError:
        raise UsageError(f"--memory is {text!r}; give a number of GiB, such as 6") from None
    if not 0 < value < math.inf:
        raise UsageError(f"--memory is {text}; give a number of GiB above 0, such as 6")
    return value


Memory = Annotated[
    float | None,
    in_gibibytes("Memory for coding a picture; one that fits is decoded exactly. By default half of what is free."),
]
BatchSize = Annotated[int, number("--batch-size", low=1, help="Pictures at once.", envvar="TAMING_BATCH_SIZE")]
MaxPixels = Annotated[
    int | None,
    number(
        "--max-pixels",
        low=1,
        help="Pixels that a picture may have; larger ones are skipped. Default 178956970.",
        panel=SHARED,
        envvar="TAMING_MAX_PIXELS",
    ),
]
SizeText = Annotated[
    str | None,
    option(
        "--size",
        metavar="WxH",
        help="Size of the pictures; by default the codec's own.",
        panel=None,
        envvar="TAMING_SIZE",
    ),
]
ShardText = Annotated[
    str | None,
    option(
        "--shard",
        metavar="I/N",
        help="Do every N-th picture, from the I-th: a part of the work.",
        envvar="TAMING_SHARD",
    ),
]
Json = Annotated[bool, option("--json", help="Print the result as JSON.", panel=OUTPUT)]
Quiet = Annotated[bool, option("-q", "--quiet", help="Print only the path or the number.", panel=OUTPUT)]
Verbose = Annotated[
    bool,
    option("-v", "--verbose", help="Say the settings and where each came from, and what is chosen.", panel=OUTPUT),
]
Debug = Annotated[bool, option("--debug", help="Show the traceback of an error.", panel=OUTPUT)]


def reads_pictures(command: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: the command reads people's pictures, and takes --max-pixels."""
    command.reads_pictures = True  # type: ignore[attr-defined]
    return command


def own_part(output: Output, shard: str | None) -> Shard:
    """The part of the work that is this process's: as named, else the one that its number among those of torchrun or
    srun gives it, which stderr then says. UsageError for both at once."""
    from taming_cli.runtime.processes import started

    together = started()
    if shard is not None:
        if together.size > 1:
            raise UsageError(f"--shard {shard} names a part, and so does this process's number; leave one of them out")
        return Shard.parse(shard)
    part = Shard(together.rank + 1, together.size)
    if together.size > 1:
        names = "SLURM_PROCID, SLURM_STEP_NUM_TASKS" if together.by == "srun" else "RANK, WORLD_SIZE"
        output.note(f"{part.spelled()} of the work, by {names} of {together.by}; the other processes do the others")
    return part


def skipped_code(skipped: object) -> int:
    """3 where inputs were skipped; but 0 of one of several processes: torch's launcher would take it for a failure and
    end the others."""
    from taming_cli.runtime.processes import started

    return 3 if skipped and started().size == 1 else 0


def with_flags(first: Sequence[str] = (), /, **panels: type[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: the command takes the fields of the given config classes as flags, as `flags: dict[str, Any]`.

    The keyword is the title of the flags' panel in `--help`, underscores as spaces. A flag that takes a value is
    annotated with its field's `Kind` besides, for who wants to know its choices. `--help` lists the parameters `first`
    names first, in the panel of the command's own.
    """
    taken = {
        field.name: _flag(kind, field, None if field.name in first else panel.replace("_", " "))
        for panel, config in panels.items()
        for field, kind in zip(fields(config), kinds(config).values(), strict=True)
        if not field.metadata["hidden"]
    }
    settled = frozenset(field.name for config in panels.values() for field in fields(config))

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
        every = sorted(keywords + extra, key=lambda p: first.index(p.name) if p.name in first else len(first))
        wrapper.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in every}
        wrapper.__doc__, wrapper.__name__ = command.__doc__, command.__name__
        wrapper.settled = settled  # type: ignore[attr-defined]
        return wrapper

    return decorate


def _flag(kind: Kind, field: Field[Any], panel: str | None) -> Any:
    name, help_text = flag_name(field), field.metadata["help"] + _said_default(field)
    if kind.base is bool:
        negative = f"/--no-{name.removeprefix('--')}" if field.default is True else ""
        return Annotated[bool | None, option(name + negative, help=help_text, panel=panel)]
    choices = "|".join(kind.choices)
    if len(choices) > WIDEST_METAVAR:
        choices, help_text = "NAME", f"{help_text} One of {', '.join(kind.choices)}."
    base = {int: "N", float: "X", str: "TEXT", Size: "WxH"}.get(kind.base)
    metavar = field.metadata["metavar"] or choices or base or ""
    if kind.many:
        metavar = f"{metavar},..."
    return Annotated[str | None, option(name, metavar=metavar, help=help_text, panel=panel), kind]


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


def _own_settings(context: typer.Context, file: Path | None) -> Path | None:
    """Take what a config file says of the command's own settings, those that the environment may say too; `settle`
    takes the others. UsageError for what is neither."""
    if file is not None:
        command = context.command
        own = {parameter.name for parameter in command.params if getattr(parameter, "envvar", None)}
        settled: frozenset[str] = getattr(command.callback, "settled", frozenset())
        values = from_file(file, command.name or "").values
        for name in values:
            if name not in own | settled:
                raise UsageError(f"config file {file}: unknown key {name!r}; {one_of(sorted(own | settled), name)}")
        context.default_map = {name: values[name] for name in own & values.keys()}
    return file


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML or JSON file of settings.",
        rich_help_panel=SHARED,
        show_default=False,
        is_eager=True,  # the others look at what it says
        callback=_own_settings,
    ),
]


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
        from taming_cli.runtime.run.folder import RESUMED

        return _said(resolve(classes, [given, Layer(RESUMED, recorded)]))
    layers = [given]
    if fixed is not None:
        layers.append(fixed)
    layers.append(from_environment(classes, os.environ))
    if config_file is not None:
        layers.append(_of(classes, from_file(config_file, command)))
    if command in COMMANDS:
        name = preset_name or os.environ.get("TAMING_PRESET") or _default_preset()
        layers += [_of_kind(layers), Layer(f"preset {name}", preset(name).of(command))]
    return _said(resolve(classes, layers))


def _of(classes: Sequence[type[Any]], layer: Layer) -> Layer:
    """A file's values for these classes; what else it says, `--config` itself has taken or refused."""
    known = {field.name for config in classes for field in fields(config)}
    return Layer(layer.origin, {name: value for name, value in layer.values.items() if name in known})


def _said(resolved: Resolved) -> Resolved:
    say_settings(
        {
            name: (value, resolved.origins[name])
            for config in resolved.configs
            for name, value in to_dict(config).items()
        }
    )
    return resolved


def say_settings(settings: Mapping[str, tuple[Any, str]]) -> None:
    """With `-v`, each setting's value, by where it came from: a line for each origin, defaults last."""
    by_origin: defaultdict[str, list[str]] = defaultdict(list)
    for name, (value, origin) in settings.items():
        if value not in (None, (), []) and (value is not False or origin != "default"):
            shown = ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
            by_origin[origin].append(f"{name} {shown}")
    for origin, said in sorted(by_origin.items(), key=lambda item: item[0] == "default"):
        HEARD.info("set by %s: %s", origin, ", ".join(said))


def _of_kind(layers: Sequence[Layer]) -> Layer:
    """What differs where a codec is trained on condition maps."""
    kind = next((layer.values["kind"] for layer in layers if "kind" in layer.values), "image")
    return Layer(f"kind {kind}", {} if kind == "image" else MAPS)


def _default_preset() -> str:
    from taming_cli.runtime.device import pick_device

    return "tiny" if pick_device(os.environ.get("TAMING_DEVICE", "auto")).type == "cpu" else "small"
