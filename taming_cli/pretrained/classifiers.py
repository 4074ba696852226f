"""Which class a picture looks like: frozen classifiers, behind one interface, and the choice of the best by them.

`efficientnet-lite0` comes with the installation. torchvision's classifiers go by torchvision's names, with
torchvision's default weights, and the resize, crop and normalisation that these are published with.
"""

import math
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
from taming_cli.pretrained.frozen import Frozen
from taming_cli.pretrained.published import classes_in, fill, version
from taming_cli.runtime.fp32 import exact
from taming_cli.runtime.weights import Found, OnBytes, find, load, published

DEFAULT = "efficientnet-lite0"
"""The classifier that needs no download."""

IMAGENET_CLASSES = 1000

# Inception's second opinions, which exist to be trained: built without, and left out where a file has them.
_WITH_SIDE_HEADS = ("googlenet", "inception_v3")
_SIDE_HEADS = ("aux1.", "aux2.", "AuxLogits.")


class Recipe(NamedTuple):
    """What is done to a picture before the network sees it, in this order."""

    resize: int  # pixels of the shorter side
    crop: int  # pixels of both sides, from the centre
    interpolation: InterpolationMode
    mean: tuple[float, float, float]  # of the values in [0, 1], per channel
    deviation: tuple[float, float, float]

    def __call__(self, pictures: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> fp32 (B, 3, crop, crop), normalised; what torchvision does to a uint8 tensor."""
        resized = F.resize(pictures, [self.resize], interpolation=self.interpolation, antialias=True)
        cropped = F.center_crop(resized, [self.crop, self.crop])
        return F.normalize(cropped.float() / 255, list(self.mean), list(self.deviation))  # type: ignore[no-any-return]


class Classes(NamedTuple):
    """What a classifier can say, class by class. `wordnet` and `synonyms` are empty where nothing is known of them."""

    names: tuple[str, ...]
    wordnet: tuple[str, ...] = ()  # "n01440764"
    synonyms: tuple[tuple[str, ...], ...] = ()  # all of WordNet's words for each


class Classifier(Frozen, ABC):
    """The interface: `forward` gives log-probabilities; `classes` says of what. `stamp` goes into every result.

    Subclasses give `logits`.
    """

    def __init__(self, name: str, found: Found, *, known: bool, recipe: Recipe, classes: Classes) -> None:
        super().__init__()
        self.name, self.sha256, self.known = name, found.sha256, known
        self.recipe, self.classes, self.wordnet, self.synonyms = recipe, *classes

    @property
    def stamp(self) -> dict[str, str | bool]:
        """The network, as every result records it: name, sha256 of its weights, whether it is a published one."""
        return {"name": self.name, "sha256": self.sha256, "known": self.known}

    @abstractmethod
    def logits(self, prepared: Tensor) -> Tensor:
        """fp32 (B, 3, crop, crop), normalised -> (B, classes)."""

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W), uint8 in [0, 255] or floating point in [-1, 1] -> fp32 log-probabilities in nats, (B, classes).

        Floating-point pictures are rounded to 8 bits first, so that the score is of the picture as it will be saved.
        Sides may be of any length: the network's own resize and centre crop come first.
        """
        assert pictures.ndim == 4, tuple(pictures.shape)
        assert pictures.shape[1] == 3, tuple(pictures.shape)
        eight_bits = pictures if pictures.dtype == torch.uint8 else to_uint8(pictures)
        with exact(pictures.device):  # what is near has to be ranked
            return self.logits(self.recipe(eight_bits)).float().log_softmax(1)


class LiteClassifier(Classifier):
    """EfficientNet-Lite0 (see `pretrained.efficientnet`), with the preprocessing of timm's `tf_efficientnet_lite0`."""

    def __init__(self, found: Found) -> None:
        half = (0.5, 0.5, 0.5)
        recipe = Recipe(resize=256, crop=224, interpolation=InterpolationMode.BICUBIC, mean=half, deviation=half)
        super().__init__(DEFAULT, found, known=found.known, recipe=recipe, classes=imagenet())
        self.network = efficientnet.EfficientNetLite0(found)
        self.freeze()

    def logits(self, prepared: Tensor) -> Tensor:
        """(B, 3, 224, 224) -> (B, 1000)."""
        outputs: efficientnet.Outputs = self.network(prepared)
        return outputs.logits


class TorchvisionClassifier(Classifier):
    """A classification network of torchvision, from a file in torchvision's layout.

    The file's own last layer says how many classes there are. 1000 are taken for ImageNet's; any other number is of a
    network that someone trained on, whose classes have numbers for names. A file that is another published
    version of the network (`IMAGENET1K_V1` where `V2` is the default) is known too, and gets that version's recipe.
    """

    def __init__(self, name: str, found: Found) -> None:
        published_as, known = version(name, found)
        tensors = load(found)
        network = _unfilled(name, published_as, IMAGENET_CLASSES)
        count = classes_in(tensors, network, IMAGENET_CLASSES)
        if count != IMAGENET_CLASSES:
            network = _unfilled(name, published_as, count)
        fill(network, tensors, name, found.path, without=_SIDE_HEADS if name in _WITH_SIDE_HEADS else ())

        classes = imagenet() if count == IMAGENET_CLASSES else Classes(tuple(map(str, range(count))))
        super().__init__(name, found, known=known, recipe=_recipe(published_as), classes=classes)
        self.network = network
        self.freeze()

    def logits(self, prepared: Tensor) -> Tensor:
        """(B, 3, crop, crop) -> (B, classes)."""
        logits: Tensor = self.network(prepared)
        return logits


def names() -> tuple[str, ...]:
    """What `build` builds: the one that needs no download, then torchvision's."""
    return (DEFAULT, *models.list_models(module=models))


def build(
    name: str,
    *,
    weights: Path | None = None,
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> Classifier:
    """The classifier called `name` (see `names`), on the CPU.

    `weights` is a file or folder given by hand (`--weights`). UsageError for an unknown name; MissingWeightsError,
    naming the classifier that needs none, where its weights are not here; BadFileError where a file does not hold them.
    """
    if name == DEFAULT:
        return LiteClassifier(find(DEFAULT, given=weights, offline=offline, on_bytes=on_bytes))
    if name not in names():
        raise UsageError(f"no classifier is called {name!r}; {one_of(names(), name)}")
    default = models.get_model_weights(name).DEFAULT
    try:
        found = find(published(name, default.url), given=weights, offline=offline, on_bytes=on_bytes)
    except MissingWeightsError as error:
        raise MissingWeightsError(f"{error}; or choose the classifier {DEFAULT}, which needs no download") from error
    return TorchvisionClassifier(name, found)


def imagenet() -> Classes:
    """ImageNet's 1000 classes, in the order of their sorted WordNet ids, with torchvision's name for each.

    A name is WordNet's first word for the class, but for two that would be another class's name too ("crane bird").
    """
    info: Any = ImageNetInfo()  # reads tables that timm carries
    named = models.get_model_weights("resnet50").DEFAULT.meta["categories"]
    synonyms = tuple(tuple(words.split(", ")) for words in info.label_descriptions())
    return Classes(tuple(named), tuple(info.label_names()), synonyms)


def select(log_probs: Tensor, keep: int) -> Tensor:
    """(n,) -> int64 (keep,): which `keep` are the highest, in their original order; of equals the earlier, NaN last."""
    assert log_probs.ndim == 1, tuple(log_probs.shape)
    assert 0 <= keep <= len(log_probs), (keep, len(log_probs))
    ranked = log_probs.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).argsort(
        descending=True, stable=True
    )
    return ranked[:keep].sort().values


def _unfilled(name: str, version: Any, count: int) -> nn.Module:
    """torchvision's network with `count` classes and whatever values it starts from, as `version` wants it built."""
    options: dict[str, Any] = {}
    if name in _WITH_SIDE_HEADS:  # its published weights are of a network that changes the normalisation by itself
        options = {"transform_input": True, "aux_logits": False, "init_weights": False}
    elif name.startswith("vit_"):  # the one family whose weights are of one picture size
        options = {"image_size": version.meta["min_size"][0]}
    with torch.random.fork_rng(devices=[]):  # the initial values are thrown away: leave the caller's stream alone
        network: nn.Module = models.get_model(name, weights=None, num_classes=count, **options)
    return network


def _recipe(version: Any) -> Recipe:
    """The recipe of published weights, out of the transform that torchvision gives them."""
    transform = version.transforms()
    (resize,), (crop,) = transform.resize_size, transform.crop_size
    return Recipe(resize, crop, transform.interpolation, tuple(transform.mean), tuple(transform.std))
