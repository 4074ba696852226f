"""Perceptual distance between images: the distance between activations of a frozen, pretrained network.

    d(x, y) = sum over stages s of  mean over cells of  sum over channels c of  w_sc (u_sc(x) - u_sc(y))^2

where u is a stage's activation divided by its norm over the channels (Zhang et al. 2018, arXiv:1801.03924). The
weights w of `lpips-*` are learned from human judgements; `efficientnet-lite0` has one number per stage.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from taming_cli.config.fields import one_of
from taming_cli.errors import MissingWeightsError, UsageError
from taming_cli.pretrained import efficientnet
from taming_cli.pretrained.efficientnet import StagesAndLogits
from taming_cli.pretrained.frozen import StampedNetwork
from taming_cli.pretrained.published import copy_strictly
from taming_cli.runtime.weights import LocalWeights, OnBytes, find, load

NAMES = ("lpips-vgg", "lpips-alex", "lpips-squeeze", "efficientnet-lite0", "none")
_LITE = "efficientnet-lite0"
SMALLEST_SIDE = 32  # pixels; the deepest stages of smaller images are empty

# the lpips package's name of each network, and the weights of its backbone
_LPIPS = {
    "lpips-vgg": ("vgg", "vgg16"),
    "lpips-alex": ("alex", "alexnet"),
    "lpips-squeeze": ("squeeze", "squeezenet1_1"),
}

# One weight per stage (stem, then stages 0 to 4 without 3), which balance the stages: each contributes 0.08 for photos
# of 128 x 128 downscaled by 4 and upscaled again (bicubic). The total of 0.4 is a choice of scale.
_EFFICIENTNET_STAGES = (0, 1, 2, 3, 5)
_EFFICIENTNET_WEIGHTS = (0.73, 0.55, 0.22, 0.27, 0.24)


class Features(NamedTuple):
    """Activations of a batch: per stage (B, C, h, w) in fp32, normalised over C; the training step they belong to; and
    with a classifier, the logits of its classes, (B, 1000) fp32."""

    stages: tuple[Tensor, ...]
    step: int | None
    logits: Tensor | None = None


class Perceptual(StampedNetwork, ABC):
    """The interface: `forward` to measure; `features` of the real batch and `distance` to train.

    Images are (B, 3, H, W), RGB in [-1, 1], each side at least 32 pixels. Subclasses implement
    `activations` and set `channel_weights`, the w of each stage, (C,). With a `classifier`, features also have its
    logits. It reads the images in their own size, which is not the one it was trained on.
    """

    channel_weights: nn.ParameterList

    def __init__(self, name: str, file: LocalWeights) -> None:
        super().__init__(name, file, known=file.known)
        self.classifier: efficientnet.EfficientNetLite0 | None = None

    @property
    def classifier_stamp(self) -> dict[str, str | bool] | None:
        """The record of the classifier in results."""
        used = self.classifier
        return None if used is None else {"name": _LITE, "sha256": used.sha256, "known": used.known}

    @abstractmethod
    def activations(self, pictures: Tensor, step: int | None) -> Sequence[Tensor]:
        """(B, 3, H, W) -> the activations of each stage, (B, C, h, w)."""

    def features(self, pictures: Tensor, step: int | None = None) -> Features:
        """(B, 3, H, W) in [-1, 1] -> Features. UsageError for images that are not RGB or below 32 pixels.

        `step`, the number of the training step, lets a network shift each image a little, differently at each step.
        None, for measurements, never shifts.
        """
        if pictures.ndim != 4 or pictures.shape[1] != 3 or min(pictures.shape[2:]) < SMALLEST_SIDE:
            raise UsageError(
                f"perceptual network {self.name} got pictures of shape {tuple(pictures.shape)};"
                f" it needs (batch, 3, height, width) with sides of at least {SMALLEST_SIDE}, or choose 'none'"
            )
        activations, logits = self.outputs(pictures, step)
        with torch.autocast(pictures.device.type, enabled=False):  # squares of small differences: fp32
            stages = tuple(_unit(activation.float()) for activation in activations)
            return Features(stages, step, None if logits is None else logits.float())

    def outputs(self, pictures: Tensor, step: int | None) -> StagesAndLogits:
        """(B, 3, H, W) -> `activations` and, with a classifier, its logits."""
        logits = None
        if self.classifier is not None:
            with torch.autocast(pictures.device.type, enabled=False):
                logits = self.classifier(shifted(pictures, step).float()).logits
        return StagesAndLogits(self.activations(pictures, step), logits)

    def distance(self, real: Features, generated: Tensor) -> Tensor:
        """Features of the real batch and generated images (B, 3, H, W) -> (B,) distances, 0 for equal features."""
        return self.between(real, self.features(generated, real.step))

    def between(self, real: Features, generated: Features) -> Tensor:
        """Features of two batches -> (B,) distances, 0 for equal features."""
        with torch.autocast(generated.stages[0].device.type, enabled=False):
            terms = [
                (a - b).square().mean((2, 3)) @ weight
                for a, b, weight in zip(generated.stages, real.stages, self.channel_weights, strict=True)
            ]
            return torch.stack(terms).sum(0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two batches (B, 3, H, W) in [-1, 1] -> (B,) distances; symmetric, and differentiable in both."""
        return self.distance(self.features(x), y)


