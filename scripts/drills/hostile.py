"""Hostile files: each is refused by name, at once and in little memory; nothing is run, nothing outside is touched."""

import logging
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attacks import SECRET, Attack, Scene, archives, names, pickles, pictures, text, tokens
from material import make
from outcome import Outcome
from trials import MIB, Limits, attempted

from taming_cli.data.pillow import without_pillows_warnings
from taming_cli.errors import TamingError

TIMES, QUICK = 1000, 15
"""The first is more than there are: each attack is tried once."""
LIMITS = Limits(seconds=1, memory=256 * MIB)
ROWS: dict[str, Callable[[Scene], list[Attack]]] = {
    "pickles that run commands": pickles.commands,
    "pickles that exhaust": pickles.bombs,
    "archives that lead out": archives.escapes,
    "archives that exhaust": archives.bombs,
    "pictures that exhaust": pictures.bombs,
    "token files that link": tokens.links,
    "token files that exhaust": tokens.bombs,
    "model files that exhaust": text.models,
    "json, toml and yaml": text.settings,
    "names on a terminal": names.terminal,
    "names in a report": names.report,
}
_RUN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "shutil.rmtree")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def run(times: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Try each attack once, but at most `times` of each row, evenly chosen."""
    logging.getLogger("taming_cli").addHandler(logging.NullHandler())  # commands add their own
    material = make(folder)
    outside = folder / "outside"
    outside.mkdir()
    (outside / "secret").write_text(SECRET)
    for row, attacks_of in ROWS.items():
        place = folder / row.replace(" ", "-").replace(",", "")
        place.mkdir()
        attacks = attacks_of(Scene(place, outside, material))
        yield from row_of(row, attacks[:: math.ceil(len(attacks) / times)], outside)


def row_of(row: str, attacks: list[Attack], outside: Path) -> Iterator[Outcome]:
    """The trials of one row."""
    seen: list[str] = []
    before = snapshot(outside)

    def intact() -> str:
        without_pillows_warnings()
        if not seen:
            seen.append("")
            sys.addaudithook(
                lambda event, values: seen.append(event) if _is_forbidden(event, values, outside) else None
            )
        for attack in attacks:
            if attack.warm is not None:
                attack.warm()
        return ""

    def attempt(number: int) -> str:
        seen[1:] = []
        loss = tried(attacks[number])
        if seen[1:]:
            loss = f"did {', '.join(seen[1:])}"
        return loss or ("something outside was changed" if snapshot(outside) != before else "")

    for ended in attempted(range(len(attacks)), attempt, intact, LIMITS):
        yield Outcome(row, attacks[ended.number].name, ended.loss)


def tried(attack: Attack) -> str:
    """Read a hostile file -> what was lost."""
    try:
        content = attack.read(attack.path)
    except TamingError as error:
        line = " ".join(str(error).split())
        if SECRET in line:
            return "the error shows another file"
        return "" if (attack.named or attack.path.name) in line else f"the error does not name the file: {line[:200]}"
    if not attack.may_be_read:
        return f"was read: {str(content)[:200]!r}"
    return "the content of another file was read" if SECRET in str(content) else ""


def snapshot(folder: Path) -> dict[str, Any]:
    """The names, times and sizes of all files below a folder."""
    files = {str(path): path.lstat() for path in (folder, *folder.rglob("*"))}
    return {name: (status.st_mtime_ns, status.st_size, status.st_ino) for name, status in files.items()}


def _is_forbidden(event: str, values: tuple[Any, ...], outside: Path) -> bool:
    """Whether an audit event runs a command, or writes where no reader has to write."""
    if event in _RUN:
        return True
    if event != "open" or not isinstance(values[0], str | bytes | os.PathLike):
        return False
    name, mode, flags = os.path.abspath(os.fsdecode(values[0])), str(values[1] or ""), values[2]  # noqa: PTH100
    writing = set(mode) & set("wax+") or (isinstance(flags, int) and flags & _WRITING)
    places = (tempfile.gettempdir(), "/dev/null", "/proc/self/")
    return bool(writing) and (not name.startswith(places) or name.startswith(str(outside)))
