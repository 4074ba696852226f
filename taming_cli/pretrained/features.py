"""Feature networks: frozen networks that map each image to a vector, for comparing distributions of images.

`inception-v3-compat` and `vgg16` are those of torch-fidelity, with its weights and values; only metrics of the former
are called FID, IS and KID. Images are uint8 RGB of any size. Each is resized to the network's input size, as the
original FID does (TensorFlow 1's bilinear without antialiasing) or as clean-fid does (Parmar, Zhang, Zhu 2022:
Pillow's bicubic, each channel in floating point).
"""

import contextlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from taming_cli.config.evaluate import FeatureNetworkName, Resize
from taming_cli.data.disk import refusals
from taming_cli.errors import BadFileError, MissingWeightsError
from taming_cli.pretrained.efficientnet import EfficientNetLite0
from taming_cli.pretrained.frozen import Frozen
from taming_cli.runtime.checkpoint import save_torch
from taming_cli.runtime.fp32 import exact
from taming_cli.runtime.weights import LocalWeights, OnBytes, find, load, sha256


class FeatureOutput(NamedTuple):
    """The output for a batch: `features` fp32 (B, D), and `logits` (B, C) of a network with classes."""

    features: Tensor
    logits: Tensor | None


class FeatureNetwork(Frozen, ABC):
    """The interface: `prepare` each image, then `forward` a batch of them. Every result records `stamp`."""

    name: ClassVar[FeatureNetworkName]
    layer: str
    """The layer that the features come from."""

    side: ClassVar[int]
    """The side of the network's input, in pixels."""

    dimensions: int
    """The number of features, D."""

    classes: ClassVar[int] = 0
    """The number of classes, C; 0 for a network without logits."""

    def __init__(self, file: LocalWeights, resize: Resize) -> None:
        super().__init__()
        self.sha256, self.known, self.resize = file.sha256, file.known, resize

    @property
    def stamp(self) -> dict[str, Any]:
        """The record of the network and its preprocessing in results."""
        return {
            "name": self.name,
            "layer": self.layer,
            "dimensions": self.dimensions,
            "sha256": self.sha256,
            "known": self.known,
            "resize": self.resize,
            "side": self.side,
        }

    def width(self, output: Literal["features", "logits"]) -> int:
        """The number of values per image: D or C."""
        return self.dimensions if output == "features" else self.classes

    def prepare(self, picture: Tensor) -> Tensor:
        """uint8 (3, H, W) -> fp32 (3, side, side) in [0, 255], not rounded."""
        assert picture.dtype == torch.uint8, picture.dtype
        assert picture.ndim == 3, tuple(picture.shape)
        return (_tf1 if self.resize == "tf1" else _clean)(picture, self.side)

    def forward(self, prepared: Tensor) -> FeatureOutput:
        """fp32 (B, 3, side, side) in [0, 255] -> features and logits in fp32."""
        assert prepared.shape[1:] == (3, self.side, self.side), tuple(prepared.shape)
        with exact(prepared.device):
            return self.compute(prepared)

    @abstractmethod
    def compute(self, prepared: Tensor) -> FeatureOutput:
        """The network itself; see `forward`."""


class InceptionV3(FeatureNetwork):
    """The Inception network of the original FID (Heusel et al. 2017), by torch-fidelity: 2048 pooled features, 1008
    logits without the last layer's bias, as in the published inception score.
    """

    name = "inception-v3-compat"
    layer = "2048"
    side = 299
    dimensions = 2048
    classes = 1008

    # In order. torch-fidelity's own forward starts with a resize of uint8 images that cannot be disabled.
    _PARTS = (
        "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2",
        "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a",
        "Mixed_7b", "Mixed_7c", "AvgPool",
    )  # fmt: skip

    def __init__(self, file: LocalWeights, resize: Resize) -> None:
        super().__init__(file, resize)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        with _only_tensors(file) as path:
            network = _built(file, lambda: FeatureExtractorInceptionV3(self.name, [self.layer], str(path)))
        self.network: Any = network  # Any: its parts are accessed by name
        self.freeze()

    def compute(self, prepared: Tensor) -> FeatureOutput:  # noqa: D102 - see FeatureNetwork
        hidden = (prepared - 128) / 128
        for part in self._PARTS:
            hidden = getattr(self.network, part)(hidden)
        features = hidden.flatten(1)
        return FeatureOutput(features, features @ self.network.fc.weight.T)


class VGG16(FeatureNetwork):
    """torchvision's VGG16 up to its second hidden layer, as published with precision and recall (Kynkaanniemi 2019)."""

    name = "vgg16"
    layer = "fc2_relu"
    side = 224
    dimensions = 4096

    def __init__(self, file: LocalWeights, resize: Resize) -> None:
        super().__init__(file, resize)
        from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

        with _only_tensors(file) as path, torch.random.fork_rng(devices=[]):
            network = _built(file, lambda: FeatureExtractorVGG16(self.name, [self.layer], str(path)))
        self.network: nn.Module = network.model
        self.freeze()

    def compute(self, prepared: Tensor) -> FeatureOutput:  # noqa: D102
        hidden: Tensor = self.network(_imagenet(prepared))
        return FeatureOutput(F.relu(hidden), None)


