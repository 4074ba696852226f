"""Finds pictures with more pixels than may be decoded, by their headers."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import PurePosixPath

from taming_cli.data.formats import declared_size, excess, max_pixels
from taming_cli.data.sources import Item
from taming_cli.errors import BadImageError, UsageError

_log = logging.getLogger(__name__)

_JPEG = (".jpg", ".jpeg")
_PIXELS_PER_BYTE = 512
"""An upper bound for JPEG files: a progressive one of a single colour has 360."""


def find_oversized(items: Iterable[Item]) -> dict[str, str]:
    """Return name -> reason of the pictures that will be skipped for their size, and log a warning about them.

    Only headers are read. Raises UsageError where no other picture is left.
    """
    items = list(items)
    with ThreadPoolExecutor(8) as readers:
        reasons = zip(items, readers.map(_reason, items), strict=True)
        oversized = {item.name: reason for item, reason in reasons if reason is not None}
    if not oversized:
        return oversized
    name, reason = next(iter(oversized.items()))
    if len(oversized) == len(items):
        raise UsageError(f"none of the {len(items)} pictures can be read; the first is {name}: {reason}")
    first = "" if len(oversized) == 1 else "the first is "
    _log.warning("%d of %d pictures will be skipped; %s%s: %s", len(oversized), len(items), first, name, reason)
    return oversized


def _reason(item: Item) -> str | None:
    try:
        if PurePosixPath(item.name).suffix.lower() in _JPEG and item.size() * _PIXELS_PER_BYTE < max_pixels():
            return None
        if item.member is None:
            with item.path.open("rb") as stream:
                size = declared_size(stream)
        else:
            size = declared_size(BytesIO(item.head())) or declared_size(BytesIO(item.read()))
    except (BadImageError, OSError):  # reported when the picture is used
        return None
    return None if size is None else excess(size)
