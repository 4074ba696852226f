"""Which pictures there are: folders, files, path lists and archives -> items that know their name and their bytes.

An item is small and can be sent to another process; it opens nothing until it is read.

A label is the first folder's name under the root, as in torchvision's ImageFolder; the root of an archive, like that of
a list of paths, is the folder that all its pictures have in common. In tar shards with WebDataset's naming (`0001.jpg`,
`0001.cls`, `0001.seg.png`) the text of the `.cls` member is the label, and where a sample has a plain picture, members
with a dotted field (`0001.seg.png`) are that picture's companions, not pictures to take.
"""

import hashlib
import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from taming_cli.data import archives
from taming_cli.data.images import EXTENSIONS
from taming_cli.errors import BadImageError, UsageError

_log = logging.getLogger(__name__)
_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Item:
    """One picture's place: a file, or a member of an archive."""

    name: str
    """Relative, with `/`, unique in its listing. Bytes that are no utf-8 are kept as surrogates (PEP 383)."""

    path: Path
    """The file, or the archive that the picture is in."""

    member: str | None = None
    """The member's name in the archive."""

    label: str | None = None

    offset: int = 0
    """Of a member of a tar archive: where its bytes start in the unpacked archive."""

    length: int = 0
    """Of a member of an archive: its size in bytes."""

    content: bytes | None = None
    """Of a part of a file that holds many, as COCO's annotations do: its bytes. `member` is the part's name."""

    picture: "Item | None" = None
    """The picture that a map belongs to, where one was named for it: keypoints may not tell their picture's size."""

    def read(self) -> bytes:
        """All bytes. BadImageError if they cannot be read."""
        return self._read(None)

    def head(self) -> bytes:
        """The first 64 KiB. BadImageError if they cannot be read."""
        return self._read(_HEAD_BYTES)

    def size(self) -> int:
        """Size in bytes. BadImageError if the file is not there."""
        if self.content is not None:
            return len(self.content)
        if self.member is not None:
            return self.length
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise BadImageError(f"{self.name}: {error.strerror or error}") from error

    def _read(self, limit: int | None) -> bytes:
        if self.content is not None:
            return self.content[:limit]
        try:
            if self.member is None:
                with self.path.open("rb") as stream:
                    return stream.read(-1 if limit is None else limit)
            count = self.length if limit is None else min(limit, self.length)
            return archives.read(self.path, self.member, self.offset, count)
        except OSError as error:
            raise BadImageError(f"{self.name}: {error.strerror or error}") from error
        except Exception as error:  # each kind of archive brings its own classes for damaged data
            raise BadImageError(f"{self.name}: cannot be read from {self.path}: {error}") from error


class Listing(NamedTuple):
    """What was found."""

    items: tuple[Item, ...]

    ignored: int
    """Files (or members) passed over because they are not pictures; hidden ones are not counted."""


class Split(NamedTuple):
    """Two sides of one listing, each in its order."""

    train: tuple[Item, ...]
    held: tuple[Item, ...]


