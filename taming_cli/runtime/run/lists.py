"""Copies of the lists of pictures that a run was given, kept in its folder, so that it can be resumed without them.

A list may have come from a pipe, may be edited later, and may name files relative to another working directory. The
copy holds absolute paths. config.json names it relative to the run folder, `lists/0/NAME`, where 0 is its position
among the inputs.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from taming_cli.data.disk import write_atomically
from taming_cli.data.lists import is_list, list_bytes, read_list
from taming_cli.errors import UsageError
from taming_cli.runtime.run.folder import read_settings

FOLDER = "lists"
VAL = "val"


def recorded(inputs: Sequence[Path]) -> list[str]:
    """The inputs as config.json names them, each once: lists by their copy, everything else by its absolute path."""
    return [
        f"{FOLDER}/{number}/{path.name}" if is_list(path) else os.path.abspath(path)  # noqa: PTH100 - links keep their name
        for number, path in enumerate(_distinct(inputs))
    ]


def inputs_of(run: Path, inputs: Sequence[str]) -> list[Path]:
    """The inputs that config.json of a run names."""
    return [run / each if each.startswith(f"{FOLDER}/") else Path(each) for each in inputs]


def keep(run: Path, inputs: Sequence[Path], val: str | None) -> None:
    """Copy the lists among the inputs, and the list of held-out pictures, into the run folder."""
    for number, path in enumerate(_distinct(inputs)):
        _keep(path, run / FOLDER / str(number) / path.name)
    if val is not None:
        _keep(Path(val), run / FOLDER / VAL / Path(val).name)


def val_of(run: Path | None, val: str | None) -> str | None:
    """The path of the held-out pictures of a run: its copy of the list, unless there is none or `val` has changed."""
    if run is None or val is None:
        return val
    copy = run / FOLDER / VAL / Path(val).name
    same = read_settings(run)["config"].get("train", {}).get("val") == val
    return str(copy) if same and copy.is_file() else val


def check_lists(run: Path, inputs: Sequence[str]) -> None:
    """Raise UsageError if a list among the recorded inputs of a run names no existing file."""
    for path in inputs_of(run, inputs):
        if is_list(path):
            try:
                read_list(path, quiet=True)
            except UsageError:
                raise UsageError(
                    f"{run} was made from the list {path.name}, whose files do not exist; name a list of their present "
                    "paths before --resume"
                ) from None


def _distinct(inputs: Sequence[Path]) -> list[Path]:
    return list({path.resolve(): path for path in inputs}.values())


def _keep(path: Path, copy: Path) -> None:
    if not is_list(path) or (copy.exists() and copy.samefile(path)):
        return
    content = list_bytes(read_list(path, quiet=True))
    copy.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(copy, lambda temporary: temporary.write_bytes(content))
