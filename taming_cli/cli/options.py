"""The options that several commands share, each declared once. A command has one by a parameter such as
`device: o.Device = "auto"`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from taming_cli.config.devices import DEVICES
from taming_cli.config.fields import one_of
from taming_cli.config.presets import PRESETS, SCALES
from taming_cli.config.resolve import from_file
from taming_cli.errors import UsageError

SHARED, CONSOLE = "Execution", "Console output"
"""Titles of the last two panels of `--help`."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def option(
    *names: str,
    help: str,
    metavar: str = "",
    panel: str | None = SHARED,
    envvar: str | None = None,
    parser: Callable[[str], Any] | None = None,
) -> Any:
    """An option; one without a metavar is a switch."""
    return typer.Option(
        *names,
        help=help,
        metavar=metavar,
        rich_help_panel=panel,
        envvar=envvar,
        parser=parser,
        show_envvar=False,  # the epilogue of `taming --help` explains all of them at once
    )


def number(*names: str, low: int, help: str, panel: str | None = None, envvar: str | None = None) -> Any:
    """An option that takes an integer of at least `low`. Anything else raises a UsageError that names the option."""

    def parse(text: object) -> int:
        try:
            value = int(str(text))  # a config file may hold 1.5 or true
        except ValueError:
            raise UsageError(f"{names[0]} is {text!r}; give a whole number") from None
        if value < low:
            raise UsageError(f"{names[0]} is {value}; it must be at least {low}")
        return value

    return option(*names, help=help, metavar="N", panel=panel, envvar=envvar, parser=parse)


def written_to(help: str) -> Any:
    """The option `--out`."""
    return option("-o", "--out", metavar="PATH", help=help)


def in_precision(help: str) -> Any:
    """The option `--precision`."""
    return option("--precision", metavar="|".join(PRECISIONS), help=help, envvar="TAMING_PRECISION")


def in_gibibytes(help: str) -> Any:
    """The option `--memory`."""
    return option("--memory", metavar="GIB", help=help, envvar="TAMING_MEMORY", parser=_gibibytes)


def _gibibytes(text: object) -> float:
    """A positive finite number. UsageError for anything else."""
    try:
        value = float(str(text))
    except ValueError:
        raise UsageError(f"--memory is {text!r}; give a number of GiB, such as 6") from None
    if not 0 < value < math.inf:
        raise UsageError(f"--memory is {text}; give a number of GiB above 0, such as 6")
    return value


def _from_config_file(context: typer.Context, file: Path | None) -> Path | None:
    """Use a config file's values as the defaults of the command's own options, which are those with an environment
    variable. The fields of config classes are read from the file later, by `Settings`. UsageError for any other key."""
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


Ckpt = Annotated[
    Path | None,
    option(
        "--ckpt", metavar="FILE", help="Model file or run. Default: $TAMING_CKPT, else the newest run, else `builtin`."
    ),
]
TokensCodec = Annotated[
    Path | None, option("--codec", metavar="FILE", help="The codec, if it is not at the recorded path.", panel=None)
]
ImagesAndOut = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGES... OUT", help="Folders, pictures, archives or lists (.txt), then the folder to write."
    ),
]
Out = Annotated[Path | None, written_to("Folder to write, if there is no argument OUT.")]
Name = Annotated[
    str | None, option("--name", metavar="NAME", help="Name of the run under runs/. Default: the next number.")
]
Resume = Annotated[bool, option("--resume", help="Continue the newest run, or the one given by --name or -o.")]
PresetName = Annotated[
    str | None,
    option(
        "--preset",
        metavar="NAME",
        help=f"Named set of settings: {', '.join(PRESETS)}. Default: tiny on a CPU, small on a GPU.",
    ),
]
Scale = Annotated[
    int | None,
    number(
        "--scale",
        low=1,
        help=f"Size of the training, 1 (tiny) to {len(SCALES)}: each has about 3 times the operations of the last.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML or JSON file of settings.",
        rich_help_panel=SHARED,
        is_eager=True,  # it provides the other options' defaults
        callback=_from_config_file,
    ),
]
SizeText = Annotated[
    str | None,
    option(
        "--size",
        metavar="WxH",
        help="Size of centre crops in pixels. Default: whole pictures.",
        panel=None,
        envvar="TAMING_SIZE",
    ),
]
BatchSize = Annotated[int, number("--batch-size", low=1, help="Pictures per batch.", envvar="TAMING_BATCH_SIZE")]
Nul = Annotated[
    bool, option("-0", "--null", help="Paths on stdin end with NUL, as `find -print0` writes them.", panel=None)
]
Weights = Annotated[
    Path | None,
    option(
        "--weights", metavar="PATH", help="Pretrained weights: a file, or a folder of files.", envvar="TAMING_WEIGHTS"
    ),
]
Offline = Annotated[bool, option("--offline", help="Never download anything.", envvar="TAMING_OFFLINE")]
Device = Annotated[
    str, option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.", envvar="TAMING_DEVICE")
]
Precision = Annotated[str, in_precision("Floating-point precision of the networks.")]
Memory = Annotated[
    float | None,
    in_gibibytes("Memory for one picture; a picture that fits is decoded exactly. Default: half of the free memory."),
]
Workers = Annotated[
    int,
    number("--workers", low=0, help="Threads that read pictures.", panel=SHARED, envvar="TAMING_WORKERS"),
]
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
ShardText = Annotated[
    str | None,
    option(
        "--shard", metavar="I/N", help="Process only every N-th picture, starting with the I-th.", envvar="TAMING_SHARD"
    ),
]
MaxPixels = Annotated[
    int | None,
    number(
        "--max-pixels",
        low=1,
        help="Skip pictures with more pixels than this. Default 178956970.",
        panel=SHARED,
        envvar="TAMING_MAX_PIXELS",
    ),
]
DeviceName = Annotated[
    str | None,
    option(
        "--device-name",
        metavar="NAME",
        help=f"With --dry-run: estimate the time on another device: {', '.join(DEVICES)}.",
    ),
]
DryRun = Annotated[bool, option("--dry-run", help="Print what would be done, and write nothing.")]
Verbose = Annotated[
    bool, option("-v", "--verbose", help="Print all settings with their origins, and each choice made.", panel=CONSOLE)
]
Debug = Annotated[bool, option("--debug", help="Print the traceback of an error.", panel=CONSOLE)]


@dataclass(frozen=True)
class Pretrained:
    """The options of a command with a pretrained network."""

    weights: Weights = None
    offline: Offline = False
