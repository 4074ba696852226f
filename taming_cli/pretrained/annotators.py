"""Annotators: frozen networks that compute condition maps of images, behind one interface.

The networks are torchvision's, with the resize and normalisation published with their weights. For depth, see
`pretrained.depth`.
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
from taming_cli.runtime.weights import LocalWeights, OnBytes, find, load, published_file

LONGEST = 2666
"""The longest side of a network's input in pixels, so that memory does not grow with the image. Twice the size that
keypoint R-CNN resizes to; it would skip pixels when it downscales further."""

POSE = "keypointrcnn_resnet50_fpn"

NARROWEST = 50
"""The largest aspect ratio: narrower strips would vanish when resized."""

_VOC_LABELS = 21
_MOST_LABELS = 256  # a map has one byte per pixel


class Stamp(NamedTuple):
    """The record of the network in a map: its name, the sha256 of its weights, and whether they are published ones."""

    name: str
    sha256: str
    known: bool


class Annotator(Frozen, ABC):
    """The interface: an image -> its map. `stamp` and `settings` identify it. Subclasses implement `draw`."""

    stamp: Stamp
    settings: Mapping[str, str | float] = MappingProxyType({})
    """The settings that a map depends on, besides the network."""
    labels: tuple[str, ...] = ()
    """The names of a label map's values."""

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.parameters()).device

    @abstractmethod
    def draw(self, picture: Tensor) -> Image.Image:
        """uint8 (3, H, W) -> W x H."""

    def forward(self, picture: Tensor) -> Image.Image:
        """uint8 (3, H, W) in [0, 255] on the CPU -> W x H, in a mode that PNG supports.

        BadImageError, without the image's name, if the network has no result for it.
        """
        assert picture.dtype == torch.uint8
        assert picture.ndim == 3, tuple(picture.shape)
        height, width = picture.shape[1:]
        if max(height, width) > NARROWEST * min(height, width):
            raise BadImageError(f"a strip of {width}x{height} pixels is too narrow for {self.stamp.name}; cut it up")
        with torch.inference_mode():
            return self.draw(picture)


class Segmenter(Annotator):
    """A torchvision segmentation network, from a file in torchvision's layout.

    The last layer in the file determines the number of labels. 21 labels are assumed to be Pascal VOC's, 0 being the
    background; the labels of a fine-tuned network with another number are named by their numbers. The image is resized
    to the published size (520 pixels for the shorter side), and the logits bilinearly to the size of the image.
    """

    def __init__(self, name: str, file: LocalWeights) -> None:
        super().__init__()
        published_as, known = version(name, file)
        tensors = load(file)
        count = classes_in(tensors, _segmentation(name, _VOC_LABELS), _VOC_LABELS)
        if count > _MOST_LABELS:
            raise BadFileError(f"{file.path}: {count} labels; a map holds at most {_MOST_LABELS}")
        self.network = _segmentation(name, count)
        fill(self.network, tensors, name, file.path, without=("aux_classifier.",))
        self.stamp = Stamp(name, file.sha256, known)
        categories = tuple(published_as.meta["categories"])
        # Files call it "__background__".
        self.labels = (
            ("background", *categories[1:]) if count == len(categories) else tuple(str(label) for label in range(count))
        )
        self.recipe = published_as.transforms()
        self.freeze()

    def prepared(self, picture: Tensor) -> Tensor:
        """uint8 (3, H, W) -> fp32 (1, 3, h, w), normalised, as torchvision does, but with a bounded longer side."""
        recipe, (height, width) = self.recipe, picture.shape[1:]
        size = recipe.resize_size
        if size[0] * max(height, width) > LONGEST * min(height, width):
            size = _bounded(height, width)
        resized = transforms.resize(picture, size, recipe.interpolation, antialias=True)
        normalised: Tensor = transforms.normalize(resized.float() / 255, recipe.mean, recipe.std)
        return normalised[None]

    def draw(self, picture: Tensor) -> Image.Image:
        """uint8 (3, H, W) -> mode P, W x H: labels, with a palette."""
        logits = self.network(self.prepared(picture).to(self.device))["out"][0].cpu()
        image = Image.fromarray(most_likely(logits, Size(picture.shape[2], picture.shape[1])))
        image.putpalette(paint(torch.arange(len(self.labels))[:, None])[..., 0].numpy().tobytes())
        return image


