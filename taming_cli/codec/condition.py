"""Encodes condition maps as codes on the picture's grid, by a codec of such maps or by a rule.

An encoder defines how the files of its kind are read, how a map is cropped with its picture, and how the crops are
encoded. Training data and sampling use the same three steps.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL.Image import Image, Resampling
from torch import Tensor

from taming_cli.codec.locate import codecs_in, content_in, picture_codec
from taming_cli.codec.tiling import tiles
from taming_cli.codec.vqgan import VQGAN, codec_from, ready
from taming_cli.config.fields import one_of
from taming_cli.config.kinds import COMPUTED, KINDS, RULES
from taming_cli.config.levels import TOP_CONDITION
from taming_cli.config.size import Size
from taming_cli.data.conditions.pairs import partners
from taming_cli.data.conditions.rules import LOWRES_CODES, coords, lowres, lowres_picture
from taming_cli.data.contents import Content, Pictures, content_of
from taming_cli.data.images import Crop, apply, tensor
from taming_cli.data.sources import Item
from taming_cli.data.tokens.header import RULE, ConditionHeader
from taming_cli.errors import BadImageError, UsageError
from taming_cli.runtime.checkpoint import ModelFile, load_model
from taming_cli.runtime.model_files import named

COORDS_LEVELS = 1024
"""The largest code of the raster scalar in priors trained here."""
LARGEST_FACTOR = 64
"""The largest factor of `lowres` by a codec."""


class ConditionEncoder(ABC):
    """Encodes one kind of condition. The map is read from a file, or is the picture itself where the condition is
    computed from it."""

    kind: str
    reads: Content | None
    """The content of its files; None for a condition without files."""

    @property
    @abstractmethod
    def header(self) -> ConditionHeader:
        """The origin of the codes and the size of their codebook, for a token file."""

    def picture_of(self, size: Size, f: int) -> Size:
        """The size of the picture that a map of this size belongs to, where the picture's codec has this f."""
        return size

    @abstractmethod
    def cut(self, image: Image | None, crop: Crop, source: Size, grid: Size) -> Tensor:
        """Cut out the part of a map of size `source` under a picture's `crop`, for a grid of `grid` cells -> a small
        tensor on the CPU."""

    @abstractmethod
    def encode(self, cuts: Tensor) -> Tensor:
        """n results of `cut` (n, ...) -> codes (n, h, w) int64, on the CPU."""


@dataclass(frozen=True)
class MapCodec(ConditionEncoder):
    """Encodes maps with a codec. Its f may differ from the picture's: maps are scaled so that the grids agree."""

    kind: str
    reads: Content
    codec: VQGAN
    path: str = ""
    budget: int = tiles.BUDGET

    def __post_init__(self) -> None:
        if self.codec.config.levels > 1:
            raise UsageError(f"condition {self.kind!r} needs a codec with one level of codes; name one: --cond-ckpt")

    @property
    def header(self) -> ConditionHeader:  # noqa: D102 - as of ConditionEncoder
        return ConditionHeader(
            codec_sha256=self.codec.sha256(), codebook_size=self.codec.config.codebook_size, codec_path=self.path
        )

    def cut(self, image: Image | None, crop: Crop, source: Size, grid: Size) -> Tensor:  # noqa: D102
        assert image is not None
        f = self.codec.config.downsample_factor
        out = Size(grid.width * f, grid.height * f)
        return self.reads.cut(image, crop._replace(out=out))

    def encode(self, cuts: Tensor) -> Tensor:  # noqa: D102
        return tiles.encode(self.codec, cuts, to_input=self.reads.to_input, budget=self.budget).cpu()

    def to(self, device: torch.device, budget: int = tiles.BUDGET) -> "MapCodec":
        """The same encoder with its codec on `device`, encoding in `budget` bytes."""
        return replace(self, codec=ready(self.codec, device, torch.float32), budget=budget)


