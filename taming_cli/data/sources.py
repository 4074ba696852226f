"""List pictures: folders, files, lists of paths and archives -> items with a name, a label and their bytes.

An item is small, can be sent to another process, and opens nothing until it is read.

A label is the name of the first folder below the root, as in torchvision's ImageFolder. The root of an archive, or of a
list of paths, is the folder that all its pictures have in common. A `.cls` file beside a picture holds its label:
archives and folders may follow WebDataset's naming (see `webdataset`). Then a map beside its picture (`0001.seg.png`)
is not listed as a picture.

Pictures are recognised by their suffix, or, where the suffix is unknown, by their first 32 bytes.
"""

import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from taming_cli.data import archives, lists, webdataset
from taming_cli.data.archives import Member
from taming_cli.data.disk import no_handle
from taming_cli.data.formats import HEAD_BYTES, SIDECARS, format_of, holds_picture, is_unclear
from taming_cli.data.images import EXTENSIONS
from taming_cli.errors import BadFileError, BadImageError, UsageError

_log = logging.getLogger(__name__)
_HEAD_BYTES = 64 * 1024
_NAMED = 6


@dataclass(frozen=True, slots=True)
class Item:
    """The location of one picture: a file, or a member of an archive."""

    name: str
    """Relative, with `/`, unique in its listing. Bytes that are not utf-8 are kept as surrogates (PEP 383)."""

    path: Path
    """The file, or the archive that contains the picture."""

    member: str | None = None
    """The member's name in the archive."""

    label: str | None = None

    offset: int = 0
    """Of a member of a tar archive: the offset of its bytes in the unpacked archive."""

    length: int = 0
    """Of a member of an archive: its size in bytes."""

    content: bytes | None = None
    """The bytes of one part of a file, such as COCO's annotations of one picture; `member` is the name of the part."""

    picture: "Item | None" = None
    """The picture that a map belongs to, if known: keypoints may not state the size of their picture."""

    def read(self) -> bytes:
        """Return all bytes. Raises BadImageError if they cannot be read."""
        return self._read(None)

    def head(self) -> bytes:
        """Return the first 64 KiB. Raises BadImageError if they cannot be read."""
        return self._read(_HEAD_BYTES)

    def size(self) -> int:
        """Return the size in bytes. Raises BadImageError if the file is missing."""
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
            if no_handle(error):
                raise
            raise BadImageError(f"{self.name}: {error.strerror or error}") from error
        except Exception as error:  # each archive library has exceptions of its own for damaged data
            raise BadImageError(f"{self.name}: cannot be read from {self.path}: {error}") from error


class Listing(NamedTuple):
    """The pictures of some inputs, and the number of ignored files."""

    items: tuple[Item, ...]

    ignored: int
    """Number of files (or members) that are not pictures; hidden ones are not counted."""

    others: Mapping[str, int] = MappingProxyType({})
    """The same by suffix; maps beside their pictures by the end of their name (`.seg.png`)."""


def list_items(inputs: Sequence[Path], *, extensions: frozenset[str] = EXTENSIONS) -> Listing:
    """List the pictures (or other files ending in `extensions`) of folders, files, archives and lists of paths.

    Folders are searched recursively; for lists (`.txt`) see `lists.read_list`. Within an input, pictures are sorted by
    the bytes of their name, so that the order is the same on every file system; lists keep their order. Hidden files
    and folders are ignored; links to folders are followed, and each folder is visited once. A file given as an input
    is listed regardless of its suffix. With several folders, archives or lists, their names prefix the names of their
    pictures; a single file whose name is already used is prefixed with the name of its folder. Ignored files that
    could be pictures are logged as a warning.

    Raises UsageError for a path that does not exist or cannot be listed, for two pictures of the same name, and where
    there are no pictures; BadFileError for a damaged archive, and for contradictory labels.
    """
    inputs = list({path.resolve(): path for path in inputs}.values())
    several = sum(map(is_collection, inputs)) > 1
    items: list[Item] = []
    single_files: set[Path] = set()
    others: Counter[str] = Counter()
    ignored = 0
    for path in inputs:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        if path.is_dir():
            listing, prefix = _list_folder(path, extensions), path.resolve().name
        elif archives.is_archive(path):
            listing, prefix = _list_archive(path, extensions), path.name[: -len(archives.suffix(path))]
        elif lists.is_list(path):
            listing, prefix = items_from_paths(lists.read_list(path)), path.stem
        else:
            items.append(Item(path.name, path))
            single_files.add(path)
            continue
        items += [replace(item, name=f"{prefix}/{item.name}") for item in listing.items] if several else listing.items
        ignored += listing.ignored
        others.update(listing.others)
    if not items:
        kinds = f" there are {_counted(others)};" if others else ""
        raise UsageError(
            f"{', '.join(map(str, inputs)) or 'no input'}: no pictures found ({ignored} other files);{kinds} looked "
            f"for files ending in {' '.join(sorted(extensions))} (name an archive inside a folder explicitly)"
        )
    taken = Counter(item.name for item in items)
    items = [
        replace(item, name=f"{item.path.resolve().parent.name}/{item.name}")
        if taken[item.name] > 1 and item.path in single_files
        else item
        for item in items
    ]
    places: dict[str, Path] = {}
    for item in items:
        if item.name in places:
            both = f"{places[item.name]} and {item.path}"
            raise UsageError(f"two pictures have the name {item.name}: from {both}; give their common folder instead")
        places[item.name] = item.path
    where = ", ".join(map(str, inputs))
    _log.info("found %d pictures in %s, and %d other files", len(items), where, ignored)
    if noted := {end: count for end, count in others.items() if end not in SIDECARS}:
        total = sum(noted.values())
        _log.warning("%s: %d file%s ignored: %s", where, total, "s" if total > 1 else "", _counted(noted))
    return Listing(tuple(items), ignored, others)


