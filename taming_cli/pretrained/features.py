"""What a frozen network sees in pictures: one vector for each, which distributions of pictures are compared by.

`inception-v3-compat` and `vgg16` are those of torch-fidelity, with its weights and values; only the former's scores are
what the field calls FID, IS and KID. Pictures are uint8, RGB, of any size: each is brought to the network's size by
itself, as the first FID did it (TensorFlow 1's bilinear, which does not average when it makes smaller) or as clean-fid
does it (Parmar, Zhang, Zhu 2022: Pillow's bicubic, each channel in floating point).
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
from taming_cli.runtime.weights import Found, OnBytes, find, load, sha256


class Seen(NamedTuple):
    """What a network saw in a batch: `features` fp32 (B, D), and where it can say classes the `logits` (B, C)."""

    features: Tensor
    logits: Tensor | None


class FeatureNetwork(Frozen, ABC):
    """The interface: `prepare` a picture, then `forward` a batch of those. `stamp` goes into every result."""

    name: ClassVar[FeatureNetworkName]
    layer: str
    """Where the features are taken."""

    side: ClassVar[int]
    """Pixels a side that the network sees."""

    dimensions: int
    """D."""

    classes: ClassVar[int] = 0
    """C, of those that say classes; 0 where there are no logits."""

    def __init__(self, found: Found, resize: Resize) -> None:
        super().__init__()
        self.sha256, self.known, self.resize = found.sha256, found.known, resize

    @property
    def stamp(self) -> dict[str, Any]:
        """Which network saw, and how pictures were brought to its size."""
        return {
            "name": self.name,
            "layer": self.layer,
            "dimensions": self.dimensions,
            "sha256": self.sha256,
            "known": self.known,
            "resize": self.resize,
            "side": self.side,
        }

    def width(self, what: Literal["features", "logits"]) -> int:
        """Numbers of that for each picture: D or C."""
        return self.dimensions if what == "features" else self.classes

    def prepare(self, picture: Tensor) -> Tensor:
        """uint8 (3, H, W) -> fp32 (3, side, side) in [0, 255], not rounded."""
        assert picture.dtype == torch.uint8, picture.dtype
        assert picture.ndim == 3, tuple(picture.shape)
        return (_tf1 if self.resize == "tf1" else _clean)(picture, self.side)

    def forward(self, prepared: Tensor) -> Seen:
        """fp32 (B, 3, side, side) in [0, 255] -> what is seen, in fp32."""
        assert prepared.shape[1:] == (3, self.side, self.side), tuple(prepared.shape)
        with exact(prepared.device):
            return self.see(prepared)

    @abstractmethod
    def see(self, prepared: Tensor) -> Seen:
        """The network itself, as `forward`."""


class InceptionV3(FeatureNetwork):
    """The Inception of the first FID (Heusel et al. 2017), by torch-fidelity: 2048 pooled features, 1008 logits.

    Logits are those without the last layer's bias, as the published inception score takes them.
    """

    name = "inception-v3-compat"
    layer = "2048"
    side = 299
    dimensions = 2048
    classes = 1008

    # Its parts in their order; torch-fidelity's own forward begins with a resize of uint8 pictures that cannot be left.
    _PARTS = (
        "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2",
        "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a",
        "Mixed_7b", "Mixed_7c", "AvgPool",
    )  # fmt: skip

    def __init__(self, found: Found, resize: Resize) -> None:
        super().__init__(found, resize)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        with _only_tensors(found) as path:
            network = _built(found, lambda: FeatureExtractorInceptionV3(self.name, [self.layer], str(path)))
        self.network: Any = network  # Any: its parts go by name
        self.freeze()

    def see(self, prepared: Tensor) -> Seen:  # noqa: D102 - as of FeatureNetwork
        hidden = (prepared - 128) / 128
        for part in self._PARTS:
            hidden = getattr(self.network, part)(hidden)
        features = hidden.flatten(1)
        return Seen(features, features @ self.network.fc.weight.T)


class VGG16(FeatureNetwork):
    """torchvision's VGG16 up to its second hidden layer, as precision and recall were published (Kynkaanniemi 2019)."""

    name = "vgg16"
    layer = "fc2_relu"
    side = 224
    dimensions = 4096

    def __init__(self, found: Found, resize: Resize) -> None:
        super().__init__(found, resize)
        from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

        with _only_tensors(found) as path, torch.random.fork_rng(devices=[]):
            network = _built(found, lambda: FeatureExtractorVGG16(self.name, [self.layer], str(path)))
        self.network: nn.Module = network.model
        self.freeze()

    def see(self, prepared: Tensor) -> Seen:  # noqa: D102
        hidden: Tensor = self.network(_imagenet(prepared))
        return Seen(F.relu(hidden), None)