def list_items(inputs: Sequence[Path], *, extensions: frozenset[str] = EXTENSIONS) -> Listing:
    """Folders (recursively), single files and archives -> their pictures (or other files ending in `extensions`).

    Within an input, pictures are sorted by the bytes of their name, so that the order is the same on every file system.
    Hidden files and folders are passed over; links to folders are followed, each folder taken once. A file named as an
    input is taken whatever its suffix. Where several folders or archives are given, the name of each comes before its
    pictures' names; a single file whose name is taken already gets its folder's name before its own.

    Raises UsageError for a path that does not exist or cannot be listed, for two pictures that would have the same
    name, and where there is no picture at all; BadFileError for a damaged archive.
    """
    inputs = list({path.resolve(): path for path in inputs}.values())
    several = sum(path.is_dir() or archives.is_archive(path) for path in inputs) > 1
    items: list[Item] = []
    single: set[Path] = set()
    ignored = 0
    for path in inputs:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        if not path.is_dir() and not archives.is_archive(path):
            items.append(Item(path.name, path))
            single.add(path)
            continue
        found = _list_folder(path, extensions) if path.is_dir() else _list_archive(path, extensions)
        prefix = path.resolve().name if path.is_dir() else path.name[: -len(archives.suffix(path))]
        items += [replace(item, name=f"{prefix}/{item.name}") for item in found.items] if several else found.items
        ignored += found.ignored
    if not items:
        raise UsageError(
            f"{', '.join(map(str, inputs)) or 'no input'}: no pictures found ({ignored} other files); looked for files "
            f"ending in {' '.join(sorted(extensions))} (an archive inside a folder has to be given by its own name)"
        )
    taken = Counter(item.name for item in items)
    items = [
        replace(item, name=f"{item.path.resolve().parent.name}/{item.name}")
        if taken[item.name] > 1 and item.path in single
        else item
        for item in items
    ]
    places: dict[str, Path] = {}
    for item in items:
        if item.name in places:
            both = f"{places[item.name]} and {item.path}"
            raise UsageError(
                f"two pictures would both be named {item.name}: from {both}; give their common folder instead"
            )
        places[item.name] = item.path
    _log.info("found %d pictures in %s, and %d other files", len(items), ", ".join(map(str, inputs)), ignored)
    return Listing(tuple(items), ignored)


def read_paths(stream: BinaryIO, *, nul: bool) -> list[Path]:
    """A list of paths, ended by newlines (or by NUL bytes, for names that hold newlines); empty ones are dropped.

    Bytes that are no valid utf-8 are kept as surrogates (PEP 383). Raises UsageError for NUL bytes where `nul` is off.
    """
    data = stream.read()
    if nul:
        parts = data.split(b"\0")
    elif b"\0" in data:
        raise UsageError("the list of paths holds NUL bytes, as `find -print0` writes them; add -0")
    else:
        parts = [part.removesuffix(b"\r") for part in data.split(b"\n")]
    return [Path(os.fsdecode(part)) for part in parts if part]


def items_from_paths(paths: Iterable[Path]) -> Listing:
    """Listed paths -> items, in the order of the list, named by the path below the folder that all have in common.

    Folders in the list, and paths listed before, are passed over and counted as ignored. Any other path becomes an
    item, even if nothing is there: reading it then raises BadImageError. Raises UsageError where no path is left.
    """
    listed: dict[str, Path] = {}
    ignored = 0
    for path in paths:
        absolute = os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps "..", Path.resolve follows links
        if absolute in listed or os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a parent is closed
            ignored += 1
        else:
            listed[absolute] = path
    if not listed:
        raise UsageError(f"the list of paths names no picture ({ignored} folders or repetitions in it)")
    common = os.path.commonpath([Path(absolute).parent for absolute in listed])
    names = [Path(absolute).relative_to(common).as_posix() for absolute in listed]
    items = (Item(*named) for named in zip(names, listed.values(), strict=True))
    labelled = zip(items, _first_folders(names), strict=True)
    return Listing(tuple(replace(item, label=label) for item, label in labelled), ignored)


def split(items: Sequence[Item], *, held_fraction: float, at_least: int = 1) -> Split:
    """Hold out about `held_fraction` of the pictures.

    A picture's side follows from its own bytes (BLAKE2b over its size and first 64 KiB), not from its name or from the
    other pictures: copies of a picture land on one side, and adding pictures moves none that is there. Only where that
    would hold out fewer than `at_least` different pictures, or leave none to train on, the ones with the smallest (for
    training: the largest) hashes change sides. With fewer than two different pictures nothing is held out. What cannot
    be read goes to the training side, which will say so.
    """
    with ThreadPoolExecutor(8) as readers:
        keys = list(readers.map(content_key, items))
    distinct = sorted({key for key in keys if key is not None})
    held = {key for key in distinct if key < held_fraction * 2**64}
    if len(held) < at_least:
        held = set(distinct[:at_least])
    held -= set(distinct[-1:])  # the last is held only if all are
    return Split(
        tuple(item for item, key in zip(items, keys, strict=True) if key not in held),
        tuple(item for item, key in zip(items, keys, strict=True) if key in held),
    )


