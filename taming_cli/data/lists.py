"""Lists of paths: text files that name pictures, and the output of `find` in a pipe."""

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
    """Return whether a file is a list of paths: its name ends in `.txt`, and its first bytes are not a picture's."""
    if path.suffix.lower() != SUFFIX or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return format_of(stream.read(HEAD_BYTES)) is None
    except OSError:  # `read_list` reports it
        return True


def read_list(path: Path, *, quiet: bool = False) -> list[Path]:
    """Read the absolute paths that a list names, one per line (or terminated by NUL bytes), in its order.

    A relative path is resolved from the working directory, as on stdin, and then from the list's own folder. Empty
    lines are dropped, and so are lines that begin with `#` and name no file. Quotes and blanks around a path are
    removed where no file has that exact name. Text may be utf-8 or, with a byte order mark, utf-16; bytes that are
    not valid utf-8 are kept as surrogates (PEP 383). Missing files stay in the list; unless `quiet`, the first of them
    and their number are logged as a warning.

    Raises UsageError where the list cannot be read, or where none of its files exists.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: the list cannot be read: {error.strerror or error}") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    places: list[str | None] = []
    lines: list[str] = []
    bases: Counter[str] = Counter()
    for line in _parts(data.removeprefix(codecs.BOM_UTF8), nul=b"\0" in data):
        place = _place(line, path.absolute().parent)
        if place is None and line.lstrip().startswith(b"#"):
            continue
        places.append(None if place is None else os.path.join(*place))  # noqa: PTH118 - Path drops a `./`
        lines.append(os.fsdecode(line.strip()))
        if place is not None and not os.path.isabs(place[1]):  # noqa: PTH117
            bases[place[0]] += 1
    missing = [line for place, line in zip(places, lines, strict=True) if place is None]
    # Prose may name a folder by chance; a list of folders alone is refused elsewhere.
    if not lines or (missing and all(place is None or os.path.isdir(place) for place in places)):  # noqa: PTH112
        first = f"the first is {lines[0][:_SHOWN]!r}" if lines else "it is empty"
        raise UsageError(
            f"{path}: not a list of pictures: none of its {len(places)} lines names an existing file, {first}; "
            "give one path per line, relative to the working directory or to the list's folder"
        )
    if missing and not quiet:
        _log.warning(
            "%s: %d of the %d files are missing; the first is %s", path, len(missing), len(places), missing[0][:_SHOWN]
        )
    # Missing files are placed where the others are: names and labels depend on the folder that all have in common.
    (base, _), *_ = bases.most_common(1) or [(os.getcwd(), 0)]  # noqa: PTH109
    return [Path(base) / line if place is None else Path(place) for place, line in zip(places, lines, strict=True)]


def read_paths(stream: BinaryIO, *, nul: bool) -> list[Path]:
    """Read paths terminated by newlines (or by NUL bytes, for names with newlines); empty ones are dropped.

    Bytes that are not valid utf-8 are kept as surrogates (PEP 383). Raises UsageError for NUL bytes without `nul`.
    """
    data = stream.read()
    if not nul and b"\0" in data:
        raise UsageError("the list of paths contains NUL bytes, as written by `find -print0`; add -0")
    return [Path(os.fsdecode(part)) for part in _parts(data, nul=nul)]


def list_bytes(paths: Sequence[Path]) -> bytes:
    """Return the bytes of a list of these paths, valid in any working directory; the inverse of `read_list`."""
    absolute = [os.fsencode(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - Path.absolute keeps ".."
    end = b"\0" if any(b"\n" in path or b"\r" in path for path in absolute) else b"\n"
    return b"".join(path + end for path in absolute)


def _parts(data: bytes, *, nul: bool) -> list[bytes]:
    parts = data.split(b"\0") if nul else [part.removesuffix(b"\r") for part in data.split(b"\n")]
    return [part for part in parts if part.strip()] if not nul else [part for part in parts if part]


def _place(line: bytes, folder: Path) -> tuple[str, str] | None:
    """Return the base folder and the path below it of the file that a line names; None if there is no such file."""
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
