"""Frozen image classifiers behind one interface, and selection of the images with the highest score.

`efficientnet-lite0` is part of the installation. torchvision's classifiers have torchvision's names, default weights,
and the resize, crop and normalisation published with them.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from taming_cli.config.fields import one_of
from taming_cli.data.images import to_uint8
from taming_cli.errors import MissingWeightsError, UsageError
from taming_cli.pretrained import efficientnet
from taming_cli.pretrained.frozen import StampedNetwork
from taming_cli.pretrained.published import classes_in, fill, version
from taming_cli.runtime.fp32 import exact
from taming_cli.runtime.weights import LocalWeights, OnBytes, find, load, published_file

DEFAULT = "efficientnet-lite0"
"""The classifier that needs no download."""

IMAGENET_CLASSES = 1000

# Auxiliary heads, which only training uses: the networks are built without them, and files may contain them.
_WITH_SIDE_HEADS = ("googlenet", "inception_v3")
_SIDE_HEADS = ("aux1.", "aux2.", "AuxLogits.")


class Recipe(NamedTuple):
    """The preprocessing of a network, in this order."""

    resize: int  # pixels of the shorter side
    crop: int  # pixels of both sides, from the centre
    interpolation: InterpolationMode
    mean: tuple[float, float, float]  # of the values in [0, 1], per channel
    deviation: tuple[float, float, float]

    def __call__(self, pictures: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> fp32 (B, 3, crop, crop), normalised, as torchvision does for a uint8 tensor."""
        resized = F.resize(pictures, [self.resize], interpolation=self.interpolation, antialias=True)
        cropped = F.center_crop(resized, [self.crop, self.crop])
        return F.normalize(cropped.float() / 255, list(self.mean), list(self.deviation))  # type: ignore[no-any-return]


class Classes(NamedTuple):
    """The classes of a classifier, in order. `wordnet` and `synonyms` are empty if unknown."""

    names: tuple[str, ...]
    wordnet: tuple[str, ...] = ()  # "n01440764"
    synonyms: tuple[tuple[str, ...], ...] = ()  # all WordNet words of each class


class Classifier(StampedNetwork, ABC):
    """The interface: `forward` returns log-probabilities of `classes`. Subclasses implement `logits`."""

    def __init__(self, name: str, file: LocalWeights, *, known: bool, recipe: Recipe, classes: Classes) -> None:
        super().__init__(name, file, known=known)
        self.recipe, self.classes, self.wordnet, self.synonyms = recipe, *classes

    @abstractmethod
    def logits(self, prepared: Tensor) -> Tensor:
        """fp32 (B, 3, crop, crop), normalised -> (B, classes)."""

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W), uint8 in [0, 255] or floating point in [-1, 1] -> fp32 log-probabilities in nats, (B, classes).

        Floating-point images are rounded to 8 bits first, so that the score is that of the saved image. Images may have
        any size: the network's own resize and centre crop are applied first.
        """
        assert pictures.ndim == 4, tuple(pictures.shape)
        assert pictures.shape[1] == 3, tuple(pictures.shape)
        eight_bits = pictures if pictures.dtype == torch.uint8 else to_uint8(pictures)
        with exact(pictures.device):  # close scores must be ranked reliably
            return self.logits(self.recipe(eight_bits)).float().log_softmax(1)


class LiteClassifier(Classifier):
    """EfficientNet-Lite0 (see `pretrained.efficientnet`) with the preprocessing of timm's `tf_efficientnet_lite0`."""

    def __init__(self, file: LocalWeights) -> None:
        half = (0.5, 0.5, 0.5)
        recipe = Recipe(resize=256, crop=224, interpolation=InterpolationMode.BICUBIC, mean=half, deviation=half)
        super().__init__(DEFAULT, file, known=file.known, recipe=recipe, classes=imagenet())
        self.network = efficientnet.EfficientNetLite0(file)
        self.freeze()

    def logits(self, prepared: Tensor) -> Tensor:
        """(B, 3, 224, 224) -> (B, 1000)."""
        outputs: efficientnet.Outputs = self.network(prepared)
        return outputs.logits