def digest(items: Iterable[Item]) -> str:
    """sha256 over the sorted names and sizes (-1 for a missing file), to tell whether a listing is the same one."""
    total = hashlib.sha256()
    for item in sorted(items, key=lambda item: item.name):
        try:
            size = item.size()
        except BadImageError:
            size = -1
        total.update(os.fsencode(item.name) + b"\0%d\n" % size)
    return total.hexdigest()


def content_key(item: Item) -> int | None:
    """64 bits that follow from a picture's size in bytes and its first 64 KiB; None if it cannot be read."""
    try:
        head = item.head()
        return int.from_bytes(hashlib.blake2b(b"%d\n" % item.size() + head, digest_size=8).digest(), "big")
    except BadImageError:
        return None


def _is_wanted(name: str, extensions: frozenset[str]) -> bool:
    return PurePosixPath(name).suffix.lower() in extensions


def _name_bytes(named: Item | os.DirEntry[str]) -> bytes:
    return os.fsencode(named.name)


def _first_folders(names: Sequence[str]) -> list[str | None]:
    """For each name the first folder below the one that all have in common; None for those directly in that."""
    folders = [PurePosixPath(name).parent.parts for name in names]
    depth = len(os.path.commonprefix(folders))  # noqa: RUF071 - of whole folders, not of characters
    return [parts[depth] if len(parts) > depth else None for parts in folders]


def _list_folder(root: Path, extensions: frozenset[str]) -> Listing:
    """Every picture below `root`. Links to folders are followed last, so that a folder keeps its own name."""
    items: list[Item] = []
    ignored = 0
    seen: set[tuple[int, int]] = set()
    folders, links = deque([""]), deque[str]()
    while folders or links:
        below = folders.popleft() if folders else links.popleft()
        try:
            status = (root / below).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / below) as entries:
                visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=_name_bytes)
        except OSError as error:
            raise UsageError(f"{root / below}: the folder cannot be listed: {error.strerror or error}") from error
        for entry in visible:
            name = below + entry.name
            broken_link = entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110 - Path.exists may raise
            if not broken_link and entry.is_dir():
                (links if entry.is_symlink() else folders).append(f"{name}/")
            elif _is_wanted(name, extensions) and (broken_link or entry.is_file()):
                # The former is reported when it is read.
                items.append(Item(name, root / name, label=name.split("/")[0] if "/" in name else None))
            else:  # pipes and devices too: reading one may wait for ever
                ignored += 1
    return Listing(tuple(sorted(items, key=_name_bytes)), ignored)


def _list_archive(path: Path, extensions: frozenset[str]) -> Listing:
    """Every picture in an archive, sorted by name. Of members with the same name the last counts, as when unpacking."""
    members = archives.members(path)
    # WebDataset: a sample's key is its path up to the first dot of the file name, the field is what follows.
    keys = {name: name[: len(name) - len(PurePosixPath(name).name.partition(".")[2])] for name in members}
    classes = {keys[name]: member.text for name, member in members.items() if member.text is not None}
    names = sorted((name for name in members if _is_wanted(name, extensions)), key=os.fsencode)
    plain = {keys[name] for name in names if "." not in name[len(keys[name]) :]}
    if any(name[len(keys[name]) :] in ("cls", "json", "txt") and keys[name] in plain for name in members):
        names = [name for name in names if keys[name] not in plain or "." not in name[len(keys[name]) :]]

    items = []
    for name, folder in zip(names, _first_folders(names), strict=True):
        member = members[name]
        label = classes.get(keys[name], folder)
        items.append(Item(name, path, member.stored_name, label, member.offset, member.length))
    return Listing(tuple(items), len(members) - len(items))
