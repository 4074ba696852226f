"""Holds out a tenth of the pictures, with their classes and maps, as folders of links."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from taming_cli.config.prior import PriorTrainConfig
from taming_cli.data.conditions.pairs import partners
from taming_cli.data.images import EXTENSIONS
from taming_cli.data.sources import Item, list_items
from taming_cli.errors import UsageError

SHARE = 0.1
LEAST = 2
"""Held-out pictures: a distance needs two."""
FEWEST = 8
"""Pictures that a table needs."""
MADE = "split.json"
UNLABELLED = 255


class Parts(NamedTuple):
    """`train` and `held` hold the folders `images` and, with maps, `segmentation`."""

    train: Path
    held: Path
    fraction: float
    """With `--held FRACTION`, `train-prior` holds out the same pictures of a token file of all of them."""
    labels: tuple[str, ...]
    """The classes of the training pictures, sorted; none if not all pictures are in class folders."""
    counts: tuple[int, int]
    """Pictures for training and held-out ones."""

    @property
    def held_of_training(self) -> list[str]:
        """Flags for the usual share of held-out samples of a token file of the training pictures. `train-prior` holds
        out the names with the smallest hashes, and those up to `fraction` are not among them."""
        return ["--held", f"{self.fraction + PriorTrainConfig.held * (1 - self.fraction):.4f}"]


def split(images: Path, out: Path, maps: Path | None = None) -> Parts:
    """Link the pictures of a folder, and their maps, into `out/train` and `out/held`. Held out are those whose names
    have the smallest hashes, as by `train-prior`.

    UsageError if the folder does not exist, holds too few pictures, or is not the one that `out` was made from; and if
    maps are missing.
    """
    if not images.is_dir():
        raise UsageError(f"{images} is not a folder; give a folder of pictures")
    items = list_items([images]).items
    if len(items) < FEWEST:
        raise UsageError(f"{images} has {len(items)} pictures; at least {FEWEST} are needed, and hundreds are better")
    found = {} if maps is None else _maps(items, maps)
    order = sorted(items, key=lambda item: _key(item.name))
    count = max(LEAST, round(SHARE * len(items)))
    held = {item.name for item in order[:count]}
    fraction = (_key(order[count - 1].name) + _key(order[count].name)) / 2 / 2**64
    made: dict[str, Any] = {
        "images": str(images.resolve()),
        "maps": None if maps is None else str(maps.resolve()),
        "names": [item.name for item in items],
        "held": sorted(held),
    }
    _check(out / MADE, made)
    for item in items:
        part = out / ("held" if item.name in held else "train")
        link(part / "images" / item.name, item.path)
        if item.name in found:
            link(part / "segmentation" / found[item.name].name, found[item.name].path)
    (out / MADE).write_text(json.dumps(made) + "\n", encoding="utf-8")
    every = all(item.label is not None for item in items)
    labels = tuple(sorted({item.label for item in items if every and item.label and item.name not in held}))
    return Parts(out / "train", out / "held", fraction, labels, (len(items) - count, count))


def label_flags(maps: Path) -> list[str]:
    """Flags of `train-vqgan` for the labels of all maps, not only those for training; 255 counts as "unlabelled". None
    for maps in true colour, which need a table."""
    labels: set[int] = set()
    for item in list_items([maps]).items:
        with Image.open(item.path) as image:
            if len(image.getbands()) > 1:
                return []
            labels.update(np.unique(np.asarray(image)).tolist())
    unlabelled = UNLABELLED in labels
    count = max(labels - {UNLABELLED}, default=0) + 1 + unlabelled
    return ["--labels", str(count), *["--unlabelled"] * unlabelled]


def _maps(items: Sequence[Item], maps: Path) -> dict[str, Item]:
    if not maps.is_dir():
        raise UsageError(f"{maps} is not a folder; give the folder of the pictures' label maps")
    pairs = partners(items, maps, EXTENSIONS)
    if pairs.missing:
        raise UsageError(
            f"{len(pairs.missing)} of {len(items)} pictures have no map in {maps}; the first is {pairs.missing[0]}"
        )
    return dict(pairs.maps)


def _check(path: Path, made: dict[str, Any]) -> None:
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != made:
        raise UsageError(f"{path.parent} was made from other pictures or maps; use another --out")


def link(path: Path, target: Path) -> None:
    """Make a link to a file, unless there is one already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(target.resolve())


def _key(name: str) -> int:
    """The hash by which `train-prior` holds out samples."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
