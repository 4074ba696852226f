"""Features of every image in a set: accumulated as moments or kept one by one, with a cache for reference sets.

Moments are accumulated in float64 and merged exactly, so that a result does not depend on the batch size or on the
number of threads and processes, and memory does not grow with the number of images. Metrics that compare individual
images (KID, precision and recall, the inception score) keep the features or logits of each.
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
from taming_cli.evaluate.image_sets import ImageSet
from taming_cli.evaluate.protocol import versions
from taming_cli.metrics import Moments, RunningMoments
from taming_cli.pretrained.features import FeatureNetwork
from taming_cli.runtime.distributed import World

CACHE_VARIABLE = "TAMING_CACHE_DIR"
_LAYOUT = 1  # version of the cached files; part of their key


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A feature network and how images are fed to it."""

    network: FeatureNetwork
    size: Size | None = None
    batch_size: int = 32
    workers: int = 2
    world: World = field(default_factory=World)
    on_item: Callable[[int, int], None] | None = None
    """Called with (images processed, images in total) of this process."""


Keep = Literal["features", "logits"]
"""What is kept of every image: (D,) features or (C,) logits, float64."""


@dataclass(frozen=True)
class Extraction:
    """The features of an image set; `moments` is None if `kept` has the individual values instead."""

    count: int
    smallest: Size | None
    largest: Size | None
    """The smallest and largest stored image, by area."""

    moments: Moments | None = None
    kept: Tensor | None = None
    """(n, D) or (n, C) float64, in the set's order."""

    skipped: tuple[Skipped, ...] = ()
    cached: bool = False

    def protocol(self) -> dict[str, Any]:
        """The fields that a result records."""
        return {"count": self.count, "smallest": str(self.smallest), "largest": str(self.largest)}


@torch.inference_mode()
def extract_features(images: ImageSet, extractor: Extractor, *, keep: Keep | None = None) -> Extraction:
    """Run the network on every image of a set and accumulate moments, or keep each image's `keep`.

    UsageError if no image can be read.
    """
    network, world = extractor.network, extractor.world
    device = next(network.parameters()).device
    every = slice(world.rank, None, world.size)
    total = len(range(len(images))[every])
    share, running = _Share(), RunningMoments(network.dimensions)
    if keep is not None:
        share.kept = torch.empty(total, network.width(keep), dtype=torch.float64)
    for batch in images.batches(
        network.prepare, size=extractor.size, every=every, batch_size=extractor.batch_size, workers=extractor.workers
    ):
        share.skipped += batch.skipped
        share.sizes |= set(batch.sizes)
        if len(batch.prepared):
            output = network(batch.prepared.to(device))
            share.numbers += batch.numbers
            if keep is None:
                running.add(output.features)
            else:
                assert share.kept is not None
                rows = torch.tensor(batch.numbers) // world.size
                share.kept[rows] = getattr(output, keep).to("cpu", torch.float64)
        if extractor.on_item is not None:
            extractor.on_item(len(share.numbers) + len(share.skipped), total)
    if keep is None:
        share.moments = running.moments()
    return _merged(images, world.gather(share))


@dataclass
class _Share:
    """The part of one process: every `world.size`-th image, from its rank on."""

    moments: Moments | None = None
    kept: Tensor | None = None
    """One row per image; only those of `numbers` are filled."""

    numbers: list[int] = field(default_factory=list)
    sizes: set[Size] = field(default_factory=set)
    skipped: list[Skipped] = field(default_factory=list)


def _merged(images: ImageSet, shares: list[_Share]) -> Extraction:
    skipped = tuple(each for share in shares for each in share.skipped)
    numbers = [number for share in shares for number in share.numbers]
    if not numbers:
        first = f"; the first: {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise UsageError(f"{images.name}: none of the {len(images)} pictures can be read{first}")
    sizes = sorted(
        set().union(*(share.sizes for share in shares)), key=lambda size: (size.width * size.height, size.width)
    )
    extraction = Extraction(len(numbers), sizes[0], sizes[-1], skipped=skipped)
    kept = [share.kept for share in shares if share.kept is not None]
    if not kept:
        return replace(extraction, moments=Moments.together(share.moments for share in shares if share.moments))
    merged = kept[0]
    if len(kept) > 1:
        merged = torch.empty(len(images), merged.shape[1], dtype=merged.dtype)
        for rank, rows in enumerate(kept):
            merged[rank :: len(kept)] = rows
    return replace(extraction, kept=merged if len(numbers) == len(merged) else merged[sorted(numbers)])


def cached_features(images: ImageSet, extractor: Extractor) -> Extraction:
    """`extract_features`, or its cached moments for identical images, network, size and versions."""
    network = extractor.network
    key = {"layout": _LAYOUT, "content": images.content_sha256(), "network": network.stamp, "size": str(extractor.size)}
    key |= {"versions": versions(), "device": next(network.parameters()).device.type}
    path = cache_folder() / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}.npz"
    first = extractor.world.first
    cached: Extraction | None = extractor.world.gather(_read(path) if first else None)[0]
    if cached is not None:
        return cached
    extraction = extract_features(images, extractor)
    if first and not extraction.skipped:  # skipped images may be readable next time
        _write(path, extraction)
    return extraction


def cache_folder() -> Path:
    """The folder of cached reference statistics: below $TAMING_CACHE_DIR, or the user's cache."""
    own = os.environ.get(CACHE_VARIABLE)
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(own) if own else users / "taming") / "statistics"


def _read(path: Path) -> Extraction | None:
    """A cached extraction, or None if the file is missing or damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            moments = Moments(int(arrays["count"]), arrays["mean"], arrays["scatter"])
            if not (np.isfinite(moments.mean).all() and np.isfinite(moments.scatter).all()):
                return None
            smallest, largest = (Size.parse(str(arrays[name])) for name in ("smallest", "largest"))
            return Extraction(moments.count, smallest, largest, moments, cached=True)
    except Exception:  # numpy, zip and zlib raise a dozen kinds for a damaged file
        return None


def _write(path: Path, extraction: Extraction) -> None:
    moments = extraction.moments
    assert moments is not None
    arrays: dict[str, Any] = {"count": extraction.count, "mean": moments.mean, "scatter": moments.scatter}
    arrays |= {"smallest": str(extraction.smallest), "largest": str(extraction.largest)}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)

    with contextlib.suppress(DiskError):  # an unwritable cache costs time, not the result
        write_atomically(path, write)
