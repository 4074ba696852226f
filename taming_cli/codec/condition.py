"""Encodes condition maps as codes on the picture's grid, by a codec of such maps or by a rule.

An encoder defines how the files of its kind are read, how a map is cropped with its picture, and how the crops are
encoded. Training data and sampling use the same three steps.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from PIL.Image import Image, Resampling
from torch import Tensor

from taming_cli.codec.locate import content_in, load_codec
from taming_cli.codec.tiling import tiles
from taming_cli.codec.vqgan import VQGAN, codec_from, ready
from taming_cli.config.fields import one_of
from taming_cli.config.kinds import COMPUTED, KINDS, RULES
from taming_cli.config.size import Size
from taming_cli.data.conditions.pairs import partners
from taming_cli.data.conditions.rules import LOWRES_CODES, coords, lowres, lowres_picture
from taming_cli.data.contents import Content, Pictures, content_of
from taming_cli.data.images import Crop, apply, tensor
from taming_cli.data.sources import Item
from taming_cli.data.tokens.header import RULE, ConditionHeader
from taming_cli.errors import BadImageError, UsageError
from taming_cli.runtime.checkpoint import ModelFile
from taming_cli.runtime.model_files import named

COORDS_LEVELS = 1024
"""The largest code of the raster scalar in priors trained here."""


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
        if spec["form"] != "grid":
            continue
        kind, networks = spec["kind"], model.config.get("conditions", {})
        if kind in networks:
            separate = any(name.startswith(f"condition.{kind}.") for name in model.tensors)
            network = codec_from(model, where, part=f"condition.{kind}") if separate else codec
            about = model.about.get("conditions", {}).get(kind, {"content": kind})
            result[kind] = MapCodec(kind, content_of(about, network.config.in_channels), network)
        else:
            result[kind] = _rule_encoder(kind, spec["vocabulary"])
    return result


def build_conditions(
    requested: Mapping[str, Path | None], codecs: Sequence[Path], items: Sequence[Item]
) -> list[Condition]:
    """The conditions that `tokenize` encodes.

    `requested` maps kinds to the folders of their maps, or to None for maps that are computed from the pictures.
    `codecs` are the model files of their codecs, each of which records its kind. UsageError where these do not fit
    together.
    """
    networks: dict[str, MapCodec] = {}
    for path in map(named, codecs):
        network, model = load_codec(path)
        reads = content_in(model)
        if reads.kind == "image":
            raise UsageError(f"{path} is a codec of pictures; --cond-ckpt takes those of condition maps")
        if reads.kind in networks:
            raise UsageError(f"{path} and {networks[reads.kind].path} are both codecs of {reads.kind}; give one")
        networks[reads.kind] = MapCodec(reads.kind, reads, network, str(path.resolve()))
    result = []
    for kind, maps in requested.items():
        if kind not in KINDS:
            raise UsageError(f"no condition is called {kind!r}; {one_of(KINDS, kind)}")
        encoder = _rule_encoder(kind) if kind in RULES else networks.pop(kind, None)
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
    if networks:
        kind = next(iter(networks))
        raise UsageError(
            f"{networks[kind].path} is a codec of {kind}, which is not requested; add --cond {kind}=FOLDER"
        )
    return result


def renders(
    conditions: Mapping[str, ConditionHeader], codecs: Mapping[str, ModelFile]
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Functions, by kind, that render a token file's condition codes (n, h, w) as pictures, uint8 (n, 3, H, W) on the
    CPU: with the codec of the codes, or by the rule. There is none for `coords`."""
    result: dict[str, Callable[[Tensor], Tensor]] = {}
    for kind in conditions:
        if kind in codecs:
            result[kind] = partial(_decoded, codecs[kind], kind)
        elif kind == "lowres":
            result[kind] = lowres_picture
    return result


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
