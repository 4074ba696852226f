"""An example of a file that the tool reads, and reading it as the commands do."""

import hashlib
import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from taming_cli.errors import TamingError


class Example(NamedTuple):
    """A file, and what reads all of it: a function that returns its content or raises TamingError.

    With `exact`, checksums cover the content, so that a damaged file may not be read as any other content. An error has
    to contain `named`: by default, the file's name.
    """

    path: Path
    data: bytes
    read: Callable[[Path], Any]
    exact: bool = False
    named: str = ""

    def copy(self, number: int) -> Path:
        """Where a damaged copy is written. Archives are opened once per path, so it differs between trials."""
        return self.path.with_name(self.path.name.replace("N", str(number)))


class RefusedError(TamingError):
    """The one line that a command printed as its error."""


def example(path: Path, read: Callable[[Path], Any], *, at: Path | None = None, exact: bool = False) -> Example:
    """An existing file as an example, whose damaged copies are written at `at`."""
    return Example(at or path, path.read_bytes(), read, exact)


def command(*arguments: object) -> str:
    """Run a command in this process -> its output on stdout.

    RefusedError for an error of one line, AssertionError for any other.
    """
    code, printed, errors = captured(*arguments)
    if code in (0, 3):
        return printed
    lines = errors.splitlines()
    sound = lines and lines[-1].startswith("taming: ") and "(a defect of taming" not in errors
    if not sound or any(not each.isprintable() for each in lines):
        raise AssertionError(f"exit code {code}, stderr {errors[-400:]!r}")
    raise RefusedError(lines[-1])


class Captured(NamedTuple):
    """What a command ended with: its exit code, and what it printed."""

    code: int
    out: str
    err: str


def captured(*arguments: object) -> Captured:
    """Run a command in this process."""
    from taming_cli.cli.app import main

    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    try:
        code = main([*map(str, arguments)])
        return Captured(code, sys.stdout.getvalue(), sys.stderr.getvalue())
    finally:
        sys.stdout, sys.stderr = out, err


def fingerprint(value: object) -> str:
    """A digest of nested containers of arrays, tensors, pictures and plain values: equal for equal contents."""
    digest = hashlib.sha256()
    _digest(value, digest.update)
    return digest.hexdigest()


def _digest(value: object, update: Callable[[bytes], None]) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().contiguous()
        update(f"{value.dtype} {tuple(value.shape)}".encode())
        update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        update(f"{value.dtype} {value.shape}".encode())
        update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Image.Image):
        update(f"{value.mode} {value.size}".encode())
        update(value.tobytes())
    elif isinstance(value, Mapping):
        update(f"mapping of {len(value)}".encode())
        for key, each in value.items():
            _digest(key, update)
            _digest(each, update)
    elif isinstance(value, list | tuple):
        update(f"{len(value)} values".encode())
        for each in value:
            _digest(each, update)
    else:
        update(repr(value).encode())
