"""Whether samples repeat training pictures: how near they are to them, compared with held-out pictures.

Pictures are compared by features and, where samples and training pictures have codes of the same codec on the same
grid, by the share of equal codes.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taming_cli.config.size import Size
from taming_cli.data.tokens.file import TokenFile
from taming_cli.errors import BadImageError, UsageError
from taming_cli.evaluate.defaults import Learned
from taming_cli.evaluate.extraction import Extraction, Extractor, extract_features
from taming_cli.evaluate.image_sets import FileImages, ImageSet, TokenImages
from taming_cli.evaluate.plots import pairs
from taming_cli.evaluate.protocol import Measurement, versions
from taming_cli.metrics import Nearest, nearest, nearness
from taming_cli.runtime.memory import room
from taming_cli.sampling.own_codes import read_own_codes

SHOWN = 8
"""The number of samples to draw above their nearest training pictures."""
FEWEST = 20
"""Held-out pictures below which 95 % of them are too few for a limit."""
CERTAIN = 0.01
"""The p-value below which samples are called memorized."""
ROWS = 4096
"""Pictures of a token file whose codes are in memory at once."""


class Known(NamedTuple):
    """The pictures that a prior was trained on, and pictures that it was not trained on."""

    training: Sequence[ImageSet]
    held_out: Sequence[ImageSet]


def known_by(learned: Learned, *, device: torch.device, memory: float | None) -> Known:
    """The pictures of a prior's token files, as the codec in its model file reconstructs them."""
    codec, budget = learned.model, room(device, memory).decode

    def images(parts: Sequence[tuple[Path, Sequence[int]]]) -> list[ImageSet]:
        return [TokenImages(str(path), path, TokenFile(path), codec, device, budget, rows) for path, rows in parts]

    return Known(images(learned.training), images(learned.held_out))


def memorization(samples: ImageSet, known: Known, extractor: Extractor) -> Measurement:
    """`nearer`, `p_value` and `copied` as of `metrics.nearness`, by the features of the network and, as `code_nearer`
    and so on, by codes. Draws the nearest pairs, samples above training pictures.

    UsageError for fewer than two held-out pictures.
    """
    count = sum(map(len, known.held_out))
    if count < 2:
        raise UsageError(f"held-out pictures: {count}; give two or more with --held-out")
    own = _Side.of([samples], extractor)
    training, held = (_Side.of(sets, extractor) for sets in known)
    near, far = nearest(own.features, training.features), nearest(held.features, training.features)
    values: dict[str, float] = nearness(near.distances, far.distances)._asdict()
    rows = [
        {"name": name, "nearest": training.names[number], "distance": distance}
        for name, number, distance in zip(own.names, near.numbers.tolist(), near.distances.tolist(), strict=True)
    ]
    warnings = [] if count >= FEWEST else [f"{count} held-out pictures are few: give more with --held-out"]
    by_codes = _by_codes(samples, known)
    if by_codes is not None:
        same, held_same = by_codes
        found = nearness(same.distances, held_same.distances)._asdict()
        values |= {f"code_{name}": value for name, value in found.items()}
        equal = (1 - same.distances).tolist()
        if len(equal) == len(rows):
            rows = [row | {"equal_codes": share} for row, share in zip(rows, equal, strict=True)]
    warnings += _verdict(values)
    order = near.distances.argsort()[:SHOWN].tolist()
    shown = [(own.picture(n, extractor.size), training.picture(int(near.numbers[n]), extractor.size)) for n in order]
    return Measurement(
        metric=f"memorization-{extractor.network.name}",
        values=values,
        protocol={
            "generated": own.protocol(),
            "training": training.protocol(),
            "held_out": held.protocol(),
            "features": extractor.network.stamp,
            "size": None if extractor.size is None else str(extractor.size),
            "pixels": "8-bit",
            "versions": versions(),
        },
        warnings=tuple(warnings),
        skipped=tuple(each for side in (own, training, held) for part in side.parts for each in part.skipped),
        details={"by_sample": sorted(rows, key=lambda row: row["distance"])},
        pictures={"memorization.png": pairs(shown)},
    )


