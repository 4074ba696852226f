"""What files hold, pictures or the maps of a condition, and their way to a codec's input and back to something to see.

A content reads a file into a Pillow image, which is cut and scaled like any other; makes a tensor of that, small enough
to be kept and sent about; makes a codec's input of a batch of those; and paints a codec's output.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor

from taming_cli.config.kinds import CodecKind
from taming_cli.config.size import Size
from taming_cli.data.conditions.depth import WHOLE, read_depth
from taming_cli.data.conditions.edges import edges, read_edges
from taming_cli.data.conditions.labels import Colours, paint, read_labels
from taming_cli.data.conditions.pose import read_pose
from taming_cli.data.conditions.skeletons import swap_sides
from taming_cli.data.images import EXTENSIONS, Crop, apply, read_rgb, tensor, to_float, to_uint8, upright_size
from taming_cli.data.sources import Item
from taming_cli.errors import BadImageError, UsageError


class Content(ABC):
    """One kind of file. Instances are small and can be sent to other processes."""

    kind: ClassVar[CodecKind]
    categorical: ClassVar[bool] = False
    """Whether each pixel is one of `channels` labels: one-hot into the codec, logits out of it."""

    extensions: ClassVar[frozenset[str]] = EXTENSIONS
    resample: ClassVar[Resampling] = Resampling.LANCZOS

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of a codec's input and output."""

    @abstractmethod
    def read(self, data: bytes, name: str, *, min_size: Size | None = None, beside: Size | None = None) -> Image:
        """A file's bytes -> an upright image; `min_size` as for `read_rgb`. BadImageError names the file.

        `beside` is the size of the picture that a map belongs to: key points may not tell theirs.
        """

    def load(self, item: Item, *, min_size: Size | None = None) -> Image:
        """An item's file, read; of a map that was given its picture, `beside` is the size of that."""
        beside = None if item.picture is None else size_of(item.picture)
        return self.read(item.read(), item.name, min_size=min_size, beside=beside)

    def cut(self, image: Image, crop: Crop) -> Tensor:
        """What lies under a crop, scaled and mirrored with all that mirroring means for such files -> as `tensor`."""
        # At its full size: where limbs are scaled down, their colours mix.
        return self.tensor(apply(self.swap_sides(image) if crop.flip else image, crop, self.resample))

    def swap_sides(self, image: Image) -> Image:
        """What is marked as left in an image, as right, and the other way round: mirroring makes it so."""
        return image

    @abstractmethod
    def tensor(self, image: Image) -> Tensor:
        """An image, cut and scaled, -> (C, H, W), of whatever type is small."""

    @abstractmethod
    def to_input(self, values: Tensor) -> Tensor:
        """A batch of those, (B, C, H, W) -> a codec's input, float32 (B, channels, H, W), about [-1, 1]."""

    @abstractmethod
    def show(self, x: Tensor) -> Tensor:
        """A codec's input or output (B, channels, H, W) -> uint8 (B, 3, H, W)."""

    def about(self) -> dict[str, Any]:
        """What a codec's file says of it; the partner of `content_of`."""
        return {"content": self.kind}


@dataclass(frozen=True)
class Pictures(Content):
    """Photographs and the like: uint8 (3, H, W) in sRGB."""

    kind: ClassVar[CodecKind] = "image"

    @property
    def channels(self) -> int:  # noqa: D102 - as of Content
        return 3

    def read(self, data: bytes, name: str, *, min_size: Size | None = None, beside: Size | None = None) -> Image:  # noqa: D102
        return read_rgb(data, name, min_size=min_size)

    def tensor(self, image: Image) -> Tensor:  # noqa: D102
        return tensor(image)

    def to_input(self, values: Tensor) -> Tensor:  # noqa: D102
        return to_float(values)

    def show(self, x: Tensor) -> Tensor:  # noqa: D102
        return to_uint8(x)


