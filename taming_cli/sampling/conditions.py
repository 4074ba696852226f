"""Condition maps of the samples: from files to codes on the samples' grid."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL.Image import Image, fromarray
from torch import Tensor

from taming_cli.codec.condition import ConditionEncoder
from taming_cli.config.fields import one_of
from taming_cli.config.size import Frame, Size
from taming_cli.data.conditions.pairs import chosen, each_picture, partners
from taming_cli.data.images import Crop, centre_crop
from taming_cli.data.sources import Item, is_collection, list_items
from taming_cli.errors import UsageError

Maps = str | Path | Mapping[str, str | Path] | Sequence[str]
"""Condition maps: a file, or a folder, archive or list whose maps the samples take in turn; `{kind: path}` or texts
`KIND=PATH` where a prior takes several kinds."""


class EncodedMaps(NamedTuple):
    """Maps for pictures in a `frame`: `codes` of each kind (m, h, w) on the frame's grid, m being 1 or the same for all
    kinds, and the `names` of the m maps. Sample number n uses map n mod m."""

    frame: Frame
    codes: Mapping[str, Tensor]
    names: tuple[str, ...]

    def of(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """The codes of the samples with these numbers, (n, h, w) of each kind."""
        return {kind: codes[[number % len(codes) for number in numbers]] for kind, codes in self.codes.items()}

    def name_of(self, number: int) -> str | None:
        """The name of a sample's map; None without maps."""
        return self.names[number % len(self.names)] if self.names else None


def map_paths(kinds: Sequence[str], maps: Maps | None) -> dict[str, Path]:
    """Paths of maps by kind, for a prior that takes maps of these `kinds`; the kind can be left out if there is one.

    Raises UsageError for an unknown kind, two maps of one kind, and a path that does not exist.
    """
    if isinstance(maps, Mapping):
        pairs = [(kind, str(path)) for kind, path in maps.items()]
    else:
        texts = [str(maps)] if isinstance(maps, str | Path) else maps or ()
        pairs = [_kind_and_path(kinds, text) for text in texts]
    paths: dict[str, Path] = {}
    for kind, path in pairs:
        if kind not in kinds:
            hint = one_of(kinds, kind) if kinds else "it takes no map: leave it out"
            raise UsageError(f"this prior has no condition {kind!r}; {hint}")
        if kind in paths:
            raise UsageError(f"{kind} maps are given twice: {paths[kind]} and {path}")
        if not chosen(Path(path)).file.exists():
            raise UsageError(f"{path}: no such file or folder")
        paths[kind] = Path(path)
    return paths


def _kind_and_path(kinds: Sequence[str], text: str) -> tuple[str, str]:
    """`KIND=PATH`, or a path alone, which may contain `=`, where the prior takes one kind."""
    kind, equals, path = text.partition("=")
    if equals and (kind in kinds or not chosen(Path(text)).file.exists()):
        return kind, path
    if len(kinds) != 1:
        hint = f"several kinds of map; name the kind: {kinds[0]}={text}" if kinds else "no map: leave --cond out"
        raise UsageError(f"this prior takes {hint}")
    return kinds[0], text


def encode_maps(
    encoders: Mapping[str, ConditionEncoder], paths: Mapping[str, Path], f: int, frame: Frame | None, default: Size
) -> EncodedMaps:
    """Read and encode maps by kind, for pictures in `frame` by a codec with downsampling factor f.

    Without a frame, pictures have the size of the map (a low-resolution picture has one pixel per code), or that of the
    grid `default` if there is no map. A map of another aspect ratio is cropped around its centre to that of the
    pictures, and scaled. Where the grid extends beyond the picture, the map's pixels there are used, then its edge is
    repeated. Conditions that need no map are added. Keypoints that do not record the size of their picture are drawn at
    that of the frame.

    Raises UsageError for maps that cannot be paired, for maps whose sizes need different grids if there is no frame,
    and for a file of keypoints of several pictures of which none is named; BadImageError for one that cannot be read.
    """
    items = _items(encoders, paths)
    size = None if frame is None else frame.size
    read = {kind: [_read(encoders[kind], item, size) for item in of_kind] for kind, of_kind in items.items()}
    if frame is None:
        sizes = {
            encoders[kind].picture_of(Size(*image.size), f) for kind, images in read.items() for image in images
        } or {default.times(f)}
        frame = Frame(_one_size(sizes, f), f)
    grid, codes = frame.grid, {}
    for kind, images in read.items():
        cuts = []
        for image in images:
            covering, crop = _extended(image, centre_crop(Size(*image.size), frame.size), frame)
            cuts.append(encoders[kind].cut(covering, crop, Size(*covering.size), grid))
        codes[kind] = torch.cat([encoders[kind].encode(cut[None]) for cut in cuts])
    for kind, encoder in encoders.items():
        if encoder.reads is None:
            left, top = frame.corner
            crop = Crop(-left, -top, frame.whole.width, frame.whole.height, frame.whole)
            codes[kind] = encoder.encode(encoder.cut(None, crop, frame.size, grid)[None])
    longest = max(items.values(), key=len, default=[])
    return EncodedMaps(frame, codes, tuple(item.name for item in longest))


