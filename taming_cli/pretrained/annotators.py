"""What is where in a picture: frozen networks that make condition maps, behind one interface.

The networks are torchvision's, with the resize and normalisation that their weights are published with, except for
depth: see `pretrained.depth`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision import models
from torchvision.models import segmentation
from torchvision.models.detection import KeypointRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms import functional as transforms

from taming_cli.config.fields import one_of
from taming_cli.config.size import Size
from taming_cli.data.conditions.keypoints import JOINTS
from taming_cli.data.conditions.labels import paint
from taming_cli.data.conditions.skeletons import Keypoints, paint_skeletons
from taming_cli.errors import BadFileError, BadImageError, UsageError
from taming_cli.pretrained.frozen import Frozen
from taming_cli.pretrained.published import classes_in, fill, version
from taming_cli.runtime.weights import Found, OnBytes, find, load, published

LONGEST = 2666
"""Pixels of the longer side that a network is shown at most, so that memory does not grow with the picture. Twice what
keypoint R-CNN scales pictures to: it leaves out pixels when it scales further."""

POSE = "keypointrcnn_resnet50_fpn"

NARROWEST = 50
"""Times that one side may be as long as the other: what is left of a narrower strip, scaled, is nothing."""

_VOC_LABELS = 21
_MOST_LABELS = 256  # of maps with a byte a pixel


class Stamp(NamedTuple):
    """Which network made a map: its name, the sha256 of its weights, and whether they are published ones."""

    name: str
    sha256: str
    known: bool


class Annotator(Frozen, ABC):
    """The interface: a picture -> its map. `stamp` and `settings` say what made it. Subclasses give `draw`."""

    stamp: Stamp
    settings: Mapping[str, str | float] = MappingProxyType({})
    """What else the map depends on."""
    labels: tuple[str, ...] = ()
    """What the values of the map mean, where it is one of labels."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.parameters()).device

    @abstractmethod
    def draw(self, picture: Tensor) -> Image.Image:
        """uint8 (3, H, W) -> W x H."""

    def forward(self, picture: Tensor) -> Image.Image:
        """uint8 (3, H, W) in [0, 255] on the CPU -> W x H, of a mode that PNG keeps.

        BadImageError, without the picture's name, where the network has no answer for this picture.
        """
        assert picture.dtype == torch.uint8
        assert picture.ndim == 3, tuple(picture.shape)
        height, width = picture.shape[1:]
        if max(height, width) > NARROWEST * min(height, width):
            raise BadImageError(f"a strip of {width}x{height} pixels is too narrow for {self.stamp.name}; cut it up")
        with torch.inference_mode():
            return self.draw(picture)


class Segmenter(Annotator):
    """A segmentation network of torchvision, from a file in torchvision's layout.

    The file's own last layer says how many labels there are. 21 are taken for Pascal VOC's, 0 being the background; any
    other number is of a network that someone trained on, whose labels have numbers for names. The picture is scaled to
    the published side (520 pixels the shorter one), the logits bilinearly to the picture's size: then the largest wins.
    """

    def __init__(self, name: str, found: Found) -> None:
        super().__init__()
        published_as, known = version(name, found)
        tensors = load(found)
        count = classes_in(tensors, _segmentation(name, _VOC_LABELS), _VOC_LABELS)
        if count > _MOST_LABELS:
            raise BadFileError(f"{found.path}: {count} labels, where a map has room for {_MOST_LABELS}")
        self.network = _segmentation(name, count)
        fill(self.network, tensors, name, found.path, without=("aux_classifier.",))
        self.stamp = Stamp(name, found.sha256, known)
        categories = tuple(published_as.meta["categories"])
        # Files call it "__background__".
        self.labels = (
            ("background", *categories[1:]) if count == len(categories) else tuple(str(label) for label in range(count))
        )
        self.recipe = published_as.transforms()
        self.freeze()

    def prepared(self, picture: Tensor) -> Tensor:
        """uint8 (3, H, W) -> fp32 (1, 3, h, w), normalised; what torchvision does to a uint8 tensor, but that the
        longer side is bounded."""
        recipe, (height, width) = self.recipe, picture.shape[1:]
        size = recipe.resize_size
        if size[0] * max(height, width) > LONGEST * min(height, width):
            size = _bounded(height, width)
        seen = transforms.resize(picture, size, recipe.interpolation, antialias=True)
        normalised: Tensor = transforms.normalize(seen.float() / 255, recipe.mean, recipe.std)
        return normalised[None]

    def draw(self, picture: Tensor) -> Image.Image:
        """uint8 (3, H, W) -> mode P, W x H: labels, with a palette to look at them."""
        logits = self.network(self.prepared(picture).to(self.device))["out"][0].cpu()
        image = Image.fromarray(most_likely(logits, Size(picture.shape[2], picture.shape[1])))
        image.putpalette(paint(torch.arange(len(self.labels))[:, None])[..., 0].numpy().tobytes())
        return image


