"""Check the folders that commands write to: write access, file locks and free space."""

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
"""Bytes for a run of `tiny`, with two trainer files while one replaces the other."""

LITTLE_ROOM = 5 * 2**30
"""Bytes below which a larger run may not fit."""


class CheckedFolder(NamedTuple):
    """A folder that commands write to. Without a `needed` one, commands fail; others are optional."""

    name: str
    folder: Path
    needed: bool = False
    remedy: str = ""


def folders() -> Iterator[Finding]:
    """The folders of runs and temporary files, torch's cache of weights, and our cache of statistics."""
    yield _check(
        CheckedFolder("runs", Path("runs").absolute(), needed=True, remedy="work in another folder, or give --out")
    )
    yield _check(CheckedFolder("temporary", Path(tempfile.gettempdir()), needed=True, remedy="set $TMPDIR"))
    from taming_cli.runtime.weights import cache_folder as cache_of_weights

    other_cache = "set $TORCH_HOME, or use `taming weights fetch NAME -o FOLDER`"
    yield _check(CheckedFolder("weights", cache_of_weights(), remedy=other_cache))
    from taming_cli.evaluate.extraction import CACHE_VARIABLE, cache_folder

    recomputed = f"set ${CACHE_VARIABLE}; without it they are recomputed each time"
    yield _check(CheckedFolder("statistics", cache_folder(), remedy=recomputed))


def _check(place: CheckedFolder) -> Finding:
    """Create, lock and remove a file in the folder, or in its nearest existing parent."""
    fault: Mark = "FAIL" if place.needed else "note"
    existing = next(folder for folder in (place.folder, *place.folder.parents) if folder.exists())
    values: dict[str, str | int] = {"path": str(place.folder)}
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".taming-doctor-") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if place.name == "runs":
                    message = f"files in {existing} cannot be locked ({error.strerror}), which training needs"
                    if error.errno in NONE:
                        message = f"{message}: start only one process in a run, or {place.remedy}"
                        return Finding("note", place.name, message, values)
                    return Finding(fault, place.name, f"{message}; {place.remedy}", values)
    except OSError as error:
        return Finding(fault, place.name, f"{existing} cannot be written ({error.strerror}); {place.remedy}", values)
    room = shutil.disk_usage(existing).free
    values |= {"free_bytes": room}
    message = f"{room / 2**30:.1f} GiB free in {place.folder}"
    if os.statvfs(existing).f_files and not os.statvfs(existing).f_favail:
        return Finding(fault, place.name, f"no more files fit into {existing} (inodes); {place.remedy}", values)
    if room < LEAST_ROOM:
        return Finding(fault, place.name, f"{message}: too little; free some space, or {place.remedy}", values)
    if room < LITTLE_ROOM and place.needed:
        return Finding("note", place.name, f"{message}: little for a long run", values)
    return Finding("ok", place.name, message, values)