class _Side(NamedTuple):
    """Some image sets, one after another, and what was extracted from each."""

    sets: Sequence[ImageSet]
    parts: Sequence[Extraction]
    names: list[str]
    places: list[tuple[int, int]]
    """The set and the position in it of each picture that could be read."""

    @classmethod
    def of(cls, sets: Sequence[ImageSet], extractor: Extractor) -> "_Side":
        parts = [extract_features(each, extractor, keep="features") for each in sets]
        names, places = [], []
        for which, (images, part) in enumerate(zip(sets, parts, strict=True)):
            unread = {each.name for each in part.skipped}
            titles = images.titles()
            read = [number for number, title in enumerate(titles) if title not in unread]
            names += [titles[number] for number in read]
            places += [(which, number) for number in read]
        return cls(sets, parts, names, places)

    @property
    def features(self) -> Tensor:
        return torch.cat([part.kept for part in self.parts if part.kept is not None])

    def picture(self, number: int, size: Size | None) -> Tensor:
        """A picture, uint8 (3, H, W)."""
        which, place = self.places[number]
        batches = self.sets[which].batches(
            lambda image: image, size=size, every=slice(place, place + 1), batch_size=1, workers=1
        )
        return next(batch.prepared[0] for batch in batches if len(batch.prepared))

    def protocol(self) -> dict[str, Any]:
        """The fields that a result records."""
        if len(self.sets) == 1:
            return self.sets[0].protocol() | self.parts[0].protocol()
        digests = "".join(images.list_sha256() for images in self.sets)
        return {
            "name": " ".join(images.name for images in self.sets),
            "form": " ".join(sorted({images.form for images in self.sets})),
            "list_sha256": hashlib.sha256(digests.encode()).hexdigest(),
            "count": sum(part.count for part in self.parts),
        }


def _verdict(values: dict[str, float]) -> list[str]:
    """A warning for each comparison by which the samples are memorized."""
    return [
        f"the samples repeat training pictures: by {what}, {values[f'{prefix}copied']:.0%} of them are nearer to one "
        f"than 95 % of the held-out pictures are (expected: 5 %; p = {values[f'{prefix}p_value']:.1g})"
        for what, prefix in (("features", ""), ("codes", "code_"))
        if values.get(f"{prefix}p_value", 1) < CERTAIN
    ]


def _by_codes(samples: ImageSet, known: Known) -> tuple[Nearest, Nearest] | None:
    """The nearest training pictures of samples and of held-out pictures by their codes, at a distance of the share of
    the codes that differ; None where they do not all have codes of one codec on one grid."""
    training = [images for images in known.training if isinstance(images, TokenImages)]
    wanted = _grid(training[0]) if training else None
    if wanted is None or len(training) < len(known.training) or any(_grid(images) != wanted for images in training):
        return None
    found = [_codes(images, wanted) for images in (samples, *known.held_out)]
    if any(codes is None for codes in found):
        return None
    own, *held = (codes for codes in found if codes is not None)
    return _nearest_codes(own, training), _nearest_codes(torch.cat(held), training)


def _grid(images: TokenImages) -> tuple[str, int, int] | None:
    """The hash of the codec and the size of the grid; None where there are two levels of codes."""
    header = images.file.header
    return None if header.top_codebook_size else (header.codec_sha256, header.height, header.width)


def _codes(images: ImageSet, wanted: tuple[str, int, int]) -> Tensor | None:
    """The codes (n, h w) of pictures that carry those of the codec `wanted`, by its hash, on a grid of that size."""
    if isinstance(images, TokenImages):
        if _grid(images) != wanted:
            return None
        return torch.from_numpy(images.file.codes(list(images.rows)))[:, 0].flatten(1)
    if not isinstance(images, FileImages) or any(item.member is not None for item in images.items):
        return None
    found = []
    for item in images.items:
        try:
            own = read_own_codes(item.path)
        except (UsageError, BadImageError, OSError):
            return None
        if (own.codec_sha256, *own.codes.shape) != wanted:
            return None
        found.append(own.codes.flatten())
    return torch.stack(found)


def _nearest_codes(codes: Tensor, training: Sequence[TokenImages]) -> Nearest:
    """Of codes (n, T): the training pictures with most equal codes in any of their views."""
    most, numbers = torch.full((len(codes),), -1.0, dtype=torch.float64), torch.zeros(len(codes), dtype=torch.int64)
    codes, first = codes.int(), 0
    for images in training:
        rows = list(images.rows)
        for start in range(0, len(rows), ROWS):
            there = torch.from_numpy(images.file.codes(rows[start : start + ROWS])).flatten(2).int()  # (m, V, T)
            for number, own in enumerate(codes):
                equal = (there == own).sum(2).amax(1)
                best = int(equal.argmax())
                share = int(equal[best]) / codes.shape[1]
                if share > most[number]:
                    most[number], numbers[number] = share, first + start + best
        first += len(rows)
    return Nearest(1 - most, numbers)
