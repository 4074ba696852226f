"""A hostile file, and reading it as the commands do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from material import Material

SECRET = "the-content-of-another-file"


class Attack(NamedTuple):
    """A hostile file, and what reads it: a function that returns its content or raises TamingError.

    An error has to contain `named`: by default, the file's name. Where only a part of the file is hostile, it
    `may_be_read`, without that part. `warm` reads an intact file of the kind, so that imports are not measured.
    """

    name: str
    path: Path
    read: Callable[[Path], Any]
    may_be_read: bool = False
    named: str = ""
    warm: Callable[[], object] | None = None


class Scene(NamedTuple):
    """An empty folder for hostile files; another one, outside, which no attack may touch; and intact files."""

    folder: Path
    outside: Path
    material: Material