class TorchvisionClassifier(Classifier):
    """A torchvision classification network, from a file in torchvision's layout.

    The last layer in the file determines the number of classes. 1000 classes are assumed to be ImageNet's; the classes
    of a fine-tuned network with another number are named by their numbers. A file with another published version of
    the network (`IMAGENET1K_V1` where `V2` is the default) is also known, and gets the recipe of that version.
    """

    def __init__(self, name: str, file: LocalWeights) -> None:
        published_as, known = version(name, file)
        tensors = load(file)
        network = _unfilled(name, published_as, IMAGENET_CLASSES)
        count = classes_in(tensors, network, IMAGENET_CLASSES)
        if count != IMAGENET_CLASSES:
            network = _unfilled(name, published_as, count)
        fill(network, tensors, name, file.path, without=_SIDE_HEADS if name in _WITH_SIDE_HEADS else ())

        classes = imagenet() if count == IMAGENET_CLASSES else Classes(tuple(map(str, range(count))))
        super().__init__(name, file, known=known, recipe=_recipe(published_as), classes=classes)
        self.network = network
        self.freeze()

    def logits(self, prepared: Tensor) -> Tensor:
        """(B, 3, crop, crop) -> (B, classes)."""
        logits: Tensor = self.network(prepared)
        return logits


def names() -> tuple[str, ...]:
    """The names that `build` accepts: the classifier that needs no download, then torchvision's."""
    return (DEFAULT, *models.list_models(module=models))


def build(
    name: str,
    *,
    weights: Path | None = None,
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> Classifier:
    """Build the classifier `name` (see `names`) on the CPU.

    `weights` is the file or folder of `--weights`. UsageError for an unknown name; MissingWeightsError, naming the
    classifier that needs no download, if the weights cannot be found; BadFileError if the file does not contain them.
    """
    if name == DEFAULT:
        return LiteClassifier(find(DEFAULT, given=weights, offline=offline, on_bytes=on_bytes))
    if name not in names():
        raise UsageError(f"no classifier is called {name!r}; {one_of(names(), name)}")
    default = models.get_model_weights(name).DEFAULT
    try:
        file = find(published_file(name, default.url), given=weights, offline=offline, on_bytes=on_bytes)
    except MissingWeightsError as error:
        raise MissingWeightsError(f"{error}; or choose the classifier {DEFAULT}, which needs no download") from error
    return TorchvisionClassifier(name, file)


def imagenet() -> Classes:
    """ImageNet's 1000 classes with torchvision's names, sorted by WordNet id.

    A name is the first WordNet word of the class, except for two ambiguous ones ("crane bird").
    """
    info: Any = ImageNetInfo()  # reads tables that timm contains
    named = models.get_model_weights("resnet50").DEFAULT.meta["categories"]
    synonyms = tuple(tuple(words.split(", ")) for words in info.label_descriptions())
    return Classes(tuple(named), tuple(info.label_names()), synonyms)


def _unfilled(name: str, version: Any, count: int) -> nn.Module:
    """torchvision's network with `count` classes and random weights, built for the published weights `version`."""
    options: dict[str, Any] = {}
    if name in _WITH_SIDE_HEADS:  # the published weights expect a network that adapts the normalisation itself
        options = {"transform_input": True, "aux_logits": False, "init_weights": False}
    elif name.startswith("vit_"):  # the only family whose weights are tied to an image size
        options = {"image_size": version.meta["min_size"][0]}
    with torch.random.fork_rng(devices=[]):  # keeps the caller's random state: these values are overwritten
        network: nn.Module = models.get_model(name, weights=None, num_classes=count, **options)
    return network


def _recipe(version: Any) -> Recipe:
    """The recipe of published weights, from torchvision's transform."""
    transform = version.transforms()
    (resize,), (crop,) = transform.resize_size, transform.crop_size
    return Recipe(resize, crop, transform.interpolation, tuple(transform.mean), tuple(transform.std))
