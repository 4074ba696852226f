"""The condition maps that samples are asked for: files to codes on the samples' grid."""

import hashlib
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
from taming_cli.sampling.inpainting import Known

Maps = Mapping[str, Path]
"""Condition maps by kind: a file, or a folder, archive or list whose maps the samples take in turns."""


class Asked(NamedTuple):
    """What samples are asked for: pictures in a `frame`, of which the grid is drawn; `codes` of each kind of condition
    (m, h, w) on that grid, m being 1 or one number for all; `names` of the m maps; and the cells and pixels that are
    `known`. Sample number n takes map n mod m."""

    frame: Frame
    codes: Mapping[str, Tensor]
    names: tuple[str, ...]
    known: Known | None = None

    @property
    def latent(self) -> Size:
        """The grid, in cells."""
        return self.frame.grid

    @property
    def size(self) -> Size:
        """Of the pictures, in pixels."""
        return self.frame.size

    def hashes(self, numbers: Sequence[int]) -> dict[str, str]:
        """Tells what these samples are asked for from everything else; empty where it is nothing."""
        whole: dict[str, tuple[Tensor, ...]] = {kind: (codes,) for kind, codes in self.of(numbers).items()}
        if self.known is not None:
            whole["known"] = (self.known.codes, self.known.keep)
            whole["pixels"] = (self.known.pixels, self.known.pixels_known)
        return {
            kind: hashlib.sha256(b"".join(part.numpy().tobytes() for part in of_kind)).hexdigest()[:16]
            for kind, of_kind in whole.items()
        }

    def of(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """The codes of the samples with these numbers, (n, h, w) of each kind."""
        return {kind: codes[[number % len(codes) for number in numbers]] for kind, codes in self.codes.items()}


def ask(encoders: Mapping[str, ConditionEncoder], maps: Maps, f: int, frame: Frame | None, otherwise: Size) -> Asked:
    """Read and encode `maps`, for pictures in `frame` by a codec with this f.

    Without a frame the pictures have the map's size (a low-resolution picture has one pixel for each code), or that of
    the grid `otherwise` where there is no map either. A map of another aspect is cut to the picture's around its
    middle, and scaled. Where the grid reaches beyond the picture, it shows what the map has there, and then the map's
    edge repeated. Conditions that need no map are added. Every kind in `maps` has to have an encoder. Keypoints that do
    not tell their picture's size have the frame's. Raises UsageError for maps that are not in pairs, without a frame
    for maps of sizes that need several grids, and for a file of keypoints of many pictures of which none is named;
    BadImageError for one that cannot be read.
    """
    found = _listed(encoders, maps)
    beside = None if frame is None else frame.size
    read = {kind: [_read(encoders[kind], item, beside) for item in items] for kind, items in found.items()}
    if frame is None:
        sizes = {
            encoders[kind].picture_of(Size(*image.size), f) for kind, images in read.items() for image in images
        } or {otherwise.times(f)}
        frame = Frame(_one_size(sizes, f), f)
    grid, codes = frame.grid, {}
    for kind, images in read.items():
        cuts = []
        for image in images:
            shown, crop = _reaching(image, centre_crop(Size(*image.size), frame.size), frame)
            cuts.append(encoders[kind].cut(shown, crop, Size(*shown.size), grid))
        codes[kind] = torch.cat([encoders[kind].encode(cut[None]) for cut in cuts])
    for kind, encoder in encoders.items():
        if encoder.reads is None:
            left, top = frame.corner
            crop = Crop(-left, -top, frame.whole.width, frame.whole.height, frame.whole)
            codes[kind] = encoder.encode(encoder.cut(None, crop, frame.size, grid)[None])
    longest = max(found.values(), key=len, default=[])
    return Asked(frame, codes, tuple(item.name for item in longest))


def _one_size(sizes: set[Size], f: int) -> Size:
    """The size of all pictures: that of their maps, or of the grid that is nearest to all of them."""
    if len(sizes) == 1:
        return next(iter(sizes))
    grids = {Size(*(f * max(1, round(side / f)) for side in (size.width, size.height))) for size in sizes}
    if len(grids) > 1:
        raise UsageError(f"the maps are of {len(sizes)} sizes; say which the pictures shall have: --size WxH")
    return next(iter(grids))


def _reaching(image: Image, crop: Crop, frame: Frame) -> tuple[Image, Crop]:
    """A map and the part of it that lies under a picture -> the same that reaches as far as the picture's grid. What
    the map itself does not have there, its edge continues."""
    if frame.whole == frame.size:
        return image, crop
    across, down = crop.width / frame.size.width, crop.height / frame.size.height  # of the map, for each pixel
    left, top = crop.left - frame.corner[0] * across, crop.top - frame.corner[1] * down
    width, height = frame.whole.width * across, frame.whole.height * down
    before = (max(0, math.ceil(-top)), max(0, math.ceil(-left)))
    after = (max(0, math.ceil(top + height - image.height)), max(0, math.ceil(left + width - image.width)))
    values = np.asarray(image)
    margins = [*zip(before, after, strict=True), *[(0, 0)] * (values.ndim - 2)]
    wider = fromarray(np.pad(values, margins, mode="edge"))
    return wider, Crop(left + before[1], top + before[0], width, height, frame.whole)


def _listed(encoders: Mapping[str, ConditionEncoder], maps: Maps) -> dict[str, list[Item]]:
    """The maps of each kind: one for all samples, or as many as of the first folder and paired with those by name."""
    listed: dict[str, list[Item]] = {}
    first: tuple[Item, ...] = ()
    for kind, path in maps.items():
        reads = encoders[kind].reads
        assert reads is not None
        if not is_collection(path):
            listed[kind] = [_one_map(path)]
        elif not first:
            first = each_picture(list_items([path], extensions=reads.extensions).items)
            listed[kind] = list(first)
        else:
            pairs = partners(first, path, reads.extensions)
            if pairs.missing:
                raise UsageError(f"{path} has no {kind} map for {pairs.missing[0]}")
            listed[kind] = [pairs.found[item.name] for item in first]
    return listed


def _one_map(path: Path) -> Item:
    """A map's file; of keypoints of many pictures, those of the one that is chosen."""
    file, name = chosen(path)
    parts = each_picture([Item(file.name, file)])
    if name is None:
        if len(parts) > 1:
            raise UsageError(f"{file} holds keypoints of {len(parts)} pictures; name one: {file}:{parts[0].name}")
        return parts[0]
    found = [part for part in parts if name in (part.name, PurePosixPath(part.name).stem)]
    if len(found) != 1:
        raise UsageError(
            f"{file} holds no keypoints of a picture {name!r}; {one_of([part.name for part in parts], name)}"
        )
    return found[0]


def _read(encoder: ConditionEncoder, item: Item, size: Size | None) -> Image:
    assert encoder.reads is not None
    where = str(item.path) if item.member is None else f"{item.path}:{item.member}"
    return encoder.reads.read(item.read(), where, beside=size)
