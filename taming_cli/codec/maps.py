"""The condition maps that samples are asked for: files to codes on the samples' grid."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from taming_cli.codec.condition import Encoder
from taming_cli.codec.hole import Known
from taming_cli.config.fields import one_of
from taming_cli.config.size import Size
from taming_cli.data.conditions.pairs import chosen, each_picture, partners
from taming_cli.data.images import centre_crop
from taming_cli.data.sources import Item, list_items
from taming_cli.errors import UsageError

Maps = Mapping[str, Path]
"""Condition maps by kind: a file, or a folder whose maps the samples take in turns."""


class Asked(NamedTuple):
    """What samples are asked for: `codes` of each kind of condition (m, h, w), m being 1 or one number for all, on the
    grid `latent`; `names` of the m maps; and the cells that are `known`. Sample number n takes map n mod m."""

    latent: Size
    codes: Mapping[str, Tensor]
    names: tuple[str, ...]
    known: Known | None = None

    def hashes(self, numbers: Sequence[int]) -> dict[str, str]:
        """Tells what these samples are asked for from everything else; empty where it is nothing."""
        parts = {kind: (codes,) for kind, codes in self.of(numbers).items()}
        whole = {**parts, **({"known": self.known} if self.known is not None else {})}
        return {
            kind: hashlib.sha256(b"".join(part.numpy().tobytes() for part in of_kind)).hexdigest()[:16]
            for kind, of_kind in whole.items()
        }

    def of(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """The codes of the samples with these numbers, (n, h, w) of each kind."""
        return {kind: codes[[number % len(codes) for number in numbers]] for kind, codes in self.codes.items()}


def ask(encoders: Mapping[str, Encoder], maps: Maps, f: int, size: Size | None, otherwise: Size) -> Asked:
    """Read and encode `maps`, for pictures of `size` pixels by a codec with this f.

    Without a size the first map's counts, brought to a multiple of f (a low-resolution picture has one pixel for each
    code); without maps too, the grid is `otherwise`. A map of another aspect is cut to it around its middle.
    Conditions that need no map are added. Every kind in `maps` has to have an encoder. Raises UsageError for maps that
    are not in pairs, without a size for maps of several sizes, and for a file of keypoints of many pictures of which
    none is named; BadImageError for one that cannot be read. Keypoints that do not tell their picture's size have
    `size`.
    """
    found = _listed(encoders, maps)
    read = {kind: [_read(encoders[kind], item, size) for item in items] for kind, items in found.items()}
    if size is not None:
        grid = Size(size.width // f, size.height // f)
    else:
        grids = {
            encoders[kind].grid_of(Size(*image.size), f): None for kind, images in read.items() for image in images
        }
        if len(grids) > 1:
            raise UsageError(f"the maps are of {len(grids)} sizes; say which the pictures shall have: --size WxH")
        grid = next(iter(grids), otherwise)
    out = Size(grid.width * f, grid.height * f)
    codes = {}
    for kind, images in read.items():
        sources = [Size(*image.size) for image in images]
        cuts = [
            encoders[kind].cut(image, centre_crop(source, out), source, grid)
            for image, source in zip(images, sources, strict=True)
        ]
        codes[kind] = torch.cat([encoders[kind].encode(cut[None]) for cut in cuts])
    for kind, encoder in encoders.items():
        if encoder.reads is None:
            codes[kind] = encoder.encode(encoder.cut(None, centre_crop(out, out), out, grid)[None])
    longest = max(found.values(), key=len, default=[])
    return Asked(grid, codes, tuple(item.name for item in longest))


def _listed(encoders: Mapping[str, Encoder], maps: Maps) -> dict[str, list[Item]]:
    """The maps of each kind: one for all samples, or as many as of the first folder and paired with those by name."""
    listed: dict[str, list[Item]] = {}
    first: tuple[Item, ...] = ()
    for kind, path in maps.items():
        reads = encoders[kind].reads
        assert reads is not None
        if not path.is_dir():
            listed[kind] = [_one(path)]
        elif not first:
            first = each_picture(list_items([path], extensions=reads.extensions).items)
            listed[kind] = list(first)
        else:
            pairs = partners(first, path, reads.extensions)
            if pairs.missing:
                raise UsageError(f"{path} has no {kind} map for {pairs.missing[0]}")
            listed[kind] = [pairs.found[item.name] for item in first]
    return listed


def _one(path: Path) -> Item:
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


def _read(encoder: Encoder, item: Item, size: Size | None) -> Image:
    assert encoder.reads is not None
    where = str(item.path) if item.content is None else f"{item.path}:{item.member}"
    return encoder.reads.read(item.read(), where, beside=size)
