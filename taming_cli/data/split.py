"""Which pictures are held out: a split that follows from the pictures' contents; and whether a listing has changed."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from taming_cli.data.sources import Item
from taming_cli.errors import BadImageError


class Split(NamedTuple):
    """Two sides of one listing, each in its order."""

    train: tuple[Item, ...]
    held: tuple[Item, ...]


def split(
    items: Sequence[Item], *, held_fraction: float, at_least: int = 1, keys: Sequence[int | None] | None = None
) -> Split:
    """Hold out about `held_fraction` of the pictures.

    A picture's side follows from its own bytes (BLAKE2b over its size and first 64 KiB), not from its name or from the
    other pictures: copies of a picture land on one side, and adding pictures moves none that is there. Only where that
    would hold out fewer than `at_least` different pictures, or leave none to train on, the ones with the smallest (for
    training: the largest) hashes change sides. With fewer than two different pictures nothing is held out. What cannot
    be read goes to the training side, which will say so. `keys` are the items' content keys, where they are known.
    """
    keys = content_keys(items) if keys is None else keys
    distinct = sorted({key for key in keys if key is not None})
    held = {key for key in distinct if key < held_fraction * 2**64}
    if len(held) < at_least:
        held = set(distinct[:at_least])
    held -= set(distinct[-1:])  # the last is held only if all are
    return Split(
        tuple(item for item, key in zip(items, keys, strict=True) if key not in held),
        tuple(item for item, key in zip(items, keys, strict=True) if key in held),
    )


def content_keys(items: Sequence[Item]) -> list[int | None]:
    """`content_key` of each item."""
    with ThreadPoolExecutor(8) as readers:
        return list(readers.map(content_key, items))


def content_key(item: Item) -> int | None:
    """64 bits that follow from a picture's size in bytes and its first 64 KiB; None if it cannot be read."""
    try:
        head = item.head()
        return int.from_bytes(hashlib.blake2b(b"%d\n" % item.size() + head, digest_size=8).digest(), "big")
    except BadImageError:
        return None


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
