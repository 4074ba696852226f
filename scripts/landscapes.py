"""For `scripts/landscapes`: hold out pictures and maps, and measure how well samples follow their maps."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from taming_cli.data.conditions.labels import paint, read_labels
from taming_cli.data.conditions.pairs import partners
from taming_cli.data.images import EXTENSIONS, grid, read_image, write_png
from taming_cli.data.sources import list_items

HELD = 8
"""One picture in this many is held out; of few pictures, about a quarter."""
WHOLE = (1280, 832)
"""Width and height of the pictures that are sampled."""
PIECE = (256, 192)
"""Width and height of the pieces that are compared with their maps."""
PIECES = (3, 2)
"""Across and down, of each picture."""
Floats = NDArray[np.float64]


def size(images: str) -> str:
    """The largest size, in multiples of 32, that every picture has."""
    sides = []
    for item in list_items([Path(images)]).items:
        with Image.open(item.path) as image:
            sides.append(image.size)
    return f"{min(w for w, _ in sides) // 32 * 32}x{min(h for _, h in sides) // 32 * 32}"


def scale(size: str, side: str) -> str:
    """The `--crop-scale` for square crops of `side` to 1.2 x `side` pixels from pictures of `size`."""
    share = int(side) ** 2 / min(map(int, size.split("x"))) ** 2
    return f"{min(1, share):.4f},{min(1, 1.44 * share):.4f}"


def split(images: str, maps: str, out: str) -> str:
    """Link pictures and maps for training into `train/`, and crop and resize the held-out maps into `held/`. -> Flags
    for the labels; 255 counts as "unlabelled", as in COCO-Stuff."""
    items = list_items([Path(images)]).items
    pairs = partners(items, Path(maps), EXTENSIONS).maps
    every = max(2, min(HELD, len(items) // 4))
    labels: set[int] = set()
    for number, item in enumerate(items):
        if item.name not in pairs:
            continue
        found = pairs[item.name]
        with Image.open(found.path) as image:
            labels.update(np.unique(np.asarray(image)).tolist())
            if number % every == every - 1:
                target = (Path(out) / "held" / found.name).with_suffix(".png")
                target.parent.mkdir(parents=True, exist_ok=True)
                ImageOps.fit(image, WHOLE, Image.Resampling.NEAREST).save(target)
                continue
        for kind, path, name in (("images", item.path, item.name), ("segmentation", found.path, found.name)):
            link = Path(out) / "train" / kind / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(path.resolve())
    flags = ["--unlabelled"] * (255 in labels)
    return " ".join(["--labels", str(max(labels - {255}) + 1 + len(flags)), *flags])


def pieces(picture: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Pieces of a picture or a map, (H, W, ...), spread from edge to edge."""
    height, width = picture.shape[:2]
    for row in range(PIECES[1]):
        for column in range(PIECES[0]):
            left = column * (width - PIECE[0]) // (PIECES[0] - 1)
            top = row * (height - PIECE[1]) // (PIECES[1] - 1)
            yield picture[top : top + PIECE[1], left : left + PIECE[0]]


def colours(train: Path) -> tuple[Floats, dict[str, Floats]]:
    """The mean colour of each label, (256, 3), in all training pictures and in those of each folder; NaN if absent."""
    totals: dict[str, Floats] = {}
    items = list_items([train / "images"]).items
    for item, found in zip(items, partners(items, train / "segmentation", EXTENSIONS).maps.values(), strict=True):
        pixels = read_image(item.read(), item.name).permute(1, 2, 0).numpy().reshape(-1, 3)
        labels = np.asarray(read_labels(found.read(), found.name)).reshape(-1)
        for folder in ("", item.label or ""):
            total = totals.setdefault(folder, np.zeros((256, 4)))
            for channel in range(3):
                total[:, channel] += np.bincount(labels, pixels[:, channel], 256)
            total[:, 3] += np.bincount(labels, minlength=256)
    with np.errstate(invalid="ignore"):
        means = {folder: total[:, :3] / total[:, 3:] for folder, total in totals.items()}
    return means[""], means


def error(picture: NDArray[np.uint8], labels: NDArray[np.uint8], expected: Floats) -> float:
    """The absolute difference, of 255, between each region's mean colour and the expected one of its label: mean over
    pixels."""
    flat, total = labels.reshape(-1), 0.0
    for label in np.unique(flat):
        inside = flat == label
        mean = picture.reshape(-1, 3)[inside].mean(0)
        total += float(np.abs(mean - expected[label]).mean()) * inside.sum()
    return total / len(flat)


class Piece(NamedTuple):
    """A piece of a held-out map, the names of that map and of its folder, and the piece that was sampled for it."""

    name: str
    folder: str
    labels: NDArray[np.uint8]
    picture: NDArray[np.uint8]


def follow(run: str) -> None:
    """Compare each piece of the samples with its map and with other pictures' maps; print the ratio of the errors."""
    out = Path(run)
    found: list[Piece] = []
    sheet: list[Tensor] = []
    numbers: Counter[str] = Counter()
    for item in list_items([out / "held"]).items:
        folder = item.label or ""
        path = out / "pictures" / folder / f"{numbers[folder]:06d}.png"
        numbers[folder] += 1
        picture = read_image(path.read_bytes(), str(path))
        labels = np.asarray(read_labels(item.read(), item.name)).astype(np.uint8)
        cut = zip(pieces(labels), pieces(picture.permute(1, 2, 0).numpy()), strict=True)
        found += [Piece(item.name, folder, *each) for each in cut]
        sheet += [paint(torch.from_numpy(labels.astype(np.int64))), picture]
    overall, by_folder = colours(out / "train")
    true, shuffled = np.zeros(len(found)), np.zeros(len(found))
    for number, piece in enumerate(found):
        expected = by_folder.get(piece.folder, overall)
        expected = np.where(np.isnan(expected), np.where(np.isnan(overall), 127.5, overall), expected)
        true[number] = error(piece.picture, piece.labels, expected)
        others = [other.labels for other in found if other.name != piece.name]
        shuffled[number] = np.mean([error(piece.picture, labels, expected) for labels in others])
    rows = np.random.default_rng(0).integers(0, len(found), (10_000, len(found)))
    low, high = np.quantile(shuffled[rows].mean(1) / true[rows].mean(1), [0.025, 0.975])
    print(
        f"region colours differ by {true.mean():.1f} of 255 from those of their own map's labels, and by "
        f"{shuffled.mean():.1f} from those of other maps' labels: {shuffled.mean() / true.mean():.2f} times "
        f"(95 % interval {low:.2f} to {high:.2f}, n = {len(true)})"
    )
    write_png(out / "follow.png", grid(torch.stack(sheet)[..., ::2, ::2], columns=2))


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    verbs: dict[str, Callable[..., Any]] = {"size": size, "scale": scale, "split": split, "follow": follow}
    result = verbs[verb](*arguments)
    if result is not None:
        print(result)
