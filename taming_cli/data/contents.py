"""The content of files, pictures or condition maps, converted to a codec's input and back to pictures.

A content reads a file as a Pillow image, which is cropped and scaled like any other; converts that to a small tensor,
and a batch of those to a codec's input; and paints a codec's output.
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
    """Whether each pixel is one of `channels` labels: one-hot as the codec's input, logits as its output."""

    extensions: ClassVar[frozenset[str]] = EXTENSIONS
    resample: ClassVar[Resampling] = Resampling.LANCZOS

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of a codec's input and output."""

    @abstractmethod
    def read(self, data: bytes, name: str, *, min_size: Size | None = None, picture_size: Size | None = None) -> Image:
        """Read an upright image; `min_size` as for `read_rgb`. Raises BadImageError, which names the file.

        `picture_size` is the size of the picture that a map belongs to, for keypoints, which may not state it.
        """

    def load(self, item: Item, *, min_size: Size | None = None) -> Image:
        """Read an item's file; for a map whose picture is known, `picture_size` is that picture's size."""
        picture_size = None if item.picture is None else size_of(item.picture)
        return self.read(item.read(), item.name, min_size=min_size, picture_size=picture_size)

    def cut(self, image: Image, crop: Crop) -> Tensor:
        """Crop, scale and mirror an image -> the result of `tensor`. Mirroring swaps the marks of left and right."""
        # Sides are swapped at full size: the colours of limbs mix when they are scaled down.
        return self.tensor(apply(self.swap_sides(image) if crop.flip else image, crop, self.resample))

    def swap_sides(self, image: Image) -> Image:
        """Exchange the marks of left and right in an image, as mirroring requires."""
        return image

    @abstractmethod
    def tensor(self, image: Image) -> Tensor:
        """Convert a cropped image to (C, H, W), of a small type."""

    @abstractmethod
    def to_input(self, values: Tensor) -> Tensor:
        """Convert a batch (B, C, H, W) of `tensor` to a codec's input, float32 (B, channels, H, W), about [-1, 1]."""

    @abstractmethod
    def show(self, x: Tensor) -> Tensor:
        """Paint a codec's input or output (B, channels, H, W) as uint8 (B, 3, H, W)."""

    def about(self) -> dict[str, Any]:
        """Return the record of the content in a codec's file; the inverse of `content_of`."""
        return {"content": self.kind}


@dataclass(frozen=True)
class Pictures(Content):
    """Pictures: uint8 (3, H, W) in sRGB."""

    kind: ClassVar[CodecKind] = "image"

    @property
    def channels(self) -> int:  # noqa: D102 - see Content
        return 3

    def read(self, data: bytes, name: str, *, min_size: Size | None = None, picture_size: Size | None = None) -> Image:  # noqa: D102
        return read_rgb(data, name, min_size=min_size)

    def tensor(self, image: Image) -> Tensor:  # noqa: D102
        return tensor(image)

    def to_input(self, values: Tensor) -> Tensor:  # noqa: D102
        return to_float(values)

    def show(self, x: Tensor) -> Tensor:  # noqa: D102
        return to_uint8(x)


@dataclass(frozen=True)
class Poses(Pictures):
    """Skeletons in OpenPose's colours on black: pictures of them, or keypoints, which are drawn."""

    kind: ClassVar[CodecKind] = "pose"
    extensions: ClassVar[frozenset[str]] = EXTENSIONS | {".json"}

    def read(self, data: bytes, name: str, *, min_size: Size | None = None, picture_size: Size | None = None) -> Image:  # noqa: D102
        return read_pose(data, name, size=picture_size)

    def swap_sides(self, image: Image) -> Image:  # noqa: D102
        return swap_sides(image)


@dataclass(frozen=True)
class Depth(Content):
    """Distance or its inverse, each map scaled to [-1, 1] by its own smallest and largest value: float32 (1, H, W).

    `missing` and `percentiles` as for `read_depth`; `missing` is text, because JSON has no nan.
    """

    missing: tuple[str, ...] = ()
    percentiles: tuple[float, float] = WHOLE

    kind: ClassVar[CodecKind] = "depth"
    extensions: ClassVar[frozenset[str]] = EXTENSIONS | {".npy"}
    resample: ClassVar[Resampling] = Resampling.BILINEAR

    @property
    def channels(self) -> int:  # noqa: D102
        return 1

    def read(self, data: bytes, name: str, *, min_size: Size | None = None, picture_size: Size | None = None) -> Image:  # noqa: D102
        return read_depth(data, name, missing=[float(each) for each in self.missing], percentiles=self.percentiles)

    def tensor(self, image: Image) -> Tensor:  # noqa: D102
        return torch.from_numpy(np.array(image, dtype=np.float32))[None]

    def to_input(self, values: Tensor) -> Tensor:  # noqa: D102
        return values

    def about(self) -> dict[str, Any]:  # noqa: D102
        about: dict[str, Any] = {"content": self.kind}
        if self.missing:
            about["missing"] = list(self.missing)
        if self.percentiles != WHOLE:
            about["depth_range"] = list(self.percentiles)
        return about

    def show(self, x: Tensor) -> Tensor:  # noqa: D102
        return to_uint8(x).expand(-1, 3, -1, -1)