class LiteFeatures(FeatureNetwork):
    """EfficientNet-Lite0's 1280 pooled features, without a download. Distances between them are not called FID."""

    name = "efficientnet-lite0"
    layer = "pooled"
    side = 224
    dimensions = 1280
    classes = 1000

    def __init__(self, file: LocalWeights, resize: Resize) -> None:
        super().__init__(file, resize)
        self.network = EfficientNetLite0(file)
        self.freeze()

    def compute(self, prepared: Tensor) -> FeatureOutput:  # noqa: D102
        features, logits = self.network(prepared / 127.5 - 1)
        return FeatureOutput(features, logits)


class DINOv2(FeatureNetwork):
    """DINOv2's class token (Oquab et al. 2023); the file determines the size: small, base, large or giant.

    Position embeddings are interpolated from 37 x 37 to 16 x 16, as in the authors' code.
    """

    name = "dinov2"
    layer = "class token"
    side = 224

    _SIZES: ClassVar = {384: "small", 768: "base", 1024: "large", 1536: "giant"}

    def __init__(self, file: LocalWeights, resize: Resize) -> None:
        super().__init__(file, resize)
        import timm

        tensors = load(file)
        positions = tensors.get("pos_embed", torch.empty(0))
        size = self._SIZES.get(positions.shape[-1]) if positions.ndim == 3 else None
        if size is None:
            raise BadFileError(f"{file.path} holds no weights of DINOv2; give dinov2_vitl14_pretrain.pth or its like")
        self.dimensions = positions.shape[-1]
        self.layer = f"class token, {size}"
        with torch.random.fork_rng(devices=[]):
            network: Any = timm.create_model(f"vit_{size}_patch14_dinov2", img_size=self.side, num_classes=0)
        renamed = {**tensors, "pos_embed": _positions(positions, self.side // 14)}
        renamed.pop("mask_token", None)
        for ours, theirs in (("fc1", "w12"), ("fc2", "w3")):  # the giant's gated layers
            renamed = {key.replace(f"mlp.{theirs}.", f"mlp.{ours}."): value for key, value in renamed.items()}
        self.network = _built(file, lambda: (network.load_state_dict(renamed), network)[1])
        self.freeze()

    def compute(self, prepared: Tensor) -> FeatureOutput:  # noqa: D102
        return FeatureOutput(self.network(_imagenet(prepared)), None)


_BY_NAME: dict[FeatureNetworkName, type[FeatureNetwork]] = {
    "inception-v3-compat": InceptionV3,
    "vgg16": VGG16,
    "dinov2": DINOv2,
    "efficientnet-lite0": LiteFeatures,
}
DINOV2 = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
"""The weights of the large network."""


def build(
    name: FeatureNetworkName,
    *,
    resize: Resize = "tf1",
    weights: Path | None = None,
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> FeatureNetwork:
    """Build the feature network `name` on the CPU.

    `weights` is the file or folder of `--weights`. MissingWeightsError, naming the network that needs no download, if
    the weights cannot be found; BadFileError if the file does not contain them.
    """
    try:
        if name == "dinov2":
            file = _dinov2_file(weights)
        else:
            file = find(name, given=weights, offline=offline, on_bytes=on_bytes)
    except MissingWeightsError as error:
        lite = "or use --features efficientnet-lite0, which needs no download and is not called FID"
        raise MissingWeightsError(f"{error}; {lite}; see: taming guide evaluation") from error
    return _BY_NAME[name](file, resize)


def _dinov2_file(given: Path | None) -> LocalWeights:
    """The file of `--weights`; without a published checksum, nothing is downloaded."""
    if given is None or not given.is_file():
        raise MissingWeightsError(
            f"dinov2 is published without a checksum to verify a download; fetch {DINOV2} (or vits14, "
            "vitb14, vitg14) and give it as --weights FILE"
        )
    return LocalWeights("dinov2", given, sha256(given), False, "given")


@contextlib.contextmanager
def _only_tensors(file: LocalWeights) -> Iterator[Path]:
    """A file for torch-fidelity to unpickle: the published one, or a copy with only the tensors of another."""
    tensors = load(file)
    if file.known:
        yield file.path
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tensors.pth"
        with refusals(path, path):
            save_torch(path, tensors)
        yield path


def _built(file: LocalWeights, make: Callable[[], Any]) -> Any:
    """The network that `make` builds and fills; BadFileError names the first tensor that does not fit."""
    try:
        return make()
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise BadFileError(f"{file.path} does not hold the weights of {file.name}: {lines[0][:160]}") from error


def _positions(published: Tensor, side: int) -> Tensor:
    """(1, 1 + 37 x 37, D) -> (1, 1 + side x side, D), bicubic with an offset of 0.1, as in the authors' code."""
    published_side = int((published.shape[1] - 1) ** 0.5)
    grid = published[:, 1:].reshape(1, published_side, published_side, -1).permute(0, 3, 1, 2)
    scale = (side + 0.1) / published_side
    scaled = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([published[:, :1], scaled.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def _imagenet(prepared: Tensor) -> Tensor:
    """[0, 255] -> normalised by ImageNet's mean and standard deviation."""
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    scaled: Tensor = normalize(prepared, [255 * value for value in mean], [255 * value for value in deviation])
    return scaled


def _tf1(picture: Tensor, side: int) -> Tensor:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    scaled: Tensor = interpolate_bilinear_2d_like_tensorflow1x(
        picture[None].float(), size=(side, side), align_corners=False
    )
    return scaled[0]


def _clean(picture: Tensor, side: int) -> Tensor:
    channels = [
        Image.fromarray(channel.numpy()).resize((side, side), Image.Resampling.BICUBIC) for channel in picture.float()
    ]
    return torch.from_numpy(np.stack([np.asarray(channel) for channel in channels])).clamp(0, 255)
