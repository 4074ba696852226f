"""For `scripts/landscapes`: pictures and maps kept apart from training, and whether samples follow their maps."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from taming_cli.data.conditions.labels import paint, read_labels
from taming_cli.data.conditions.pairs import partners
from taming_cli.data.images import EXTENSIONS, grid, read_image, write_png
from taming_cli.data.sources import list_items

HELD = 8
"""One picture in so many is never trained on, but at least about a quarter of few."""
CROP = (256, 192)
"""Width and height of the pieces of held-out maps that are sampled to see whether samples follow them."""
PIECES = (3, 2)
"""Across and down, of each held-out map."""
Floats = NDArray[np.float64]


def size(images: str) -> str:
    """The largest size, in multiples of 32, that every picture has."""
    sides = []
    for item in list_items([Path(images)]).items:
        with Image.open(item.path) as image:
            sides.append(image.size)
    return f"{min(w for w, _ in sides) // 32 * 32}x{min(h for _, h in sides) // 32 * 32}"


def scale(size: str, side: str) -> str:
    """The `--crop-scale` of square crops with that side, in the pixels of pictures of that size or up to 1.2 times so."""
    share = int(side) ** 2 / min(map(int, size.split("x"))) ** 2
    return f"{min(1, share):.4f},{min(1, 1.44 * share):.4f}"


def split(images: str, maps: str, out: str) -> str:
    """Link pictures and maps into `train/` and `held/`, cut pieces of the held-out maps; returns flags for the labels.

    255 is taken for COCO-Stuff's "unlabelled".
    """
    items = list_items([Path(images)]).items
    pairs = partners(items, Path(maps), EXTENSIONS).found
    every = max(2, min(HELD, len(items) // 4))
    labels: set[int] = set()
    for number, item in enumerate(items):
        if item.name not in pairs:
            continue
        side = "held" if number % every == every - 1 else "train"
        found = pairs[item.name]
        for kind, path, name in (("images", item.path, item.name), ("segmentation", found.path, found.name)):
            link = Path(out) / side / kind / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(path.resolve())
        with Image.open(found.path) as image:
            labels.update(np.unique(np.asarray(image)).tolist())
            if side == "held":
                for piece, box in enumerate(boxes(*image.size)):
                    target = Path(out) / "held/crops" / f"{Path(found.name).with_suffix('')}_{piece}.png"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    image.crop(box).save(target)
    flags = ["--unlabelled"] * (255 in labels)
    return " ".join(["--labels", str(max(labels - {255}) + 1 + len(flags)), *flags])


def boxes(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Pieces spread over a picture, from edge to edge."""
    for row in range(PIECES[1]):
        for column in range(PIECES[0]):
            left = column * (width - CROP[0]) // (PIECES[0] - 1)
            top = row * (height - CROP[1]) // (PIECES[1] - 1)
            yield left, top, left + CROP[0], top + CROP[1]


def colours(train: Path) -> tuple[Floats, dict[str, Floats]]:
    """The mean colour of each label, (256, 3), in all training pictures and each folder's; NaN where it is absent."""
    totals: dict[str, Floats] = {}
    items = list_items([train / "images"]).items
    for item, found in zip(items, partners(items, train / "segmentation", EXTENSIONS).found.values(), strict=True):
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
    """How far each region's mean colour is from what its label has elsewhere: mean over pixels, of 255."""
    flat, total = labels.reshape(-1), 0.0
    for label in np.unique(flat):
        inside = flat == label
        mean = picture.reshape(-1, 3)[inside].mean(0)
        total += float(np.abs(mean - expected[label]).mean()) * inside.sum()
    return total / len(flat)


class Made(NamedTuple):
    """A piece of a held-out map, named after its picture, its folder's class, and what was sampled for it."""

    stem: str
    folder: str
    labels: NDArray[np.uint8]
    picture: Tensor


def follow(run: str) -> None:
    """Compare each sample with its own map and with the maps of other pictures; print the ratio of the errors."""
    out = Path(run)
    samples: list[Made] = []
    for item in list_items([out / "held/crops"]).items:
        folder = item.label or ""
        number = sum(other.folder == folder for other in samples)
        picture = read_image((out / "follow" / folder / f"{number:06d}.png").read_bytes(), item.name)
        labels = np.asarray(read_labels(item.read(), item.name))
        samples.append(Made(item.name.rpartition("_")[0], folder, labels, picture))
    overall, by_folder = colours(out / "train")
    true, shuffled = np.zeros(len(samples)), np.zeros(len(samples))
    for number, made in enumerate(samples):
        expected = by_folder.get(made.folder, overall)
        expected = np.where(np.isnan(expected), np.where(np.isnan(overall), 127.5, overall), expected)
        pixels = made.picture.permute(1, 2, 0).numpy()
        true[number] = error(pixels, made.labels, expected)
        others = [other.labels for other in samples if other.stem != made.stem]
        shuffled[number] = np.mean([error(pixels, labels, expected) for labels in others])
    rows = np.random.default_rng(0).integers(0, len(samples), (10_000, len(samples)))
    low, high = np.quantile(shuffled[rows].mean(1) / true[rows].mean(1), [0.025, 0.975])
    print(
        f"region colours: {true.mean():.1f} of 255 from what the map asks for, {shuffled.mean():.1f} from what another "
        f"map would: {shuffled.mean() / true.mean():.2f} times (95 % interval {low:.2f} to {high:.2f}, n {len(true)})"
    )
    painted = [paint(torch.from_numpy(made.labels.astype(np.int64))) for made in samples[:24]]
    pairs = [image for map_, made in zip(painted, samples, strict=False) for image in (map_, made.picture)]
    write_png(out / "follow.png", grid(torch.stack(pairs), columns=6))


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    verbs: dict[str, Callable[..., Any]] = {"size": size, "scale": scale, "split": split, "follow": follow}
    result = verbs[verb](*arguments)
    if result is not None:
        print(result)