def is_collection(path: Path) -> bool:
    """Return whether a path is a folder, an archive or a list of paths."""
    return path.is_dir() or archives.is_archive(path) or lists.is_list(path)


def items_from_paths(paths: Iterable[Path]) -> Listing:
    """Turn paths into items, in their order, named by the path below the folder that all have in common.

    Folders and repeated paths are ignored and counted. Any other path becomes an item, even of a missing file, whose
    reading then raises BadImageError. Raises UsageError where no path is left.
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


def _suffix(name: str) -> str:
    """Return the suffix in lower case, ten times as fast as pathlib."""
    dot = name.rfind(".")
    return name[dot:].lower() if name.rfind("/") + 1 < dot < len(name) - 1 else ""


def _counted(others: Mapping[str, int]) -> str:
    """Return `3 .mov, 2 .psd`, the most frequent first."""
    ordered = sorted(others.items(), key=lambda each: (-each[1], each[0]))
    named = [f"{count} {end or 'without a suffix'}" for end, count in ordered[:_NAMED]]
    rest = sum(count for _, count in ordered[_NAMED:])
    return ", ".join([*named, f"{rest} of other kinds"] if rest else named)


def _name_bytes(named: Item | os.DirEntry[str]) -> bytes:
    return os.fsencode(named.name)


def _first_folders(names: Sequence[str]) -> list[str | None]:
    """Return for each name the first folder below the common one; None for names directly in the common one."""
    folders = [PurePosixPath(name).parent.parts for name in names]
    depth = len(os.path.commonprefix(folders))  # noqa: RUF071 - of whole folders, not of characters
    return [parts[depth] if len(parts) > depth else None for parts in folders]


def _list_folder(root: Path, extensions: frozenset[str]) -> Listing:
    """List every picture below `root`. Links to folders are followed last, so that a folder keeps its own name."""
    names: list[str] = []
    labels: dict[str, bytes] = {}
    others: Counter[str] = Counter()
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
            name, suffix = below + entry.name, _suffix(entry.name)
            broken_link = entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110 - Path.exists may raise
            if not broken_link and entry.is_dir():
                (links if entry.is_symlink() else folders).append(f"{name}/")
                continue
            regular = not broken_link and entry.is_file()  # reading a pipe or a device may wait for ever
            if (suffix in extensions and (broken_link or regular)) or (
                regular and is_unclear(suffix, extensions) and holds_picture(entry.path)
            ):
                names.append(name)  # a broken link is reported when it is read
            else:
                others[suffix] += 1
                if regular and suffix == webdataset.LABEL:
                    labels[name] = _label_file(root / name)
    try:
        samples = webdataset.samples(names, labels, (), captions=False)
    except BadFileError as error:
        raise BadFileError(f"{root}: {error}") from error
    others.update(map(_field, samples.companions))
    items = [
        Item(name, root / name, label=samples.labels.get(name, name.split("/")[0] if "/" in name else None))
        for name in sorted(samples.pictures, key=os.fsencode)
    ]
    return Listing(tuple(items), others.total(), others)


def _label_file(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(webdataset.LONGEST + 1)
    except OSError as error:
        raise BadFileError(f"{path}: the label cannot be read: {error.strerror or error}") from error


def _field(name: str) -> str:
    """Return `.seg.png` of `a/0001.seg.png`."""
    return "".join(PurePosixPath(name).suffixes[-2:])


def _list_archive(path: Path, extensions: frozenset[str]) -> Listing:
    """List every picture in an archive, sorted by name.

    Of members with the same name the last counts, as when unpacking. In a WebDataset, where each is a sample, two that
    differ are an error.
    """

    def wanted(name: str) -> int:
        suffix = _suffix(name)
        if suffix == webdataset.LABEL:
            return webdataset.LONGEST + 1
        return HEAD_BYTES if name and is_unclear(suffix, extensions) else 0

    members, replaced = archives.contents(path, wanted)
    labels = {name: member.start for name, member in members.items() if _suffix(name) == webdataset.LABEL}
    pictures = [
        name
        for name, member in members.items()
        if _suffix(name) in extensions
        or (is_unclear(_suffix(name), extensions) and format_of(member.start) is not None)
    ]
    try:
        samples = webdataset.samples(sorted(pictures, key=os.fsencode), labels, members)
        if samples.labels:
            kept = {*samples.pictures, *labels}
            _check_repeated(path, members, [(name, member) for name, member in replaced if name in kept])
    except BadFileError as error:
        raise BadFileError(f"{path}: {error}") from error
    items = []
    for name, folder in zip(samples.pictures, _first_folders(samples.pictures), strict=True):
        member = members[name]
        label = samples.labels.get(name, folder)
        items.append(Item(name, path, member.stored_name, label, member.offset, member.length))
    taken = {*pictures}
    others = Counter(_suffix(name) for name in members if name not in taken)
    others.update(map(_field, samples.companions))
    return Listing(tuple(items), len(members) - len(items), others)


def _check_repeated(path: Path, members: Mapping[str, Member], replaced: Sequence[tuple[str, Member]]) -> None:
    """Raise BadFileError, without the archive's name, where two members of one name differ."""

    def content(member: Member) -> object:
        if member.checksum is not None:
            return member.length, member.checksum
        return archives.read(path, member.stored_name, member.offset, member.length)

    for name, earlier in replaced:
        if earlier.length != members[name].length or content(earlier) != content(members[name]):
            raise BadFileError(
                f"{earlier.stored_name} and {members[name].stored_name} differ, and both are {name}; in a WebDataset "
                "each key is one sample: rename the samples, or remove one of the two"
            )
