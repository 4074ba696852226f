"""Lists of paths: a text file that names pictures, or what `find` writes to a pipe."""

import codecs
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from taming_cli.data.formats import HEAD_BYTES, format_of
from taming_cli.errors import UsageError

_log = logging.getLogger(__name__)

SUFFIX = ".txt"

_SHOWN = 60
_QUOTES = (b'"', b"'")


def is_list(path: Path) -> bool:
    """Whether a file is taken as a list of paths: one ending in `.txt`, unless its first bytes are a picture's."""
    if path.suffix.lower() != SUFFIX or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return format_of(stream.read(HEAD_BYTES)) is None
    except OSError:  # `read_list` says why
        return True


def read_list(path: Path, *, quiet: bool = False) -> list[Path]:
    """The absolute paths that a list names, one on each line (or ended by NUL bytes), in its order.

    A relative path is looked for from the working directory, as on stdin, and then from the list's own folder. Empty
    lines are dropped, and so are lines that begin with `#` and name no file. Quotes and blanks around a path are taken
    off where there is no file of that very name. Text may be utf-8 or, with a byte order mark, utf-16; bytes that are
    no valid utf-8 are kept as surrogates (PEP 383). Files that are missing stay in the list; the first is
    logged as a warning, with their number, unless `quiet`.

    Raises UsageError where the list cannot be read, or where nothing in it is there: then it is no list.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: the list cannot be read: {error.strerror or error}") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    found: list[str | None] = []
    lines: list[str] = []
    bases: Counter[str] = Counter()
    for line in _parts(data.removeprefix(codecs.BOM_UTF8), nul=b"\0" in data):
        place = _place(line, path.absolute().parent)
        if place is None and line.lstrip().startswith(b"#"):
            continue
        found.append(None if place is None else os.path.join(*place))  # noqa: PTH118 - Path drops a `./`
        lines.append(os.fsdecode(line.strip()))
        if place is not None and not os.path.isabs(place[1]):  # noqa: PTH117
            bases[place[0]] += 1
    missing = [line for place, line in zip(found, lines, strict=True) if place is None]
    # Prose may name a folder by chance; a list of folders alone is refused for what it is.
    if not lines or (missing and all(place is None or os.path.isdir(place) for place in found)):  # noqa: PTH112
        first = f"the first is {lines[0][:_SHOWN]!r}" if lines else "it is empty"
        raise UsageError(
            f"{path}: not a list of pictures: of the {len(found)} lines none names a file that is there, {first}; "
            "give one path on each line, from the working directory or from the list's own folder"
        )
    if missing and not quiet:
        _log.warning(
            "%s: %d of the %d files are not there; the first is %s", path, len(missing), len(found), missing[0][:_SHOWN]
        )
    # A missing file is sought where the others are: names and labels follow from the folder that all have in common.
    (base, _), *_ = bases.most_common(1) or [(os.getcwd(), 0)]  # noqa: PTH109
    return [Path(base) / line if place is None else Path(place) for place, line in zip(found, lines, strict=True)]


def read_paths(stream: BinaryIO, *, nul: bool) -> list[Path]:
    """A list of paths, ended by newlines (or by NUL bytes, for names that hold newlines); empty ones are dropped.

    Bytes that are no valid utf-8 are kept as surrogates (PEP 383). Raises UsageError for NUL bytes where `nul` is off.
    """
    data = stream.read()
    if not nul and b"\0" in data:
        raise UsageError("the list of paths holds NUL bytes, as `find -print0` writes them; add -0")
    return [Path(os.fsdecode(part)) for part in _parts(data, nul=nul)]


def written(paths: Sequence[Path]) -> bytes:
    """A list that `read_list` reads as these paths, from any working directory."""
    absolute = [os.fsencode(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - Path.absolute keeps ".."
    end = b"\0" if any(b"\n" in path or b"\r" in path for path in absolute) else b"\n"
    return b"".join(path + end for path in absolute)


def _parts(data: bytes, *, nul: bool) -> list[bytes]:
    parts = data.split(b"\0") if nul else [part.removesuffix(b"\r") for part in data.split(b"\n")]
    return [part for part in parts if part.strip()] if not nul else [part for part in parts if part]


def _place(line: bytes, folder: Path) -> tuple[str, str] | None:
    """The base and the path below it where the file that a line names is; None where there is none."""
    stripped = line.strip()
    forms = [line, stripped]
    if len(stripped) > 1 and stripped[:1] in _QUOTES and stripped[-1:] == stripped[:1]:
        forms.append(stripped[1:-1])
    for form in dict.fromkeys(forms):
        name = os.fsdecode(form)
        for base in (os.getcwd(), str(folder)):  # noqa: PTH109
            if os.path.lexists(os.path.join(base, name)):  # noqa: PTH118 - Path.exists may raise
                return base, name
    return None
