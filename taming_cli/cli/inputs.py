"""The inputs of a command: the default model, pictures named on stdin, and the output folder as the last argument."""

import os
import stat
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from taming_cli.cli.console import Output
from taming_cli.errors import BadFileError, UsageError

STDIN_FLAGS = ("-", "-0", "--null")
"""Arguments that request paths from stdin."""
LIST_NAME = "stdin.txt"
"""Name of the temporary list of those paths."""


def codec_path(output: Output, given: Path | None) -> Path:
    """The codec to use: `--ckpt`, else $TAMING_CKPT, else the newest train-vqgan run's best checkpoint, else the
    built-in one. UsageError without any."""
    return _model_path(output, given, "train-vqgan", "codec")


def prior_path(output: Output, given: Path | None) -> Path:
    """The prior to use: `--ckpt`, else $TAMING_CKPT, else the newest train-prior run's best checkpoint, else the
    built-in one. UsageError without any."""
    return _model_path(output, given, "train-prior", "prior")


def _model_path(output: Output, given: Path | None, command: str, noun: str) -> Path:
    """The model file to use; a default is printed on stderr."""
    from taming_cli.runtime import model_files
    from taming_cli.runtime.run.folder import newest

    if given is not None:
        return model_files.named(given)
    if variable := os.environ.get("TAMING_CKPT"):
        output.note(f"{noun}: {variable} ($TAMING_CKPT)")
        return model_files.named(Path(variable))
    for name in model_files.MODELS:
        if (path := newest(command, name, suitable=_of_pictures)) is not None:
            output.note(f"{noun}: {path} (the newest run)")
            return path
    path = model_files.path()
    if not path.is_file():
        raise UsageError(f"no {noun} was given, and there is no run of {command} under runs; give --ckpt, or train one")
    output.note(
        f"{noun}: {model_files.BUILTIN}, trained on drawn landscapes; there is no run of {command} under runs, and "
        "--ckpt was not given"
    )
    return path


def _of_pictures(path: Path) -> bool:
    """Whether a model file is complete, and not a codec of condition maps."""
    from taming_cli.runtime.checkpoint import read_header

    try:
        return bool(read_header(path).about.get("content", "image") == "image")
    except BadFileError:
        return False


def images_and_out(images: list[Path], out: Path | None, command: str) -> tuple[list[Path], Path]:
    """The inputs and the folder to write: `-o`, else the last argument. UsageError if nothing would be left."""
    if out is not None:
        return images, out
    if len(images) < 2:
        raise UsageError(f"name the folder to write: taming {command} IMAGES OUT")
    return images[:-1], images[-1]


def piped() -> bool:
    """Whether stdin is a pipe or a file."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def from_stdin(images: Sequence[object] | None, nul: bool) -> bool:
    """Whether the arguments request paths from stdin. UsageError if they name other inputs as well."""
    names = list(map(str, images or ()))
    if "-" in names and names != ["-"]:
        raise UsageError("- (paths from stdin) cannot be combined with other inputs")
    return names == ["-"] or (nul and not names)


def stdin_as_list(command: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: if `images` and `nul` request paths from stdin, the command gets a list file with those paths."""

    @wraps(command)
    def wrapper(*, images: Sequence[Path] | None, nul: bool, **arguments: Any) -> Any:
        if not from_stdin(images, nul):
            return command(images=images, nul=nul, **arguments)
        from taming_cli.data.lists import list_bytes, read_paths
        from taming_cli.runtime.processes import several

        if several():
            raise UsageError("several processes cannot share the paths on stdin; write them to a file and name that")
        paths = read_paths(sys.stdin.buffer, nul=nul)
        if not paths:
            raise UsageError("stdin names no picture; pipe paths into it, for example from `find`")
        with tempfile.TemporaryDirectory(prefix="taming-") as folder:
            spooled = Path(folder, LIST_NAME)
            spooled.write_bytes(list_bytes(paths))
            return command(images=[spooled], nul=nul, **arguments)

    return wrapper