class PoseFinder(Annotator):
    """torchvision's keypoint R-CNN: the skeletons of all persons, drawn like key points from a file.

    Persons below a probability of `score` are ignored. The network places all 17 joints of a person; those whose
    heat map exceeds `joint_score`, a logit, are drawn. Detectron draws from 2.
    """

    def __init__(self, file: LocalWeights, *, score: float, joint_score: float) -> None:
        super().__init__()
        published_as, known = version(POSE, file)
        with torch.random.fork_rng(devices=[]):  # keeps the caller's random state
            backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
            self.network = KeypointRCNN(backbone, 2, num_keypoints=len(JOINTS), box_score_thresh=score)
        fill(self.network, load(file), POSE, file.path)
        if published_as is models.get_model_weights(POSE).DEFAULT:  # trained with an epsilon of 0
            for module in self.network.modules():
                if isinstance(module, FrozenBatchNorm2d):
                    module.eps = 0.0
        self.stamp = Stamp(POSE, file.sha256, known)
        self.joint_score = joint_score
        self.settings = {"score": score, "joint_score": joint_score}
        self.freeze()

    def figures(self, picture: Tensor) -> list[Keypoints]:
        """uint8 (3, H, W) -> the joints of each person in pixels, the most probable person first."""
        image = downscaled(picture)
        (detected,) = self.network([image.to(self.device).float() / 255])
        scale = torch.tensor([picture.shape[2] / image.shape[2], picture.shape[1] / image.shape[1]])
        places = detected["keypoints"][..., :2].cpu() * scale
        visible = (detected["keypoints_scores"].cpu() > self.joint_score).float()
        figures = torch.cat([places, visible[..., None]], -1)
        return [[(x, y, v) for x, y, v in joints] for joints in figures.tolist()]

    def draw(self, picture: Tensor) -> Image.Image:
        """uint8 (3, H, W) -> RGB, W x H: skeletons on black; all black without persons."""
        return Image.fromarray(paint_skeletons(self.figures(picture), picture.shape[2], picture.shape[1]))


def segmenter(
    name: str, *, weights: Path | None = None, offline: bool = False, on_bytes: OnBytes | None = None
) -> Segmenter:
    """Build torchvision's segmentation network `name` on the CPU.

    `weights` is the file or folder of `--weights`. UsageError for an unknown name; MissingWeightsError if the weights
    cannot be found; BadFileError if the file does not contain them.
    """
    names = models.list_models(module=segmentation)
    if name not in names:
        raise UsageError(f"no segmentation network is called {name!r}; {one_of(names, name)}")
    return Segmenter(name, _weights(name, weights, offline, on_bytes))


def pose_finder(
    *,
    score: float,
    joint_score: float,
    weights: Path | None = None,
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> PoseFinder:
    """Build torchvision's keypoint R-CNN on the CPU; `weights` and errors as for `segmenter`."""
    return PoseFinder(_weights(POSE, weights, offline, on_bytes), score=score, joint_score=joint_score)


def downscaled(picture: Tensor) -> Tensor:
    """uint8 (3, H, W) -> the same, downscaled with antialiasing if its longer side exceeds LONGEST."""
    height, width = picture.shape[1:]
    if max(height, width) <= LONGEST:
        return picture
    smaller: Tensor = transforms.resize(picture, _bounded(height, width), antialias=True)
    return smaller


def most_likely(logits: Tensor, size: Size) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Logits (L, h, w) on the CPU, L <= 256 -> uint8 (H, W): the label with the largest bilinearly resized logit.

    Ties go to the first label. Labels are resized one by one; all at once would take 4 L bytes per pixel.
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
    """Height and width, scaled so that the longer side is LONGEST."""
    scale = LONGEST / max(height, width)
    return [max(1, round(height * scale)), max(1, round(width * scale))]


def _weights(name: str, weights: Path | None, offline: bool, on_bytes: OnBytes | None) -> LocalWeights:
    default = models.get_model_weights(name).DEFAULT
    return find(published_file(name, default.url), given=weights, offline=offline, on_bytes=on_bytes)


def _segmentation(name: str, count: int) -> nn.Module:
    """torchvision's network with `count` labels and random weights."""
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = models.get_model(
            name, weights=None, weights_backbone=None, num_classes=count, aux_loss=False
        )
    return network
