"""Paths of pictures from stdin: `-`, with `-0` ended by NUL bytes."""

import os
import stat
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from taming_cli.errors import UsageError

FLAGS = ("-", "-0", "--null")
"""Arguments that ask for it."""

NAME = "stdin.txt"


def is_given() -> bool:
    """Whether stdin is a pipe or a file."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def asks(images: Sequence[object] | None, nul: bool) -> bool:
    """Whether the arguments ask for paths from stdin. UsageError where they name other inputs besides."""
    named = list(map(str, images or ()))
    if "-" in named and named != ["-"]:
        raise UsageError("- (paths from stdin) cannot be mixed with other inputs")
    return named == ["-"] or (nul and not named)


def as_list(command: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: where `images` and `nul` ask for stdin, the command is given a list that holds those paths."""

    @wraps(command)
    def wrapper(*, images: Sequence[Path] | None, nul: bool, **arguments: Any) -> Any:
        if not asks(images, nul):
            return command(images=images, nul=nul, **arguments)
        from taming_cli.data.lists import read_paths, written
        from taming_cli.runtime.processes import several

        if several():
            raise UsageError("several processes cannot share the paths on stdin; write them to a file, and name that")
        paths = read_paths(sys.stdin.buffer, nul=nul)
        if not paths:
            raise UsageError("stdin names no picture; pipe paths into it, as of `find`")
        with tempfile.TemporaryDirectory(prefix="taming-") as folder:
            spooled = Path(folder, NAME)
            spooled.write_bytes(written(paths))
            return command(images=[spooled], nul=nul, **arguments)

    return wrapper