def _one_size(sizes: set[Size], f: int) -> Size:
    """The size of all pictures: that of the maps if they agree, else that of their nearest grid if it is the same."""
    if len(sizes) == 1:
        return next(iter(sizes))
    grids = {Size(*(f * max(1, round(side / f)) for side in (size.width, size.height))) for size in sizes}
    if len(grids) > 1:
        raise UsageError(f"the maps have {len(sizes)} sizes; give the size of the pictures: --size WxH")
    return next(iter(grids))


def _extended(image: Image, crop: Crop, frame: Frame) -> tuple[Image, Crop]:
    """Extend a map, and its crop that lies under a picture, to the picture's grid. The map's edge is repeated."""
    if frame.whole == frame.size:
        return image, crop
    # map pixels per picture pixel
    across, down = crop.width / frame.size.width, crop.height / frame.size.height
    left, top = crop.left - frame.corner[0] * across, crop.top - frame.corner[1] * down
    width, height = frame.whole.width * across, frame.whole.height * down
    before = (max(0, math.ceil(-top)), max(0, math.ceil(-left)))
    after = (max(0, math.ceil(top + height - image.height)), max(0, math.ceil(left + width - image.width)))
    values = np.asarray(image)
    margins = [*zip(before, after, strict=True), *[(0, 0)] * (values.ndim - 2)]
    wider = fromarray(np.pad(values, margins, mode="edge"))
    return wider, Crop(left + before[1], top + before[0], width, height, frame.whole)


def _items(encoders: Mapping[str, ConditionEncoder], paths: Mapping[str, Path]) -> dict[str, list[Item]]:
    """The maps of each kind: one for all samples, or those of a folder, paired by name with the first folder's."""
    items: dict[str, list[Item]] = {}
    first: tuple[Item, ...] = ()
    for kind, path in paths.items():
        reads = encoders[kind].reads
        assert reads is not None
        if not is_collection(path):
            items[kind] = [_one_map(path)]
        elif not first:
            first = each_picture(list_items([path], extensions=reads.extensions).items)
            items[kind] = list(first)
        else:
            pairs = partners(first, path, reads.extensions)
            if pairs.missing:
                raise UsageError(f"{path} has no {kind} map for {pairs.missing[0]}")
            items[kind] = [pairs.maps[item.name] for item in first]
    return items


def _one_map(path: Path) -> Item:
    """A map's file, or the part for one picture of a file of keypoints of several."""
    file, name = chosen(path)
    parts = each_picture([Item(file.name, file)])
    if name is None:
        if len(parts) > 1:
            raise UsageError(f"{file} holds keypoints of {len(parts)} pictures; name one: {file}:{parts[0].name}")
        return parts[0]
    matching = [part for part in parts if name in (part.name, PurePosixPath(part.name).stem)]
    if len(matching) != 1:
        raise UsageError(
            f"{file} holds no keypoints of a picture {name!r}; {one_of([part.name for part in parts], name)}"
        )
    return matching[0]


def _read(encoder: ConditionEncoder, item: Item, size: Size | None) -> Image:
    assert encoder.reads is not None
    where = str(item.path) if item.member is None else f"{item.path}:{item.member}"
    return encoder.reads.read(item.read(), where, picture_size=size)
