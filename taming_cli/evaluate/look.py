"""A network looks at every picture of a side: what it saw is summed up, or kept, and statistics of it are cached.

Sums are in float64 and merged, so neither the batch size nor the number of threads and processes shows in a result, and
memory does not grow with the number of pictures. Where a measure needs every picture's features, these are kept.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from taming_cli.config.size import Size
from taming_cli.data.batches import Skipped
from taming_cli.errors import UsageError
from taming_cli.evaluate.protocol import versions
from taming_cli.evaluate.sides import Side
from taming_cli.judges.features import FeatureNetwork
from taming_cli.metrics import Moments
from taming_cli.runtime.checkpoint import write_atomically
from taming_cli.runtime.distributed import World

CACHE_VARIABLE = "TAMING_CACHE_DIR"
_LAYOUT = 1  # of a cached file: one of another number is not read


@dataclass(frozen=True, kw_only=True)
class Look:
    """How pictures are looked at."""

    network: FeatureNetwork
    size: Size | None = None
    batch_size: int = 32
    workers: int = 2
    world: World = field(default_factory=World)
    on_item: Callable[[int, int], None] | None = None
    """Told (pictures seen by this process, pictures in its part)."""


class Kept(NamedTuple):
    """Everything that was seen: features (n, D) fp32, and logits (n, C) where there are any, in the side's order."""

    features: Tensor
    logits: Tensor | None


@dataclass(frozen=True)
class Seen:
    """What is known of a side once all of it was looked at; `moments` is None where it was kept instead."""

    count: int
    smallest: Size | None
    largest: Size | None
    """Of the pictures as they are stored, by area."""

    moments: Moments | None = None
    kept: Kept | None = None
    skipped: tuple[Skipped, ...] = ()
    cached: bool = False

    def about(self) -> dict[str, Any]:
        """What a result says of it."""
        return {"count": self.count, "smallest": str(self.smallest), "largest": str(self.largest)}


@torch.inference_mode()
def look(side: Side, how: Look, *, keep: bool = False) -> Seen:
    """Every picture of a side; with `keep`, what was seen of each. UsageError where none can be read."""
    network, world = how.network, how.world
    device = next(network.parameters()).device
    every = slice(world.rank, None, world.size)
    total = len(range(len(side))[every])
    mine = _Part(Moments.of(torch.empty(0, network.dimensions)))
    for batch in side.batches(
        network.prepare, size=how.size, every=every, batch_size=how.batch_size, workers=how.workers
    ):
        mine.skipped += batch.skipped
        mine.sizes |= set(batch.sizes)
        if len(batch.prepared):
            seen = network(batch.prepared.to(device))
            mine.numbers += batch.numbers
            if keep:
                mine.features.append(seen.features.cpu())
                mine.logits += [seen.logits.cpu()] if seen.logits is not None else []
            else:
                mine.moments = mine.moments.merge(Moments.of(seen.features))
        if how.on_item is not None:
            how.on_item(len(mine.numbers) + len(mine.skipped), total)
    return _together(side, world.gather(mine), keep)


@dataclass
class _Part:
    """What one process saw."""

    moments: Moments
    numbers: list[int] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    sizes: set[Size] = field(default_factory=set)
    skipped: list[Skipped] = field(default_factory=list)


def _together(side: Side, parts: list[_Part], keep: bool) -> Seen:
    skipped = tuple(each for part in parts for each in part.skipped)
    numbers = [number for part in parts for number in part.numbers]
    if not numbers:
        first = f"; the first: {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise UsageError(f"{side.name}: none of the {len(side)} pictures can be read{first}")
    sizes = sorted(
        set().union(*(part.sizes for part in parts)), key=lambda size: (size.width * size.height, size.width)
    )
    seen = Seen(len(numbers), sizes[0], sizes[-1], skipped=skipped)
    if not keep:
        moments = parts[0].moments
        for part in parts[1:]:
            moments = moments.merge(part.moments)
        return replace(seen, moments=moments)
    order = torch.tensor(numbers).argsort()
    features = torch.cat([each for part in parts for each in part.features])[order]
    logits = [each for part in parts for each in part.logits]
    return replace(seen, kept=Kept(features, torch.cat(logits)[order] if logits else None))


def statistics(side: Side, how: Look, *, cache: bool = True) -> Seen:
    """`look`, or what it found before of the very same pictures, seen in the very same way by the same versions."""
    if not cache:
        return look(side, how)
    key = {"layout": _LAYOUT, "content": side.content_sha256(), "network": how.network.stamp, "size": str(how.size)}
    key |= {"versions": versions(), "device": next(how.network.parameters()).device.type}
    path = cache_folder() / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}.npz"
    found: Seen | None = how.world.gather(_read(path) if how.world.first else None)[0]
    if found is not None:
        return found
    seen = look(side, how)
    if how.world.first and not seen.skipped:  # what could not be read today may be readable tomorrow
        _write(path, seen)
    return seen


def cache_folder() -> Path:
    """Where statistics of references are kept: $TAMING_CACHE_DIR, else the user's cache."""
    own = os.environ.get(CACHE_VARIABLE)
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(own) if own else users / "taming") / "statistics"


def _read(path: Path) -> Seen | None:
    """What was cached, or None: a damaged file is made anew."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            moments = Moments(int(arrays["count"]), arrays["mean"], arrays["scatter"])
            smallest, largest = (Size.parse(str(arrays[name])) for name in ("smallest", "largest"))
            return Seen(moments.count, smallest, largest, moments, cached=True)
    except Exception:  # numpy, zip and zlib raise a dozen kinds for a damaged file
        return None


def _write(path: Path, seen: Seen) -> None:
    moments = seen.moments
    assert moments is not None
    arrays: dict[str, Any] = {"count": seen.count, "mean": moments.mean, "scatter": moments.scatter}
    arrays |= {"smallest": str(seen.smallest), "largest": str(seen.largest)}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)

    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the result
        write_atomically(path, write)
