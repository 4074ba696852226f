"""Feature networks with random weights, in files of the published layouts, and sets of pictures for them to see."""

from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import models


def inception_weights(path: Path) -> Path:
    """torch-fidelity's Inception, filled so that pictures look different to it."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with (
        torch.random.fork_rng(devices=[]),
        mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"),
        mock.patch("torch.load"),
    ):
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], "none")
        torch.save(_varied(network).state_dict(), path)
    return path


def vgg16_weights(path: Path) -> Path:
    """torchvision's VGG16, likewise."""
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):  # its own random numbers take seconds
            network = models.vgg16(weights=None)
        torch.save(_varied(network.to_empty(device="cpu")).state_dict(), path)
    return path


def _varied(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def folder_of_pictures(path: Path, count: int, *, seed: int, size: tuple[int, int] = (96, 80)) -> Path:
    """Blurred random colours, as PNG."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    for number in range(count):
        colours = rng.integers(0, 256, (4 + seed, 6, 3), dtype=np.uint8)
        Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).save(path / f"{number:03d}.png")
    return path
