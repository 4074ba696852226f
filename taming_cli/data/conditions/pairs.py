"""Pair pictures with condition maps: by equal relative paths in two folders, or by the picture's name in a file of
keypoints of many pictures."""

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

    maps: dict[str, Item]
    """Name of a picture -> its map, in the order of the pictures."""

    missing: tuple[str, ...]
    """Names of the pictures without a map."""

    unused: int
    """Number of maps without a picture."""


def partners(items: Sequence[Item], folder: Path, extensions: frozenset[str]) -> Pairs:
    """Pair pictures with the maps, ending in one of `extensions`, of a folder or archive.

    A map has its picture's relative path, except for the extension (photos/a/b.jpg and seg/a/b.png) and a `_keypoints`
    before `.json`. `folder` may also be a file of keypoints of many pictures, see `each_picture`. Raises UsageError
    where two maps belong to one picture, where no picture has a map, and as `sources.list_items` does.
    """
    return _pair(items, each_picture(list_items([folder], extensions=extensions).items), folder)


def with_pictures(maps: Sequence[Item], folder: Path, where: Path) -> tuple[Item, ...]:
    """Attach to maps in JSON, listed in `where`, the pictures in `folder` that they belong to, paired as by `partners`.

    Pictures of a file of many that are not in `folder` are left out. Raises UsageError as `partners` does.
    """
    pictures = list_items([folder]).items
    picture_of = {paired.name: name for name, paired in _pair(pictures, maps, where).maps.items()}
    named = {item.name: item for item in pictures}
    return tuple(
        replace(each, picture=named[picture_of[each.name]]) if each.name in picture_of and _is_json(each) else each
        for each in maps
        if each.name in picture_of or each.content is None
    )


def each_picture(items: Sequence[Item]) -> tuple[Item, ...]:
    """Replace each file of keypoints of several pictures by an item per picture, with the picture's name.

    These items carry their part of the file, so that it is parsed once and not by every process. A single file is
    replaced even if it holds one picture. Raises UsageError where two files hold keypoints of one picture.
    """
    single: list[Item] = []
    for item in items:
        parts = list(_parts(item)) if _is_json(item) and item.content is None else []
        single += parts if len(parts) > 1 or (parts and len(items) == 1) else [item]
    places: dict[str, Item] = {}
    for item in single:
        other = places.setdefault(item.name, item)
        if other is not item and item.content is not None:
            where = f"{other.path} and {item.path}" if other.path != item.path else f"{item.path} twice"
            raise UsageError(f"keypoints of {item.name} are in {where}; give one file for each picture")
    return tuple(single)


class Chosen(NamedTuple):
    """A map's file, and, in a file of keypoints of many pictures, the name of one of them."""

    file: Path
    picture: str | None


def chosen(path: Path) -> Chosen:
    """Parse a path, or a file of keypoints of many pictures and the name of one: people.json:0001.jpg."""
    file, colon, name = str(path).rpartition(".json:")
    return Chosen(Path(f"{file}.json"), name) if colon and not path.exists() else Chosen(path, None)


def _parts(item: Item) -> Iterator[Item]:
    """Yield a file of keypoints by picture, if it names them; unreadable files are reported when they are read."""
    try:
        beginning = item.head()
        if not any(key in beginning for key in _OF_MANY):
            return
        pictures = sheets(item.read())
    except BadImageError:
        return
    if all(sheet.name is not None for sheet in pictures):
        for sheet in pictures:
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
        # A picture may be called b_keypoints; and a file of many may omit the folders of its pictures.
        named = last_parts.get(_last_part(stem), []) if item.content is not None else []
        key = stem if stem in taken else named[0] if len(named) == 1 else _short(item.name)
        other = by_key.setdefault(key, item)
        if other is not item:
            raise UsageError(f"{folder} holds two maps for one picture, {other.name} and {item.name}; move one away")
    paired = {name: by_key[key] for name, key in pictures.items() if key in by_key}
    if not paired:
        raise UsageError(
            f"no map in {folder} belongs to a picture of {_root(items[0])}: give maps the relative paths of their "
            f"pictures; examples are {items[0].name} and {maps[0].name}; see: taming guide conditions"
        )
    used = {item.name for item in paired.values()}
    missing = tuple(item.name for item in items if item.name not in paired)
    return Pairs(paired, missing, len(maps) - len(used))


_OF_MANY = (b'"images"', b'"annotations"', b'"image_id"')
"""Keys near the beginning of files that may hold keypoints of many pictures."""


def _is_json(item: Item) -> bool:
    return item.content is not None or item.name.lower().endswith(".json")


def _last_part(stem: str) -> str:
    """Return the name without folders and leading zeros; COCO writes numbers with twelve digits."""
    name = PurePosixPath(stem).name
    return name.lstrip("0") or "0" if name.isdecimal() else name


def _stem(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def _short(name: str) -> str:
    """Return the stem without OpenPose's `_keypoints`."""
    stem = _stem(name)
    return stem.removesuffix(_KEYPOINTS) if name.lower().endswith(f"{_KEYPOINTS}.json") else stem


def _root(item: Item) -> Path:
    """Return the folder (or archive) that the item's name is relative to, as far as its path shows."""
    if item.member is None and os.fspath(item.path).endswith(f"/{item.name}"):
        return Path(os.fspath(item.path).removesuffix(item.name))
    return item.path.parent if item.member is None else item.path
