"""A network looks at every picture of a side: what it saw is summed up, or kept, and statistics of it are cached.

Sums are in float64 and merged, so neither the batch size nor the number of threads and processes shows in a result, and
memory does not grow with the number of pictures. Where a measure needs what was seen of every picture, that is kept.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from taming_cli.config.size import Size
from taming_cli.data.batches import Skipped
from taming_cli.data.disk import write_atomically
from taming_cli.errors import DiskError, UsageError
from taming_cli.evaluate.image_sets import Side
from taming_cli.evaluate.protocol import versions
from taming_cli.metrics import Moments, RunningMoments
from taming_cli.pretrained.features import FeatureNetwork
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


Keep = Literal["features", "logits"]
"""What is kept of every picture: (D,) or (C,), float64."""


@dataclass(frozen=True)
class Seen:
    """What is known of a side once all of it was looked at; `moments` is None where it was kept instead."""

    count: int
    smallest: Size | None
    largest: Size | None
    """Of the pictures as they are stored, by area."""

    moments: Moments | None = None
    kept: Tensor | None = None
    """(n, D) or (n, C) float64, in the side's order."""

    skipped: tuple[Skipped, ...] = ()
    cached: bool = False

    def about(self) -> dict[str, Any]:
        """What a result says of it."""
        return {"count": self.count, "smallest": str(self.smallest), "largest": str(self.largest)}


@torch.inference_mode()
def look(side: Side, how: Look, *, keep: Keep | None = None) -> Seen:
    """Every picture of a side, summed up or with that of each to `keep`. UsageError where none can be read."""
    network, world = how.network, how.world
    device = next(network.parameters()).device
    every = slice(world.rank, None, world.size)
    total = len(range(len(side))[every])
    mine, running = _Part(), RunningMoments(network.dimensions)
    if keep is not None:
        mine.kept = torch.empty(total, network.width(keep), dtype=torch.float64)
    for batch in side.batches(
        network.prepare, size=how.size, every=every, batch_size=how.batch_size, workers=how.workers
    ):
        mine.skipped += batch.skipped
        mine.sizes |= set(batch.sizes)
        if len(batch.prepared):
            seen = network(batch.prepared.to(device))
            mine.numbers += batch.numbers
            if keep is None:
                running.add(seen.features)
            else:
                assert mine.kept is not None
                places = torch.tensor(batch.numbers) // world.size
                mine.kept[places] = getattr(seen, keep).to("cpu", torch.float64)
        if how.on_item is not None:
            how.on_item(len(mine.numbers) + len(mine.skipped), total)
    if keep is None:
        mine.moments = running.moments()
    return _together(side, world.gather(mine))


@dataclass
class _Part:
    """What one process saw: every `world.size`-th picture of the side, from its rank on."""

    moments: Moments | None = None
    kept: Tensor | None = None
    """A row for each of them, of which those at `numbers` are filled."""

    numbers: list[int] = field(default_factory=list)
    sizes: set[Size] = field(default_factory=set)
    skipped: list[Skipped] = field(default_factory=list)


def _together(side: Side, parts: list[_Part]) -> Seen:
    skipped = tuple(each for part in parts for each in part.skipped)
    numbers = [number for part in parts for number in part.numbers]
    if not numbers:
        first = f"; the first: {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise UsageError(f"{side.name}: none of the {len(side)} pictures can be read{first}")
    sizes = sorted(
        set().union(*(part.sizes for part in parts)), key=lambda size: (size.width * size.height, size.width)
    )
    seen = Seen(len(numbers), sizes[0], sizes[-1], skipped=skipped)
    kept = [part.kept for part in parts if part.kept is not None]
    if not kept:
        return replace(seen, moments=Moments.together(part.moments for part in parts if part.moments))
    whole = kept[0]
    if len(kept) > 1:
        whole = torch.empty(len(side), whole.shape[1], dtype=whole.dtype)
        for rank, rows in enumerate(kept):
            whole[rank :: len(kept)] = rows
    return replace(seen, kept=whole if len(numbers) == len(whole) else whole[sorted(numbers)])


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
            if not (np.isfinite(moments.mean).all() and np.isfinite(moments.scatter).all()):
                return None
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

    with contextlib.suppress(DiskError):  # a cache that cannot be written costs time, not the result
        write_atomically(path, write)
