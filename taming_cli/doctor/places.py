"""Where files go: whether folders can be written, files locked, and how much room there is."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from taming_cli.data.locks import NONE
from taming_cli.doctor.findings import Finding, Mark

LEAST_ROOM = 256 * 2**20
"""Bytes that a run of `tiny` needs, its trainer file being written beside the last one."""

LITTLE_ROOM = 5 * 2**30
"""Bytes below which a larger run may not fit."""


class Place(NamedTuple):
    """A folder that commands write to. Where a run cannot go nothing works; other places can be done without."""

    name: str
    folder: Path
    needed: bool = False
    remedy: str = ""


def folders() -> Iterator[Finding]:
    """Runs, the system's folder for temporary files, torch's cache of weights, our cache of statistics."""
    yield _look(Place("runs", Path("runs").absolute(), needed=True, remedy="work in another folder, or give --out"))
    yield _look(Place("temporary", Path(tempfile.gettempdir()), needed=True, remedy="set $TMPDIR"))
    from taming_cli.runtime.weights import cache_folder as cache_of_weights

    fetched = "set $TORCH_HOME, or use `taming weights fetch NAME -o FOLDER`"
    yield _look(Place("weights", cache_of_weights(), remedy=fetched))
    from taming_cli.evaluate.extraction import CACHE_VARIABLE, cache_folder

    made_anew = f"set ${CACHE_VARIABLE}; until then they are made anew each time"
    yield _look(Place("statistics", cache_folder(), remedy=made_anew))


def _look(place: Place) -> Finding:
    """Try it: make a file in the folder, or in the nearest one there is above it, lock it, and take it away."""
    fault: Mark = "FAIL" if place.needed else "note"
    here = next(folder for folder in (place.folder, *place.folder.parents) if folder.exists())
    values: dict[str, str | int] = {"path": str(place.folder)}
    try:
        with tempfile.NamedTemporaryFile(dir=here, prefix=".taming-doctor-") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if place.name == "runs":
                    says = f"files in {here} cannot be locked ({error.strerror}), as a training locks its run"
                    if error.errno in NONE:
                        says = f"{says}: start only one process in a run, or {place.remedy}"
                        return Finding("note", place.name, says, values)
                    return Finding(fault, place.name, f"{says}; {place.remedy}", values)
    except OSError as error:
        return Finding(fault, place.name, f"{here} cannot be written ({error.strerror}); {place.remedy}", values)
    room = shutil.disk_usage(here).free
    values |= {"free_bytes": room}
    says = f"{room / 2**30:.1f} GiB free in {place.folder}"
    if os.statvfs(here).f_files and not os.statvfs(here).f_favail:
        return Finding(fault, place.name, f"no further file fits into {here} (inodes); {place.remedy}", values)
    if room < LEAST_ROOM:
        return Finding(fault, place.name, f"{says}: too little; make room, or {place.remedy}", values)
    if room < LITTLE_ROOM and place.needed:
        return Finding("note", place.name, f"{says}: little for a long run", values)
    return Finding("ok", place.name, says, values)
