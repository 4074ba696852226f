"""Which condition map belongs to which picture: the one at the same place under its own folder."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from taming_cli.data.sources import Item, list_items
from taming_cli.errors import UsageError

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
    before `.json`. Raises UsageError where two maps would belong to one picture, where no picture has a map, and for
    what `sources.list_items` refuses.
    """
    assert items
    maps = list_items([folder], extensions=extensions).items
    pictures = {item.name: _stem(item.name) for item in items}
    taken = set(pictures.values())
    by_key: dict[str, Item] = {}
    for item in maps:
        stem = _stem(item.name)
        # A picture may itself be called b_keypoints.
        other = by_key.setdefault(stem if stem in taken else _short(item.name), item)
        if other is not item:
            raise UsageError(f"{folder} holds two maps for one picture, {other.name} and {item.name}; move one away")
    found = {name: by_key[key] for name, key in pictures.items() if key in by_key}
    if not found:
        raise UsageError(
            f"no map in {folder} belongs to a picture of {_root(items[0])}: give maps the relative paths of their "
            f"pictures; there are, for example, {items[0].name} and {maps[0].name}"
        )
    used = {item.name for item in found.values()}
    missing = tuple(item.name for item in items if item.name not in found)
    return Pairs(found, missing, len(maps) - len(used))


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