@dataclass(frozen=True)
class LowresCodec(MapCodec):
    """Encodes the picture at 1 / `factor` of its size, enlarged again, with a codec of pictures."""

    factor: int = 4

    @property
    def header(self) -> ConditionHeader:  # noqa: D102
        return replace(super().header, factor=self.factor)

    def picture_of(self, size: Size, f: int) -> Size:
        """`factor` times as large as the low-resolution picture."""
        return size.times(self.factor)

    def cut(self, image: Image | None, crop: Crop, source: Size, grid: Size) -> Tensor:  # noqa: D102
        assert image is not None
        whole = grid.times(self.codec.config.downsample_factor)
        small = Size(-(-whole.width // self.factor), -(-whole.height // self.factor))
        reduced = apply(image, crop._replace(out=small), Resampling.BOX)
        return tensor(reduced.resize((whole.width, whole.height), Resampling.BICUBIC))


@dataclass(frozen=True)
class Lowres(ConditionEncoder):
    """Encodes the mean colour of each cell: the picture at 1/f of its size."""

    kind: str = "lowres"
    reads: Content = field(default_factory=Pictures)

    @property
    def header(self) -> ConditionHeader:  # noqa: D102
        return ConditionHeader(codec_sha256=f"{RULE}lowres", codebook_size=LOWRES_CODES)

    def picture_of(self, size: Size, f: int) -> Size:
        """One pixel for each code."""
        return size.times(f)

    def cut(self, image: Image | None, crop: Crop, source: Size, grid: Size) -> Tensor:  # noqa: D102
        assert image is not None
        return tensor(apply(image, crop._replace(out=grid), Resampling.BOX))

    def encode(self, cuts: Tensor) -> Tensor:  # noqa: D102
        return lowres(cuts, Size(cuts.shape[3], cuts.shape[2]))


@dataclass(frozen=True)
class Coords(ConditionEncoder):
    """Encodes the position of each cell in its picture, as the published raster scalar."""

    levels: int = COORDS_LEVELS
    kind: str = "coords"
    reads: None = None

    @property
    def header(self) -> ConditionHeader:  # noqa: D102
        return ConditionHeader(codec_sha256=f"{RULE}coords", codebook_size=self.levels + 1)

    def cut(self, image: Image | None, crop: Crop, source: Size, grid: Size) -> Tensor:  # noqa: D102
        return coords(crop, source, grid, self.levels)

    def encode(self, cuts: Tensor) -> Tensor:  # noqa: D102
        return cuts


@dataclass(frozen=True, kw_only=True)
class Condition:
    """An encoder and its maps, by the names of their pictures; None where the maps are computed from the pictures."""

    encoder: ConditionEncoder
    folder: Path | None = None
    maps: Mapping[str, Item] | None = None

    def cuts(self, item: Item, picture: Image, crops: Sequence[Crop], grid: Size) -> Tensor:
        """The encoder's `cut` for each crop of a picture: (V, ...).

        BadImageError where the picture has no map, or one that cannot be read; UsageError where the sizes differ.
        """
        image = picture
        if self.maps is not None:
            if item.name not in self.maps:
                raise BadImageError(f"{item.name}: no {self.encoder.kind} map of that name in {self.folder}")
            image = self._read(self.maps[item.name], item, Size(*picture.size))
        size = Size(*image.size)
        return torch.stack([self.encoder.cut(image, crop, size, grid) for crop in crops])

    def _read(self, file: Item, item: Item, size: Size) -> Image:
        assert self.encoder.reads is not None
        try:
            image = self.encoder.reads.read(file.read(), file.name, picture_size=size)
        except BadImageError as error:
            raise BadImageError(f"{item.name}: its {self.encoder.kind} map: {error}") from error
        if Size(*image.size) != size:
            raise UsageError(
                f"{_where(file)} is {Size(*image.size)}, but its picture {_where(item)} is {size}; make them one "
                "size; see: taming guide conditions"
            )
        return image


def encoders(model: ModelFile, codec: VQGAN, where: str) -> dict[str, ConditionEncoder]:
    """The encoders of a prior's grid conditions, from its model file; `codec` is its codec of pictures."""
    result: dict[str, ConditionEncoder] = {}
    for spec in model.config["prior"]["conditions"]:
        if spec["form"] != "grid" or spec["kind"] == TOP_CONDITION:
            continue
        kind, networks = spec["kind"], model.config.get("conditions", {})
        if kind in networks:
            separate = any(name.startswith(f"condition.{kind}.") for name in model.tensors)
            network = codec_from(model, where, part=f"condition.{kind}") if separate else codec
            about = model.about.get("conditions", {}).get(kind, {"content": kind})
            reads = content_of(about, network.config.in_channels)
            if kind == "lowres":
                result[kind] = LowresCodec(kind, reads, network, factor=int(about["factor"]))
            else:
                result[kind] = MapCodec(kind, reads, network)
        else:
            result[kind] = _rule_encoder(kind, spec["vocabulary"])
    return result


def build_conditions(
    requested: Mapping[str, Path | None], codecs: Sequence[Path], items: Sequence[Item], pictures: Path
) -> list[Condition]:
    """The conditions that `tokenize` encodes.

    `requested` maps kinds to the folders of their maps, or to None for maps that are computed from the pictures;
    `lowres:4` is `lowres` by a codec, at a quarter of the size. `codecs` are the model files of their codecs, each of
    which records its kind; a prior's file gives those of all its conditions. `pictures` is the file of the pictures'
    codec, which also encodes `image` and `lowres:4` unless another codec of pictures is among `codecs`. UsageError
    where these do not fit together.
    """
    networks = _map_codecs(codecs)
    unused = {kind: network.path for kind, network in networks.items() if not network.optional}
    result: list[Condition] = []
    for text, maps in requested.items():
        kind, colon, factor = text.partition(":")
        if kind not in KINDS:
            raise UsageError(f"no condition is called {kind!r}; {one_of(KINDS, kind)}")
        if colon and (kind != "lowres" or not factor.isdecimal() or not 2 <= int(factor) <= LARGEST_FACTOR):
            raise UsageError(f"condition {text!r} is none; only lowres takes a factor, as in lowres:4")
        if kind in [each.encoder.kind for each in result]:
            raise UsageError(f"condition {kind!r} is given twice; give it once")
        encoder: ConditionEncoder | None
        if kind == "image" or colon:
            unused.pop("image", None)
            own = networks.get("image") or _Found(Pictures(), picture_codec(pictures)[0], str(pictures.resolve()))
            encoder = MapCodec(kind, *own[:3]) if not colon else LowresCodec(kind, *own[:3], factor=int(factor))
        elif kind in RULES:
            encoder = _rule_encoder(kind)
        else:
            found = networks.get(kind)
            encoder = MapCodec(kind, *found[:3]) if found else None
            unused.pop(kind, None)
        if encoder is None:
            raise UsageError(
                f"condition {kind!r} needs a codec: train one with --kind {kind}, and name it: --cond-ckpt; "
                "see: taming guide conditions"
            )
        if maps is None and kind not in COMPUTED:
            raise UsageError(
                f"condition {kind!r} cannot be computed from a picture; name the folder of its maps: {kind}=FOLDER"
            )
        if maps is not None and encoder.reads is None:
            raise UsageError(f"condition {kind!r} follows from the picture's size; leave {maps} out")
        pairs = None
        if maps is not None:
            assert encoder.reads is not None
            pairs = partners(items, maps, encoder.reads.extensions).maps
        result.append(Condition(encoder=encoder, folder=maps, maps=pairs))
    if unused:
        kind, path = next(iter(unused.items()))
        raise UsageError(f"{path} is a codec of {kind}, which is not requested; add --cond {kind}=FOLDER")
    return result


class _Found(NamedTuple):
    """A codec of maps, what it reads, and the path of its file, which may hold others: then it is `optional`."""

    reads: Content
    codec: VQGAN
    path: str
    optional: bool = False


def _map_codecs(paths: Sequence[Path]) -> dict[str, _Found]:
    """The codecs in these model files, by kind."""
    networks: dict[str, _Found] = {}
    for path in map(named, paths):
        files = [model for model in codecs_in(load_model(path)) if model.format == "taming-codec"]
        if not files:
            raise UsageError(f"{path} is a prior without condition maps; --cond-ckpt takes codecs of condition maps")
        for model in files:
            reads = content_in(model)
            if reads.kind in networks:
                raise UsageError(f"{path} and {networks[reads.kind].path} are both codecs of {reads.kind}; give one")
            optional = len(files) > 1
            networks[reads.kind] = _Found(reads, codec_from(model, str(path)), str(path.resolve()), optional)
    return networks


def renders(
    conditions: Mapping[str, ConditionHeader], codecs: Mapping[str, ModelFile]
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Functions, by kind, that render a token file's condition codes (n, h, w) as pictures, uint8 (n, 3, H, W) on the
    CPU: with the codec of the codes, or by the rule. There is none for `coords`, nor for codecs without a decoder."""
    result: dict[str, Callable[[Tensor], Tensor]] = {}
    for kind in conditions:
        if kind in codecs:
            if not codecs[kind].about.get("encoder_only"):
                result[kind] = partial(_decoded, codecs[kind], kind)
        elif kind == "lowres":
            result[kind] = lowres_picture
    return result


def codebooks(codecs: Mapping[str, ModelFile]) -> dict[str, Tensor]:
    """The codebooks (K, D) of the codecs of conditions, by kind."""
    return {kind: codec_from(model, f"the {kind} codec").quantizers[0].codebook for kind, model in codecs.items()}


def _decoded(model: ModelFile, kind: str, codes: Tensor) -> Tensor:
    """Decode with a codec that is built for this call and freed again, since conditions are rendered once."""
    return tiles.decode(codec_from(model, f"the {kind} codec"), codes.cpu(), finish=content_in(model).show)


def _rule_encoder(kind: str, vocabulary: int = 0) -> ConditionEncoder:
    if kind == "lowres":
        return Lowres()
    if kind == "coords":
        return Coords(vocabulary - 1 if vocabulary else COORDS_LEVELS)
    raise UsageError(f"condition {kind!r} has neither codec nor rule; {one_of(RULES, kind)}")


def _where(item: Item) -> str:
    return f"{item.path}" if item.member is None else f"{item.path}:{item.member}"
