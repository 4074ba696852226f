"""The distance between textures, by which the best codec is chosen where the adversarial term counts."""

import math

import pytest
import torch
from torch.nn.functional import avg_pool2d

from taming_cli.codec.validate import Textures
from taming_cli.pretrained.perceptual import Features
from taming_cli.pretrained.perceptual import build as build_perceptual


def test_texture_tells_blur_from_a_shift() -> None:
    """Two pictures of grain: the perceptual distance takes a shift for worse than blur, the texture distance does
    not."""
    perceptual = build_perceptual("efficientnet-lite0")
    assert perceptual is not None
    grain = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(0)) * 2 - 1
    grain = avg_pool2d(grain, 3, 1) * 2
    real, shifted = grain[..., :64], grain[..., 5:69]
    blurred = avg_pool2d(real, 5, 1, padding=2, count_include_pad=False)
    found = {}
    for name, seen in (("same", real), ("shifted", shifted), ("blurred", blurred)):
        textures = Textures()
        for one, other in zip(real[:, None], seen[:, None], strict=True):
            textures.add(perceptual.features(one), perceptual.features(other))
        found[name] = textures.distance()
    assert found["same"] == pytest.approx(0, abs=1e-6)
    assert found["shifted"] < 0.5 * found["blurred"]


def test_a_texture_distance_of_nothing_is_none_and_of_features_that_are_not_finite_nan() -> None:
    assert Textures().distance() is None
    textures = Textures()
    textures.add(Features((torch.zeros(1, 2, 4, 4),), None), Features((torch.full((1, 2, 4, 4), math.nan),), None))
    distance = textures.distance()
    assert distance is not None
    assert math.isnan(distance)
