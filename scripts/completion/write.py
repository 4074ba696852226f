"""For `scripts/completions`: the completions of every shell, from the command tree, into a folder."""

import sys
from pathlib import Path
from typing import Any

import bash
import fish
import typer
import zsh
from tree import read

from taming_cli.cli.app import app

SHELLS = {"taming.bash": bash.render, "_taming": zsh.render, "taming.fish": fish.render}


def write(program: Any, folder: Path) -> None:
    """Write the files for a program of `typer.main.get_command`."""
    root = read(program)
    for name, render in SHELLS.items():
        (folder / name).write_text(render(root), encoding="utf-8")


if __name__ == "__main__":
    write(typer.main.get_command(app), Path(sys.argv[1]))