class LPIPS(Perceptual):
    """LPIPS v0.1 as published: a torchvision backbone from a file, and the heads of the `lpips` package."""

    def __init__(self, name: str, file: LocalWeights) -> None:
        super().__init__(name, file)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            import lpips  # slow, as is the torchvision that it imports

            # lpips uses a deprecated torchvision argument; its random backbone is overwritten below
            warnings.simplefilter("ignore", UserWarning)
            model = lpips.LPIPS(net=_LPIPS[name][0], pnet_rand=True, verbose=False)
        # lpips cuts torchvision's `features` into slices: `features.5.weight` is `slice2.5.weight`
        targets = {f"features.{key.partition('.')[2]}": target for key, target in model.net.state_dict().items()}
        copy_strictly(targets, load(file), _LPIPS[name][1], file.path, without=("classifier.",))
        self.scaling, self.network = model.scaling_layer, model.net
        self.channel_weights = nn.ParameterList(head.model[-1].weight.detach().flatten() for head in model.lins)
        self.freeze()

    def activations(self, pictures: Tensor, step: int | None) -> Sequence[Tensor]:
        """(B, 3, H, W) -> five stages (seven of squeezenet), independent of `step`, as published."""
        return tuple(self.network(self.scaling(pictures)))


class EfficientNetDistance(Perceptual):
    """The distance on EfficientNet-Lite0, without learned heads: no download, and a tenth of VGG's time.

    Strided depthwise convolutions weigh even and odd rows and columns differently, so that an image optimised for the
    plain distance gets a grid artefact of period 2 and 4. Each training step therefore shifts each image cyclically by
    0 to 3 pixels along each side, so that on average all pixels have the same weight, at no cost.
    """

    def __init__(self, name: str, file: LocalWeights) -> None:
        super().__init__(name, file)
        self.network = efficientnet.EfficientNetLite0(file)
        probe = self.network.activations(torch.zeros(1, 3, SMALLEST_SIDE, SMALLEST_SIDE))
        channels = [probe[stage].shape[1] for stage in _EFFICIENTNET_STAGES]
        weights = zip(channels, _EFFICIENTNET_WEIGHTS, strict=True)
        self.channel_weights = nn.ParameterList(torch.full((c,), weight) for c, weight in weights)
        self.freeze()

    def activations(self, pictures: Tensor, step: int | None) -> Sequence[Tensor]:
        """(B, 3, H, W) -> (B, 32, H/2, W/2) twice, then (B, 144, H/4, ..), (B, 240, H/8, ..), (B, 672, H/16, ..)."""
        with torch.autocast(pictures.device.type, enabled=False):  # depthwise bf16 is slower than fp32 on a CPU
            stages = self.network.activations(shifted(pictures, step).float())
        return [stages[stage] for stage in _EFFICIENTNET_STAGES]

    def outputs(self, pictures: Tensor, step: int | None) -> StagesAndLogits:
        """(B, 3, H, W) -> `activations` and, with a classifier, its logits, in one pass of the same network."""
        if self.classifier is None:
            return super().outputs(pictures, step)
        with torch.autocast(pictures.device.type, enabled=False):
            stages, logits = self.network.stages_and_logits(shifted(pictures, step).float())
        return StagesAndLogits([stages[stage] for stage in _EFFICIENTNET_STAGES], logits)


def shifted(pictures: Tensor, step: int | None) -> Tensor:
    """(B, 3, H, W) -> the same, each image shifted cyclically as of a training step; None never shifts."""
    if step is None:
        return pictures
    return torch.stack([p.roll(grid_shift(step + i), (1, 2)) for i, p in enumerate(pictures)])


def grid_shift(number: int) -> tuple[int, int]:
    """The `number`-th shift (rows, columns), each 0 to 3: any 16 in a row differ, neighbours are far apart."""
    a, b, c, d = (number >> 0 & 1, number >> 1 & 1, number >> 2 & 1, number >> 3 & 1)
    return 2 * a + c, 2 * (a ^ b) + (c ^ d)


def build(
    name: str,
    *,
    classify: bool = False,
    weights: Path | None = None,
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> Perceptual | None:
    """Build the perceptual network `name` (see `NAMES`) on the CPU; None for "none". `classify` adds the classifier,
    efficientnet-lite0, which needs no download.

    `weights` is the file or folder of `--weights`. UsageError for an unknown name; MissingWeightsError, naming the
    other networks, if the weights cannot be found; BadFileError if the file does not contain them.
    """
    if name not in NAMES:
        raise UsageError(f"no perceptual network is called {name!r}; {one_of(NAMES, name)}")
    if name == "none":
        return None
    backbone = _LPIPS[name][1] if name in _LPIPS else "efficientnet-lite0"
    try:
        file = find(backbone, given=weights, offline=offline, on_bytes=on_bytes)
    except MissingWeightsError as error:
        others = [other for other in NAMES if other != name]
        raise MissingWeightsError(
            f"{error}; or choose another perceptual network: {', '.join(others)}"
            + (" (efficientnet-lite0 needs no download)" if "efficientnet-lite0" in others else "")
            + "; see: taming guide troubleshooting"
        ) from error
    network = LPIPS(name, file) if name in _LPIPS else EfficientNetDistance(name, file)
    if isinstance(network, EfficientNetDistance):
        network.classifier = network.network if classify else None
    elif classify:
        network.classifier = efficientnet.EfficientNetLite0(find(_LITE, offline=offline, on_bytes=on_bytes))
    return network


def _unit(activation: Tensor) -> Tensor:
    """(B, C, h, w) -> the same, normalised over C. The small term keeps the gradient of zeros finite."""
    return activation / (activation.square().sum(1, keepdim=True) + 1e-20).sqrt()
