"""Which condition map belongs to which picture: the one at the same place under its own folder, or the one that names
it, in a file of keypoints of many pictures."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from taming_cli.data.conditions.keypoints import sheets
from taming_cli.data.sources import Item, list_items
from taming_cli.errors import BadImageError, UsageError

_KEYPOINTS = "_keypoints"  # OpenPose writes the keypoints of b.jpg to b_keypoints.json


class Pairs(NamedTuple):
    """Pictures and their maps."""

    found: dict[str, Item]
    """A picture's name -> its map, in the order of the pictures."""

    missing: tuple[str, ...]
    """Names of the pictures that have no map."""

    unused: int
    """Maps without a picture."""


def partners(items: Sequence[Item], folder: Path, extensions: frozenset[str]) -> Pairs:
    """Pair pictures with the maps, ending in one of `extensions`, of a folder or archive.

    A map's relative path is its picture's, but for the extension (photos/a/b.jpg with seg/a/b.png) and a `_keypoints`
    before `.json`. `folder` may also be one file of keypoints of many pictures, see `each_picture`. Raises UsageError
    where two maps would belong to one picture, where no picture has a map, and for what `sources.list_items` refuses.
    """
    return _pair(items, each_picture(list_items([folder], extensions=extensions).items), folder)


def with_pictures(maps: Sequence[Item], folder: Path, where: Path) -> tuple[Item, ...]:
    """Maps that are listed in `where`, those in JSON with the pictures in `folder` that they belong to, paired as by
    `partners`. Of a file of many pictures those are left out that are not in `folder`. Raises UsageError as
    `partners`."""
    pictures = list_items([folder]).items
    of = {found.name: name for name, found in _pair(pictures, maps, where).found.items()}
    named = {item.name: item for item in pictures}
    return tuple(
        replace(each, picture=named[of[each.name]]) if each.name in of and _is_json(each) else each
        for each in maps
        if each.name in of or each.content is None
    )


def each_picture(items: Sequence[Item]) -> tuple[Item, ...]:
    """The items, those whose file holds keypoints of several pictures replaced by one for each of these, which has its
    picture's name. They keep their part of the file, so that it is parsed once and not by every process.

    A file that is listed alone counts as such even where it tells of one picture. Raises UsageError where two files
    tell of one picture.
    """
    found: list[Item] = []
    for item in items:
        parts = list(_parts(item)) if _is_json(item) and item.content is None else []
        found += parts if len(parts) > 1 or (parts and len(items) == 1) else [item]
    places: dict[str, Item] = {}
    for item in found:
        other = places.setdefault(item.name, item)
        if other is not item and item.content is not None:
            where = f"{other.path} and {item.path}" if other.path != item.path else f"{item.path} twice"
            raise UsageError(f"keypoints of {item.name} are in {where}; give one file for each picture")
    return tuple(found)


class Chosen(NamedTuple):
    """A map's file, and the picture whose keypoints are meant where it holds those of many."""

    file: Path
    picture: str | None


def chosen(path: Path) -> Chosen:
    """A path, or a file of keypoints of many pictures with the name of one after a colon: people.json:0001.jpg."""
    file, colon, name = str(path).rpartition(".json:")
    return Chosen(Path(f"{file}.json"), name) if colon and not path.exists() else Chosen(path, None)


def _parts(item: Item) -> Iterator[Item]:
    """A file of keypoints by picture, where it names these; nothing where it does not, or cannot be read: whoever reads
    it will say so."""
    try:
        beginning = item.head()
        if not any(key in beginning for key in _OF_MANY):
            return
        found = sheets(item.read())
    except BadImageError:
        return
    if all(sheet.name is not None for sheet in found):
        for sheet in found:
            assert sheet.name is not None
            yield Item(sheet.name, item.path, member=sheet.name, label=item.label, content=sheet.to_json())


def _pair(items: Sequence[Item], maps: Sequence[Item], folder: Path) -> Pairs:
    assert items
    pictures = {item.name: _stem(item.name) for item in items}
    taken = set(pictures.values())
    by_key: dict[str, Item] = {}
    last_parts: defaultdict[str, list[str]] = defaultdict(list)
    if any(item.content is not None for item in maps):
        for stem in taken:
            last_parts[_last_part(stem)].append(stem)
    for item in maps:
        stem = _stem(item.name)
        # A picture may itself be called b_keypoints; and a file of many may leave out the folders that pictures are in.
        named = last_parts.get(_last_part(stem), []) if item.content is not None else []
        key = stem if stem in taken else named[0] if len(named) == 1 else _short(item.name)
        other = by_key.setdefault(key, item)
        if other is not item:
            raise UsageError(f"{folder} holds two maps for one picture, {other.name} and {item.name}; move one away")
    found = {name: by_key[key] for name, key in pictures.items() if key in by_key}
    if not found:
        raise UsageError(
            f"no map in {folder} belongs to a picture of {_root(items[0])}: give maps the relative paths of their "
            f"pictures; there are, for example, {items[0].name} and {maps[0].name}; see: taming guide "
            "conditions"
        )
    used = {item.name for item in found.values()}
    missing = tuple(item.name for item in items if item.name not in found)
    return Pairs(found, missing, len(maps) - len(used))


_OF_MANY = (b'"images"', b'"annotations"', b'"image_id"')
"""What stands near the beginning of a file that may hold keypoints of many pictures."""


def _is_json(item: Item) -> bool:
    return item.content is not None or item.name.lower().endswith(".json")


def _last_part(stem: str) -> str:
    """The name without folders, and without zeros before it: COCO writes numbers with twelve digits."""
    name = PurePosixPath(stem).name
    return name.lstrip("0") or "0" if name.isdecimal() else name


def _stem(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def _short(name: str) -> str:
    """The stem, without OpenPose's addition."""
    stem = _stem(name)
    return stem.removesuffix(_KEYPOINTS) if name.lower().endswith(f"{_KEYPOINTS}.json") else stem


def _root(item: Item) -> Path:
    """The folder (or archive) that the item's name is relative to, as far as its path tells."""
    if item.member is None and os.fspath(item.path).endswith(f"/{item.name}"):
        return Path(os.fspath(item.path).removesuffix(item.name))
    return item.path.parent if item.member is None else item.path
