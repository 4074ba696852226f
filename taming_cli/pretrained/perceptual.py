"""How different two pictures look: distances between the activations of frozen, pretrained networks.

    d(x, y) = sum over stages s of  mean over cells of  sum over channels c of  w_sc (u_sc(x) - u_sc(y))^2

where u is a stage's activation divided by its length over the channels (Zhang et al. 2018, arXiv:1801.03924). `lpips-*`
have weights w learned from human judgements; `efficientnet-lite0` has one number per stage.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import lpips
import torch
from torch import Tensor, nn

from taming_cli.config.fields import one_of
from taming_cli.errors import BadFileError, MissingWeightsError, UsageError
from taming_cli.pretrained import efficientnet
from taming_cli.pretrained.frozen import Frozen
from taming_cli.runtime.weights import Found, OnBytes, find, load

NAMES = ("lpips-vgg", "lpips-alex", "lpips-squeeze", "efficientnet-lite0", "none")
SMALLEST_SIDE = 32  # pixels; below it the deepest stages have nothing left to compare

# lpips name of each network, and the weights file of its backbone
_LPIPS = {
    "lpips-vgg": ("vgg", "vgg16"),
    "lpips-alex": ("alex", "alexnet"),
    "lpips-squeeze": ("squeeze", "squeezenet1_1"),
}

# One weight per stage (stem, then stages 0 to 4 without 3), which balance the stages: each gives 0.08 for photos of
# 128 x 128 shrunk fourfold and enlarged again (bicubic). That these make 0.4 together is a choice of scale.
_EFFICIENTNET_STAGES = (0, 1, 2, 3, 5)
_EFFICIENTNET_WEIGHTS = (0.73, 0.55, 0.22, 0.27, 0.24)


class Features(NamedTuple):
    """What a network saw in a batch: per stage (B, C, h, w) in fp32, of length one over C. `step` as it was asked."""

    stages: tuple[Tensor, ...]
    step: int | None


class Perceptual(Frozen, ABC):
    """The interface: `forward` to measure; `features` of the real batch once and `distance` to train.

    Pictures are (B, 3, H, W), RGB in [-1, 1], each side at least 32. `stamp` goes into every result. Subclasses give
    `activations`, and in `channel_weights` the w of each stage, (C,).
    """

    channel_weights: nn.ParameterList

    def __init__(self, name: str, found: Found) -> None:
        super().__init__()
        self.name, self.sha256, self.known = name, found.sha256, found.known

    @property
    def stamp(self) -> dict[str, str | bool]:
        """The network, as every result records it: name, sha256 of its weights, whether the table knows them."""
        return {"name": self.name, "sha256": self.sha256, "known": self.known}

    @abstractmethod
    def activations(self, pictures: Tensor, step: int | None) -> Sequence[Tensor]:
        """(B, 3, H, W) -> the raw activations of each stage, (B, C, h, w)."""

    def features(self, pictures: Tensor, step: int | None = None) -> Features:
        """(B, 3, H, W) in [-1, 1] -> Features. UsageError for pictures that are not RGB or below 32 pixels.

        `step`, the number of the training step, lets a network look at each picture a little shifted, differently from
        step to step; None, for measuring, always looks in the same way.
        """
        if pictures.ndim != 4 or pictures.shape[1] != 3 or min(pictures.shape[2:]) < SMALLEST_SIDE:
            raise UsageError(
                f"perceptual network {self.name} was given pictures of shape {tuple(pictures.shape)};"
                f" it needs (batch, 3, height, width) with sides of at least {SMALLEST_SIDE}, or choose 'none'"
            )
        activations = self.activations(pictures, step)
        with torch.autocast(pictures.device.type, enabled=False):  # squares of small differences: fp32
            return Features(tuple(_unit(activation.float()) for activation in activations), step)

    def distance(self, real: Features, generated: Tensor) -> Tensor:
        """Features of the real batch and the generated pictures (B, 3, H, W) -> (B,) distances, 0 where they agree."""
        return self.between(real, self.features(generated, real.step))

    def between(self, real: Features, seen: Features) -> Tensor:
        """Features of two batches -> (B,) distances, 0 where they agree."""
        with torch.autocast(seen.stages[0].device.type, enabled=False):
            terms = [
                (mine - theirs).square().mean((2, 3)) @ weight
                for mine, theirs, weight in zip(seen.stages, real.stages, self.channel_weights, strict=True)
            ]
            return torch.stack(terms).sum(0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two batches (B, 3, H, W) in [-1, 1] -> (B,) distances; symmetric, and differentiable in both."""
        return self.distance(self.features(x), y)


