"""The split into training and held-out pictures, which follows from their contents; and digests of listings."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from taming_cli.data.sources import Item
from taming_cli.errors import BadImageError


class Split(NamedTuple):
    """Training and held-out items of one listing, each in its order."""

    train: tuple[Item, ...]
    held: tuple[Item, ...]


def split(
    items: Sequence[Item], *, held_fraction: float, at_least: int = 1, keys: Sequence[int | None] | None = None
) -> Split:
    """Hold out about `held_fraction` of the pictures.

    Whether a picture is held out depends on its own bytes (BLAKE2b over its size and first 64 KiB), not on its name or
    on the other pictures: copies of a picture stay together, and adding pictures does not move the others. There are
    two exceptions: where fewer than `at_least` distinct pictures would be held out, those with the smallest hashes are;
    and the one with the largest hash always remains for training. With fewer than two distinct pictures nothing is held
    out. Unreadable pictures belong to the training pictures, whose reader reports them. `keys` are the items' content
    keys, if known.
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
    """Return the `content_key` of each item."""
    with ThreadPoolExecutor(8) as readers:
        return list(readers.map(content_key, items))


def content_key(item: Item) -> int | None:
    """Return a 64-bit hash of a picture's size in bytes and its first 64 KiB; None if it cannot be read."""
    try:
        head = item.head()
        return int.from_bytes(hashlib.blake2b(b"%d\n" % item.size() + head, digest_size=8).digest(), "big")
    except BadImageError:
        return None


def digest(items: Iterable[Item]) -> str:
    """Return the sha256 of the sorted names and sizes (-1 for a missing file), by which listings are compared."""
    total = hashlib.sha256()
    for item in sorted(items, key=lambda item: item.name):
        try:
            size = item.size()
        except BadImageError:
            size = -1
        total.update(os.fsencode(item.name) + b"\0%d\n" % size)
    return total.hexdigest()