@dataclass(frozen=True)
class Poses(Pictures):
    """Skeletons in OpenPose's colours on black: pictures of them, or key points, which are drawn."""

    kind: ClassVar[CodecKind] = "pose"
    extensions: ClassVar[frozenset[str]] = EXTENSIONS | {".json"}

    def read(self, data: bytes, name: str, *, min_size: Size | None = None, beside: Size | None = None) -> Image:  # noqa: D102
        return read_pose(data, name, size=beside)

    def swap_sides(self, image: Image) -> Image:  # noqa: D102
        return swap_sides(image)


@dataclass(frozen=True)
class Depth(Content):
    """Distance or its inverse, each map scaled to [-1, 1] by its own smallest and largest value: float32 (1, H, W).

    `missing` and `percentiles` as for `read_depth`; values that mean missing are kept as text, for nan is no JSON.
    """

    missing: tuple[str, ...] = ()
    percentiles: tuple[float, float] = WHOLE

    kind: ClassVar[CodecKind] = "depth"
    extensions: ClassVar[frozenset[str]] = EXTENSIONS | {".npy"}
    resample: ClassVar[Resampling] = Resampling.BILINEAR

    @property
    def channels(self) -> int:  # noqa: D102
        return 1

    def read(self, data: bytes, name: str, *, min_size: Size | None = None, beside: Size | None = None) -> Image:  # noqa: D102
        return read_depth(data, name, missing=[float(each) for each in self.missing], percentiles=self.percentiles)

    def tensor(self, image: Image) -> Tensor:  # noqa: D102
        return torch.from_numpy(np.array(image, dtype=np.float32))[None]

    def to_input(self, values: Tensor) -> Tensor:  # noqa: D102
        return values

    def about(self) -> dict[str, Any]:  # noqa: D102
        said: dict[str, Any] = {"content": self.kind}
        if self.missing:
            said["missing"] = list(self.missing)
        if self.percentiles != WHOLE:
            said["depth_range"] = list(self.percentiles)
        return said

    def show(self, x: Tensor) -> Tensor:  # noqa: D102
        return to_uint8(x).expand(-1, 3, -1, -1)


@dataclass(frozen=True, eq=False)  # tables of colours cannot be compared so
class Segmentation(Content):
    """Maps of labels 0 to `labels` - 1, int32 (1, H, W); `unlabelled`, `colours` and `values` as for `read_labels`."""

    labels: int
    unlabelled: bool = False
    colours: Colours | None = None
    values: tuple[int, ...] = ()

    kind: ClassVar[CodecKind] = "segmentation"
    categorical: ClassVar[bool] = True
    resample: ClassVar[Resampling] = Resampling.NEAREST

    @property
    def channels(self) -> int:  # noqa: D102
        return self.labels

    def read(self, data: bytes, name: str, *, min_size: Size | None = None, beside: Size | None = None) -> Image:  # noqa: D102
        image = read_labels(data, name, colours=self.colours, unlabelled=self.unlabelled, values=self.values)
        largest = int(np.asarray(image).max())
        if largest >= self.labels:
            names = ", ".join(filter(None, self.colours.names)) if self.colours is not None else ""
            said = f"0 to {self.labels - 1}" + (f" ({names})" if names else "")
            void = "; what 255 means, --unlabelled or --label-values says when the codec is trained"
            hint = void if largest == 255 and not self.unlabelled else ""
            raise BadImageError(f"{name}: holds label {largest}, but the labels are {said}{hint}")
        return image

    def tensor(self, image: Image) -> Tensor:  # noqa: D102
        return torch.from_numpy(np.array(image, dtype=np.int32))[None]

    def to_input(self, values: Tensor) -> Tensor:  # noqa: D102
        return _one_hot(values, self.labels)

    def show(self, x: Tensor) -> Tensor:  # noqa: D102
        return paint(x.argmax(1), self.colours)

    def about(self) -> dict[str, Any]:  # noqa: D102
        said: dict[str, Any] = {"content": self.kind, "unlabelled": self.unlabelled}
        if self.colours is not None:
            said["colours"] = {"rgb": np.asarray(self.colours.rgb).tolist(), "names": list(self.colours.names)}
        if self.values:
            said["label_values"] = list(self.values)
        return said