class PoseFinder(Annotator):
    """torchvision's keypoint R-CNN: the joints of each person, drawn as key points from a file are.

    Persons count above a probability of `score`. The network puts all 17 joints somewhere; drawn are those whose
    heatmap exceeds `joint_score`, a logit: 2 is what Detectron draws from.
    """

    def __init__(self, found: Found, *, score: float, joint_score: float) -> None:
        super().__init__()
        published_as, known = version(POSE, found)
        with torch.random.fork_rng(devices=[]):  # the initial values are thrown away
            backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
            self.network = KeypointRCNN(backbone, 2, num_keypoints=len(JOINTS), box_score_thresh=score)
        fill(self.network, load(found), POSE, found.path)
        if published_as is models.get_model_weights(POSE).DEFAULT:  # trained where normalisation adds nothing
            for module in self.network.modules():
                if isinstance(module, FrozenBatchNorm2d):
                    module.eps = 0.0
        self.stamp = Stamp(POSE, found.sha256, known)
        self.joint_score = joint_score
        self.settings = {"score": score, "joint_score": joint_score}
        self.freeze()

    def figures(self, picture: Tensor) -> list[Keypoints]:
        """uint8 (3, H, W) -> the persons' joints in the picture's pixels, the most certain person first."""
        seen = shown(picture)
        (found,) = self.network([seen.to(self.device).float() / 255])
        scale = torch.tensor([picture.shape[2] / seen.shape[2], picture.shape[1] / seen.shape[1]])
        places = found["keypoints"][..., :2].cpu() * scale
        there = (found["keypoints_scores"].cpu() > self.joint_score).float()
        figures = torch.cat([places, there[..., None]], -1)
        return [[(x, y, v) for x, y, v in joints] for joints in figures.tolist()]

    def draw(self, picture: Tensor) -> Image.Image:
        """uint8 (3, H, W) -> RGB, W x H: skeletons on black, which is all there is where nobody is found."""
        return Image.fromarray(paint_skeletons(self.figures(picture), picture.shape[2], picture.shape[1]))


def segmenter(
    name: str, *, weights: Path | None = None, offline: bool = False, on_bytes: OnBytes | None = None
) -> Segmenter:
    """torchvision's segmentation network called `name`, on the CPU.

    `weights` is a file or folder given by hand (`--weights`). UsageError for an unknown name; MissingWeightsError where
    its weights are not here; BadFileError where a file does not hold them.
    """
    names = models.list_models(module=segmentation)
    if name not in names:
        raise UsageError(f"no segmentation network is called {name!r}; {one_of(names, name)}")
    return Segmenter(name, _found(name, weights, offline, on_bytes))


def pose_finder(
    *,
    score: float,
    joint_score: float,
    weights: Path | None = None,
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> PoseFinder:
    """torchvision's keypoint R-CNN, on the CPU; `weights` and errors as of `segmenter`."""
    return PoseFinder(_found(POSE, weights, offline, on_bytes), score=score, joint_score=joint_score)


def shown(picture: Tensor) -> Tensor:
    """uint8 (3, H, W) -> the same, or where a side is longer than LONGEST, scaled down to that (antialiased)."""
    height, width = picture.shape[1:]
    if max(height, width) <= LONGEST:
        return picture
    smaller: Tensor = transforms.resize(picture, _bounded(height, width), antialias=True)
    return smaller


def most_likely(logits: Tensor, size: Size) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Logits (L, h, w) on the CPU, L at most 256 -> uint8 (H, W): the label whose logit, scaled bilinearly, is largest.

    Of equals the first. Labels are scaled one by one: all at once would take 4 L bytes a pixel.
    """
    best = torch.full((size.height, size.width), -math.inf)
    labels = torch.zeros((size.height, size.width), dtype=torch.uint8)
    for label, channel in enumerate(logits):
        scaled = F.interpolate(
            channel[None, None], (size.height, size.width), mode="bilinear", align_corners=False, antialias=True
        )[0, 0]
        labels[scaled > best] = label
        torch.maximum(best, scaled, out=best)
    return labels.numpy()


def _bounded(height: int, width: int) -> list[int]:
    """Height and width, scaled so that the longer is LONGEST."""
    scale = LONGEST / max(height, width)
    return [max(1, round(height * scale)), max(1, round(width * scale))]


def _found(name: str, weights: Path | None, offline: bool, on_bytes: OnBytes | None) -> Found:
    default = models.get_model_weights(name).DEFAULT
    return find(published(name, default.url), given=weights, offline=offline, on_bytes=on_bytes)


def _segmentation(name: str, count: int) -> nn.Module:
    """torchvision's network with `count` labels and whatever values it starts from."""
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = models.get_model(
            name, weights=None, weights_backbone=None, num_classes=count, aux_loss=False
        )
    return network