@dataclass(frozen=True, eq=False)  # tables of colours have no equality
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

    def read(self, data: bytes, name: str, *, min_size: Size | None = None, picture_size: Size | None = None) -> Image:  # noqa: D102
        image = read_labels(data, name, colours=self.colours, unlabelled=self.unlabelled, values=self.values)
        largest = int(np.asarray(image).max())
        if largest >= self.labels:
            names = ", ".join(filter(None, self.colours.names)) if self.colours is not None else ""
            known = f"0 to {self.labels - 1}" + (f" ({names})" if names else "")
            void = "; train the codec with --unlabelled or --label-values if 255 has a meaning"
            hint = void if largest == 255 and not self.unlabelled else ""
            raise BadImageError(f"{name}: holds label {largest}, but the labels are {known}{hint}")
        return image

    def tensor(self, image: Image) -> Tensor:  # noqa: D102
        return torch.from_numpy(np.array(image, dtype=np.int32))[None]

    def to_input(self, values: Tensor) -> Tensor:  # noqa: D102
        return _one_hot(values, self.labels)

    def show(self, x: Tensor) -> Tensor:  # noqa: D102
        return paint(x.argmax(1), self.colours)

    def about(self) -> dict[str, Any]:  # noqa: D102
        about: dict[str, Any] = {"content": self.kind, "unlabelled": self.unlabelled}
        if self.colours is not None:
            about["colours"] = {"rgb": np.asarray(self.colours.rgb).tolist(), "names": list(self.colours.names)}
        if self.values:
            about["label_values"] = list(self.values)
        return about


@dataclass(frozen=True)
class Edges(Content):
    """Edge maps, or pictures whose edges are detected after cropping and scaling: uint8 (1, H, W), 0 or 1."""

    kind: ClassVar[CodecKind] = "edges"
    categorical: ClassVar[bool] = True

    @property
    def channels(self) -> int:  # noqa: D102
        return 2

    def read(self, data: bytes, name: str, *, min_size: Size | None = None, picture_size: Size | None = None) -> Image:  # noqa: D102
        return read_edges(data, name)

    def tensor(self, image: Image) -> Tensor:  # noqa: D102
        lines = edges(image) if image.mode == "RGB" else image
        return torch.from_numpy((np.array(lines) > EDGE).astype(np.uint8))[None]

    def to_input(self, values: Tensor) -> Tensor:  # noqa: D102
        return _one_hot(values, 2)

    def show(self, x: Tensor) -> Tensor:  # noqa: D102
        return (255 * x.argmax(1, keepdim=True)).to(torch.uint8).expand(-1, 3, -1, -1)


EDGE = 64
"""The threshold of an edge in a scaled edge map: thin lines become pale where a map is reduced."""


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
    """Return the content of a kind. Raises UsageError for an option of another kind."""
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
    """Return the content of a codec by its file's record and its input's channels; the inverse of `Content.about`."""
    kind = about.get("content", "image")
    low, high = about.get("depth_range", WHOLE)
    depth = Depth(tuple(about.get("missing", ())), (low, high))
    by_channels: dict[int, Content] = {1: depth, 3: Pictures(), 2: Edges() if kind == "edges" else Segmentation(2)}
    if kind == "pose" and channels == 3:
        return Poses()
    if channels in by_channels and kind != "segmentation":
        return by_channels[channels]
    table = about.get("colours")
    colours = Colours(np.array(table["rgb"], dtype=np.uint8), tuple(table["names"])) if table else None
    values = tuple(about.get("label_values", ()))
    return Segmentation(channels, bool(about.get("unlabelled", channels == COCO_STUFF)), colours, values)


COCO_STUFF = 183
"""Number of labels of the published COCO-Stuff codecs, one of them for unlabelled pixels."""


def size_of(picture: Item) -> Size:
    """Return the upright size of a picture, from the beginning of its file if that is enough. Raises BadImageError."""
    try:
        return upright_size(picture.head(), picture.name)
    except BadImageError:
        return upright_size(picture.read(), picture.name)


def _one_hot(values: Tensor, labels: int) -> Tensor:
    """Convert labels (B, 1, H, W) to float32 (B, labels, H, W), channels last in memory."""
    # torch's own function makes int64 first, which takes three times the memory.
    batch, _, height, width = values.shape
    hot = torch.zeros(batch, height, width, labels, device=values.device)
    return hot.scatter_(3, values[:, 0, :, :, None].long(), 1).permute(0, 3, 1, 2)