class LiteFeatures(FeatureNetwork):
    """EfficientNet-Lite0's 1280 pooled features: no download. What it measures is never called FID."""

    name = "efficientnet-lite0"
    layer = "pooled"
    side = 224
    dimensions = 1280
    classes = 1000

    def __init__(self, found: Found, resize: Resize) -> None:
        super().__init__(found, resize)
        self.network = EfficientNetLite0(found)
        self.freeze()

    def see(self, prepared: Tensor) -> Seen:  # noqa: D102
        features, logits = self.network(prepared / 127.5 - 1)
        return Seen(features, logits)


class DINOv2(FeatureNetwork):
    """DINOv2's class token (Oquab et al. 2023), of the small, base, large or giant network: the file says which.

    Positions are interpolated from the 37 x 37 of the files to 16 x 16 as the authors' code does it.
    """

    name = "dinov2"
    layer = "class token"
    side = 224

    _SIZES: ClassVar = {384: "small", 768: "base", 1024: "large", 1536: "giant"}

    def __init__(self, found: Found, resize: Resize) -> None:
        super().__init__(found, resize)
        import timm

        tensors = load(found)
        positions = tensors.get("pos_embed", torch.empty(0))
        size = self._SIZES.get(positions.shape[-1]) if positions.ndim == 3 else None
        if size is None:
            raise BadFileError(f"{found.path} holds no weights of DINOv2; give dinov2_vitl14_pretrain.pth or its like")
        self.dimensions = positions.shape[-1]
        self.layer = f"class token, {size}"
        with torch.random.fork_rng(devices=[]):
            network: Any = timm.create_model(f"vit_{size}_patch14_dinov2", img_size=self.side, num_classes=0)
        wanted = {**tensors, "pos_embed": _positions(positions, self.side // 14)}
        wanted.pop("mask_token", None)
        for ours, theirs in (("fc1", "w12"), ("fc2", "w3")):  # the giant's gated layers
            wanted = {key.replace(f"mlp.{theirs}.", f"mlp.{ours}."): value for key, value in wanted.items()}
        self.network = _built(found, lambda: (network.load_state_dict(wanted), network)[1])
        self.freeze()

    def see(self, prepared: Tensor) -> Seen:  # noqa: D102
        return Seen(self.network(_imagenet(prepared)), None)


_BY_NAME: dict[FeatureNetworkName, type[FeatureNetwork]] = {
    "inception-v3-compat": InceptionV3,
    "vgg16": VGG16,
    "dinov2": DINOv2,
    "efficientnet-lite0": LiteFeatures,
}
DINOV2 = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
"""The large one, of the four networks that `dinov2` may be."""


def build(
    name: FeatureNetworkName,
    *,
    resize: Resize = "tf1",
    weights: Path | None = None,
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> FeatureNetwork:
    """The feature network called `name`, on the CPU.

    `weights` is a file or folder given by hand (`--weights`). MissingWeightsError, naming the network that needs none,
    where its weights are not here; BadFileError where a file does not hold them.
    """
    try:
        if name == "dinov2":
            found = _of_dinov2(weights)
        else:
            found = find(name, given=weights, offline=offline, on_bytes=on_bytes)
    except MissingWeightsError as error:
        lite = "or use --features efficientnet-lite0, which needs no download and is not called FID"
        raise MissingWeightsError(f"{error}; {lite}; see: taming guide evaluation") from error
    return _BY_NAME[name](found, resize)


def _of_dinov2(given: Path | None) -> Found:
    """Its files say no checksum, so none is fetched: only what the user gives is taken."""
    if given is None or not given.is_file():
        raise MissingWeightsError(
            f"dinov2 is published without a checksum that a download could be trusted by; fetch {DINOV2} (or vits14, "
            "vitb14, vitg14) and give it as --weights FILE"
        )
    return Found("dinov2", given, sha256(given), False, "given")


@contextlib.contextmanager
def _only_tensors(found: Found) -> Iterator[Path]:
    """A file that torch-fidelity may unpickle: the known one, or another's tensors, read safely and written anew."""
    tensors = load(found)
    if found.known:
        yield found.path
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tensors.pth"
        with refusals(path, path):
            save_torch(path, tensors)
        yield path


def _built(found: Found, make: Callable[[], Any]) -> Any:
    """A network that is filled strictly as it is made; BadFileError says the first thing that does not fit."""
    try:
        return make()
    except RuntimeError as error:
        said = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise BadFileError(f"{found.path} does not hold the weights of {found.name}: {said[0][:160]}") from error


def _positions(published: Tensor, side: int) -> Tensor:
    """(1, 1 + 37 x 37, D) -> (1, 1 + side x side, D), by the bicubic of the authors' code and its offset of 0.1."""
    whole = int((published.shape[1] - 1) ** 0.5)
    grid = published[:, 1:].reshape(1, whole, whole, -1).permute(0, 3, 1, 2)
    scale = (side + 0.1) / whole
    scaled = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([published[:, :1], scaled.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def _imagenet(prepared: Tensor) -> Tensor:
    """[0, 255] -> normalised by the mean and deviation of ImageNet's colours."""
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