class LPIPS(Perceptual):
    """LPIPS v0.1 as published: a torchvision backbone from a file, the heads that the `lpips` package carries."""

    def __init__(self, name: str, found: Found) -> None:
        super().__init__(name, found)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            # lpips calls torchvision by a deprecated argument; its random backbone is thrown away just below
            warnings.simplefilter("ignore", UserWarning)
            whole = lpips.LPIPS(net=_LPIPS[name][0], pnet_rand=True, verbose=False)
        load_backbone(whole.net, load(found), found.path)
        self.scaling, self.network = whole.scaling_layer, whole.net
        self.channel_weights = nn.ParameterList(head.model[-1].weight.detach().flatten() for head in whole.lins)
        self.freeze()

    def activations(self, pictures: Tensor, step: int | None) -> Sequence[Tensor]:
        """(B, 3, H, W) -> five stages (seven of squeezenet); the same at every step, as published."""
        return tuple(self.network(self.scaling(pictures)))


class EfficientNetDistance(Perceptual):
    """The distance without learned heads, on EfficientNet-Lite0: no download, and a tenth of VGG's time.

    Strided depthwise convolutions read pixels of even and odd rows and columns unequally, so that a picture optimised
    for the plain distance gets a grid of period 2 and 4. Each training step therefore lays the network's grid elsewhere
    under each picture (a cyclic shift by 0 to 3 pixels a side): on average all pixels count the same, at no cost.
    """

    def __init__(self, name: str, found: Found) -> None:
        super().__init__(name, found)
        self.network = efficientnet.EfficientNetLite0(found)
        probe = self.network.activations(torch.zeros(1, 3, SMALLEST_SIDE, SMALLEST_SIDE))
        channels = [probe[stage].shape[1] for stage in _EFFICIENTNET_STAGES]
        weights = zip(channels, _EFFICIENTNET_WEIGHTS, strict=True)
        self.channel_weights = nn.ParameterList(torch.full((c,), weight) for c, weight in weights)
        self.freeze()

    def activations(self, pictures: Tensor, step: int | None) -> Sequence[Tensor]:
        """(B, 3, H, W) -> (B, 32, H/2, W/2) twice, then (B, 144, H/4, ..), (B, 240, H/8, ..), (B, 672, H/16, ..)."""
        if step is not None:
            pictures = torch.stack([p.roll(placement(step + i), (1, 2)) for i, p in enumerate(pictures)])
        with torch.autocast(pictures.device.type, enabled=False):  # depthwise bf16 is slower than fp32 on a CPU
            seen = self.network.activations(pictures.float())
        return [seen[stage] for stage in _EFFICIENTNET_STAGES]


def placement(number: int) -> tuple[int, int]:
    """Shift (rows, columns), each 0 to 3, of placement `number`: any 16 in a row are all different, neighbours far."""
    a, b, c, d = (number >> 0 & 1, number >> 1 & 1, number >> 2 & 1, number >> 3 & 1)
    return 2 * a + c, 2 * (a ^ b) + (c ^ d)


def build(
    name: str,
    *,
    weights: Path | None = None,
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> Perceptual | None:
    """The perceptual network called `name` (see `NAMES`), on the CPU; None for "none".

    `weights` is a file or folder given by hand (`--weights`). UsageError for an unknown name; MissingWeightsError,
    naming the other networks, where its weights are not here; BadFileError where a file does not hold them.
    """
    if name not in NAMES:
        raise UsageError(f"no perceptual network is called {name!r}; {one_of(NAMES, name)}")
    if name == "none":
        return None
    file = _LPIPS[name][1] if name in _LPIPS else "efficientnet-lite0"
    try:
        found = find(file, given=weights, offline=offline, on_bytes=on_bytes)
    except MissingWeightsError as error:
        others = [other for other in NAMES if other != name]
        raise MissingWeightsError(
            f"{error}; or choose another perceptual network: {', '.join(others)}"
            + (" (efficientnet-lite0 needs no download)" if "efficientnet-lite0" in others else "")
            + "; see: taming guide troubleshooting"
        ) from error
    return LPIPS(name, found) if name in _LPIPS else EfficientNetDistance(name, found)


def load_backbone(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Fill an lpips backbone from a torchvision state dict, strictly; only `classifier.*` of the file is left out.

    lpips cuts `features` into slices and keeps the layers' numbers: `features.5.weight` is `slice2.5.weight`.
    BadFileError names the first tensor that is missing, of another shape, or too many.
    """
    wanted = {name.partition(".")[2]: place for name, place in network.state_dict().items()}
    offered = {name.removeprefix("features."): value for name, value in tensors.items() if name.startswith("features.")}
    for name, place in wanted.items():
        shape = tuple(offered[name].shape) if name in offered else None
        if shape != tuple(place.shape):
            raise BadFileError(
                f"{path}: tensor features.{name} is {shape or 'missing'} where {tuple(place.shape)} is expected;"
                f" give the weights as torchvision publishes them"
            )
    for name in tensors:
        if name.removeprefix("features.") not in wanted and not name.startswith("classifier."):
            raise BadFileError(f"{path}: tensor {name} is not part of the network; these are other weights")
    with torch.no_grad():
        for name, place in wanted.items():
            place.copy_(offered[name])


def _unit(activation: Tensor) -> Tensor:
    """(B, C, h, w) -> the same, of length one over C. The small term keeps the gradient finite where all is zero."""
    return activation / (activation.square().sum(1, keepdim=True) + 1e-20).sqrt()
