"""The commands of the program by name.

A command's module is imported when the command runs or prints its help; `taming --help` lists the texts given here.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand

from taming_cli.cli.help import HelpGroup


class Listed(NamedTuple):
    """A command or group as `taming --help` lists it: `where` is MODULE:NAME below `taming_cli.cli.commands`, and
    `help` the first paragraph of its own help."""

    where: str
    help: str


COMMANDS: Mapping[str, Mapping[str, Listed]] = {
    "Train": {
        "train-vqgan": Listed(
            "train_vqgan:train_vqgan",
            "Train a codec on pictures. Writes a run folder with checkpoints, curves and reconstructions.",
        ),
        "train-prior": Listed(
            "train_prior:train_prior",
            "Train a prior on token files. Writes a run folder with checkpoints, curves and samples.",
        ),
    },
    "Use": {
        "sample": Listed("sample:sample", "Draw new pictures. Writes a folder with PNGs and a grid of them."),
        "tokenize": Listed(
            "tokenize:tokenize",
            "Encode pictures to a token file. An interrupted run continues when it is started again.",
        ),
        "reconstruct": Listed(
            "reconstruct:reconstruct",
            "Encode and decode pictures (or condition maps), each at its own size, and print the mean PSNR.",
        ),
        "decode": Listed("reconstruct:decode", "Decode a token file to pictures."),
        "import": Listed(
            "import_export:import_",
            "Convert a published checkpoint to a model file. Code in it is never run; every tensor is accounted for.",
        ),
        "export": Listed("import_export:export", "Write a model file in the layout of another program."),
        "annotate": Listed(
            "annotate:ANNOTATE",
            "Compute condition maps of pictures, as PNGs of the same size and relative path. An interrupted run "
            "continues when it is started again.",
        ),
        "tokens": Listed("tokens:TOKENS", "Check and join token files."),
    },
    "Inspect": {
        "info": Listed("info:info", "Describe a file: a model, tokens, or a published checkpoint."),
        "report": Listed(
            "report:report", "Write the report of a run, or a comparison of several runs, as one HTML page."
        ),
        "demo-data": Listed(
            "demo_data:demo_data",
            "Draw a small data set of landscapes and figures, with segmentation, depth and pose maps and classes.",
        ),
        "doctor": Listed(
            "doctor:doctor",
            "Check versions, devices, precision, weights, folders and settings. Exit code 1 if something needed would "
            "fail.",
        ),
        "guide": Listed(
            "guide:guide", "List the guides, or print one. With -q: only the names, or the path of the file."
        ),
        "presets": Listed("presets:PRESET_COMMANDS", "List and print the named sets of settings."),
        "weights": Listed("weights:WEIGHTS", "List, verify and download pretrained weights."),
    },
    "Measure": {
        "eval": Listed(
            "evaluate:EVAL",
            "Measure pictures, codecs and priors. Every result states how it was computed; --json prints all details.",
        ),
    },
}
"""The commands by panel of `taming --help`."""


class Program(HelpGroup):
    """The program itself, with the commands of the table."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": None})
        self.commands = _Imported()  # type: ignore[assignment]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help from the table alone."""
        listing = copy(self)
        listing.commands = {
            name: TyperCommand(name, help=entry.help, rich_help_panel=panel)
            for panel, entries in COMMANDS.items()
            for name, entry in entries.items()
        }
        super(Program, listing).format_help(ctx, formatter)


class _Imported(Mapping[str, Any]):
    """typer's commands by name, each made when it is asked for."""

    def __init__(self) -> None:
        self._listed = {name: (entry, panel) for panel, entries in COMMANDS.items() for name, entry in entries.items()}
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            from taming_cli.cli.command import register

            entry, panel = self._listed[name]
            module, attribute = entry.where.split(":")
            above = typer.Typer()
            register(above, getattr(import_module(f"taming_cli.cli.commands.{module}"), attribute), panel)
            self._made |= typer.main.get_group(above).commands
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)