@dataclass(frozen=True)
class Edges(Content):
    """Edge maps, or pictures whose edges are found once they are cut and scaled: uint8 (1, H, W), 0 or 1."""

    kind: ClassVar[CodecKind] = "edges"
    categorical: ClassVar[bool] = True

    @property
    def channels(self) -> int:  # noqa: D102
        return 2

    def read(self, data: bytes, name: str, *, min_size: Size | None = None, beside: Size | None = None) -> Image:  # noqa: D102
        return read_edges(data, name)

    def tensor(self, image: Image) -> Tensor:  # noqa: D102
        found = edges(image) if image.mode == "RGB" else image
        return torch.from_numpy((np.array(found) > EDGE).astype(np.uint8))[None]

    def to_input(self, values: Tensor) -> Tensor:  # noqa: D102
        return _one_hot(values, 2)

    def show(self, x: Tensor) -> Tensor:  # noqa: D102
        return (255 * x.argmax(1, keepdim=True)).to(torch.uint8).expand(-1, 3, -1, -1)


EDGE = 64
"""A pixel of a scaled edge map is an edge from this value on: thin lines grow pale where a map is made smaller."""


def content(
    kind: CodecKind,
    *,
    labels: int = 0,
    unlabelled: bool = False,
    colours: Colours | None = None,
    label_values: Sequence[int] = (),
    missing: Sequence[str] = (),
    depth_range: Sequence[float] = WHOLE,
) -> Content:
    """The content of that kind. UsageError where only another kind has what is given."""
    if kind == "segmentation":
        return Segmentation(labels, unlabelled, colours, tuple(label_values))
    if labels or unlabelled or colours is not None or label_values:
        raise UsageError(f"labels, unlabelled, colours and label_values describe segmentation maps, not {kind!r}")
    low, high = depth_range
    if kind == "depth":
        return Depth(tuple(missing), (low, high))
    if missing or (low, high) != WHOLE:
        raise UsageError(f"missing and depth_range describe depth maps, not {kind!r}")
    others: dict[CodecKind, Content] = {"image": Pictures(), "pose": Poses(), "edges": Edges()}
    return others[kind]


def content_of(about: Mapping[str, Any], channels: int) -> Content:
    """What a codec takes, by what its file says and by its input's channels."""
    kind = about.get("content", "image")
    low, high = about.get("depth_range", WHOLE)
    depth = Depth(tuple(about.get("missing", ())), (low, high))
    by_channels: dict[int, Content] = {1: depth, 3: Pictures(), 2: Edges() if kind == "edges" else Segmentation(2)}
    if kind == "pose" and channels == 3:
        return Poses()
    if channels in by_channels and kind != "segmentation":
        return by_channels[channels]
    said = about.get("colours")
    colours = Colours(np.array(said["rgb"], dtype=np.uint8), tuple(said["names"])) if said else None
    values = tuple(about.get("label_values", ()))
    return Segmentation(channels, bool(about.get("unlabelled", channels == COCO_STUFF)), colours, values)


COCO_STUFF = 183
"""Labels of the published COCO-Stuff codecs, which have one for what is unlabelled."""


def size_of(picture: Item) -> Size:
    """The upright size of a picture, by the beginning of its file where that is enough. BadImageError where it cannot
    be read."""
    try:
        return upright_size(picture.head(), picture.name)
    except BadImageError:
        return upright_size(picture.read(), picture.name)


def _one_hot(values: Tensor, labels: int) -> Tensor:
    """(B, 1, H, W) -> float32 (B, labels, H, W), channels last in memory."""
    # torch's own makes int64 of it first, three times the memory of what is wanted.
    batch, _, height, width = values.shape
    hot = torch.zeros(batch, height, width, labels, device=values.device)
    return hot.scatter_(3, values[:, 0, :, :, None].long(), 1).permute(0, 3, 1, 2)
