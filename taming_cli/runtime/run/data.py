"""The record of a run's training data in its folder, 16 bytes per picture. By it, data are recognised after they were
moved, and other data are refused with a count of the differences."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from taming_cli.data.disk import no_handle, write_atomically
from taming_cli.errors import BadFileError
from taming_cli.runtime.checkpoint import read_header

DATA = "inputs.npz"
Hashes = npt.NDArray[np.uint64]


class Fingerprints(NamedTuple):
    """64 bits of the name and 64 bits of the content of each picture or sample, in the order of the listing."""

    names: Hashes
    contents: Hashes


@dataclass(frozen=True, kw_only=True)
class Data:
    """The contents of a training's inputs; `noun` names them in messages.

    `listings` holds the fingerprints by role: "inputs", and "val" where held-out pictures are given separately;
    `places` are the locations of each role's files. `hashes` has the hashes of other inputs by their names in messages.
    `init` is the model to start from. `by` holds the settings that decide which files are listed, and `about` the
    model file's record of the data. Unless `named`, the same contents under other names are the same data.
    """

    noun: str
    listings: Mapping[str, Fingerprints]
    places: Mapping[str, str]
    about: Mapping[str, Any]
    by: Mapping[str, Any]
    named: bool
    hashes: Mapping[str, str] = field(default_factory=dict)
    init: str | None = None


class DataDifference(NamedTuple):
    """How data differ from those of a run, as `text` for a message, or None. `moved` names the settings whose paths may
    differ, since the files there are known to be the same."""

    text: str | None
    moved: frozenset[str] = frozenset()


class _Recorded(NamedTuple):
    listings: Mapping[str, Fingerprints]
    hashes: Mapping[str, str]


def name_hashes(names: Iterable[str]) -> Hashes:
    """64 bits of each name."""
    return np.array([_hash(os.fsencode(name)) for name in names], dtype=np.uint64)


def content_hashes(contents: Iterable[bytes]) -> Hashes:
    """64 bits of each content."""
    return np.array([_hash(content) for content in contents], dtype=np.uint64)


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def compare(folder: Path, settings: Mapping[str, Any], inputs: Sequence[str], data: Data) -> DataDifference:
    """Compare data with those of the run in a folder, whose config.json holds `settings`.

    Runs that recorded no listing are compared by the hash in their model file, or else by the paths of their inputs.
    Where settings that decide which files are listed differ, nothing is compared, since those settings are refused
    anyway.
    """
    train = settings["config"].get("train", {})
    separate = train.get("val") is not None
    if separate != ("val" in data.listings) or any(train.get(name, value) != value for name, value in data.by.items()):
        return DataDifference(None)
    before = _read(folder / DATA)
    if before is None or before.listings.keys() != data.listings.keys():
        return _by_hash(folder, settings, inputs, data)
    for role, listing in data.listings.items():
        if difference := _difference(before.listings[role], listing, data.named):
            return DataDifference(_other(folder, data, f"{difference} in {data.places[role]}"))
    for name, digest in data.hashes.items():
        if before.hashes.get(name, digest) != digest:
            return DataDifference(f"{folder} was trained with another {name} than {data.places[name]} holds now")
    moved = {"val", "colours", "pictures", "perturb_prior"}
    if data.init is not None and "init" in before.hashes and _file_hash(data.init) == before.hashes["init"]:
        moved.add("init")
    return DataDifference(None, frozenset(moved))


def _other(folder: Path, data: Data, difference: str) -> str:
    return f"{folder} was trained on other {data.noun} than the files hold now ({difference})"


def _by_hash(folder: Path, settings: Mapping[str, Any], inputs: Sequence[str], data: Data) -> DataDifference:
    for name in ("last", "best"):
        path = folder / "checkpoints" / f"{name}.safetensors"
        try:
            about = read_header(path).about
        except BadFileError:
            continue
        if "sha256" not in about.get("data", {}):
            continue
        recorded = {key: value for key, value in about["data"].items() if key in data.about["data"]}
        if {key: data.about["data"][key] for key in recorded} != recorded:
            return DataDifference(_other(folder, data, data.places["inputs"]))
        table, given = about.get("colours"), data.about.get("colours")
        if table is not None and given is not None and table != given:
            return DataDifference(f"{folder} was trained with another colour table than {data.places['colour table']}")
        return DataDifference(None, frozenset({"val", "colours"}))
    if list(settings["inputs"]) != list(inputs):
        return DataDifference(
            f"{folder} was made from {' '.join(settings['inputs'])}, and did not record what those files held"
        )
    return DataDifference(None)


def _difference(before: Fingerprints, now: Fingerprints, named: bool) -> str | None:
    """`3 added, 1 gone, 2 changed`; None for the same."""
    if np.array_equal(before.contents, now.contents) and (not named or np.array_equal(before.names, now.names)):
        return None
    old, new = Counter(before.names.tolist()), Counter(now.names.tolist())
    old_pairs, new_pairs = (Counter(zip(*(each.tolist() for each in side), strict=True)) for side in (before, now))
    added, gone = (new - old).total(), (old - new).total()
    changed = (old & new).total() - (old_pairs & new_pairs).total()
    if not added + gone + changed:
        return "the same ones in another order"
    return f"{added} added, {gone} gone" + (f", {changed} changed" if changed else "")


def write_data(path: Path, data: Data, *, resumed: bool) -> None:
    """Record data. For a resumed run, the record of the model that it started from is kept."""
    before = _read(path)
    hashes = dict(data.hashes)
    if resumed:
        hashes |= {"init": before.hashes["init"]} if before is not None and "init" in before.hashes else {}
    elif data.init is not None:
        hashes["init"] = _file_hash(data.init)
    arrays: dict[str, Any] = {"hashes": np.array(json.dumps(hashes))}
    for role, listing in data.listings.items():
        arrays |= {f"{role}_{name}": values for name, values in listing._asdict().items()}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)

    write_atomically(path, write)


def _read(path: Path) -> _Recorded | None:
    """The record of a run; None where there is none, or it is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            roles = [name.removesuffix("_names") for name in arrays.files if name.endswith("_names")]
            listings = {role: Fingerprints(arrays[f"{role}_names"], arrays[f"{role}_contents"]) for role in roles}
            return _Recorded(listings, json.loads(str(arrays["hashes"])))
    except Exception as error:  # numpy, zip and zlib raise a dozen kinds for a damaged file
        if no_handle(error):
            raise
        return None


def _file_hash(path: str) -> str:
    """sha256 of a file; empty where it cannot be read."""
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        if no_handle(error):
            raise
        return ""
