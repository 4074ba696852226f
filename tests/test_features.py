"""Feature networks: the values of torch-fidelity's and clean-fid's own code, strict about files."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from taming_cli.errors import BadFileError, MissingWeightsError
from taming_cli.pretrained import features
from taming_cli.pretrained.efficientnet import load_in_order
from taming_cli.pretrained.features import build
from taming_cli.runtime.weights import find, load, sha256
from tests.pretrained_files import inception_weights, vgg16_weights
from tests.toys import pictures


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inception_weights(tmp_path_factory.mktemp("inception") / "inception.pth")


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = vgg16_weights(tmp_path_factory.mktemp("vgg16") / "vgg16.pth")
    yield path
    path.unlink()  # 528 MB


def prepared(network: features.FeatureNetwork, x: Tensor) -> Tensor:
    return torch.stack([network.prepare(picture) for picture in x])


@pytest.mark.parametrize("size", [(96, 128), (299, 299), (310, 405)])
def test_inception_features_equal_torch_fidelitys(inception: Path, size: tuple[int, int]) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network, x = build("inception-v3-compat", weights=inception), pictures(*size)
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(inception))
    expected, logits = theirs(x)
    seen = network(prepared(network, x))
    assert seen.features.shape == (3, 2048)
    assert (expected[0] - expected[1]).abs().max() > 0.02
    assert torch.equal(seen.features, expected)
    assert torch.equal(seen.logits, logits)
    assert network.stamp["sha256"] == sha256(inception)
    assert network.stamp["known"] is False


def test_vgg16_features_equal_torch_fidelitys(vgg16: Path) -> None:
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    network, x = build("vgg16", weights=vgg16), pictures(96, 128)
    (expected,) = FeatureExtractorVGG16("vgg16", ["fc2_relu"], str(vgg16))(x)
    seen = network(prepared(network, x)).features
    assert (expected[0] - expected[1]).abs().max() > 0.02
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("size", [(96, 128), (299, 299), (640, 500)])
def test_clean_pictures_are_those_of_clean_fid(size: tuple[int, int]) -> None:
    from cleanfid.resize import build_resizer

    picture = pictures(*size, batch=1)[0]
    with warnings.catch_warnings():  # some versions of Pillow mind how it calls them
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = build_resizer("clean")(picture.permute(1, 2, 0).numpy())
    ours = features._clean(picture, 299)
    assert np.array_equal(ours.permute(1, 2, 0).numpy(), expected)


def test_efficientnet_uses_the_installed_weights() -> None:
    import timm

    network, x = build("efficientnet-lite0", offline=True), pictures(224, 224)
    seen = network(prepared(network, x))
    with torch.random.fork_rng(devices=[]):
        theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    found = find("efficientnet-lite0", offline=True)
    load_in_order(theirs, load(found), found.path)
    half = torch.tensor([0.5, 0.5, 0.5])[:, None, None]  # timm's mean and deviation for this network
    with torch.inference_mode():
        expected = theirs.forward_features((x / 255 - half) / half).mean((2, 3))
        logits = theirs.classifier(expected)
    assert (expected[0] - expected[1]).abs().max() > 0.1
    assert torch.allclose(seen.features, expected, atol=1e-3)
    assert torch.allclose(seen.logits, logits, atol=1e-3)
    assert network.stamp["known"] is True


@pytest.mark.parametrize(("size", "width"), [("small", 384), ("base", 768)])
def test_dinov2_loads_the_authors_files_and_returns_the_class_token(tmp_path: Path, size: str, width: int) -> None:
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        reference = timm.create_model(f"vit_{size}_patch14_dinov2", num_classes=0, depth=12)  # 518 pixels: 37 x 37
        for value in reference.parameters():
            torch.nn.init.normal_(value, std=0.05)
    tensors = {**reference.state_dict(), "mask_token": torch.zeros(1, width)}
    torch.save(tensors, tmp_path / "dinov2.pth")
    network = build("dinov2", weights=tmp_path / "dinov2.pth")
    assert network.dimensions == width
    assert network.layer == f"class token, {size}"
    x = pictures(518, 518, batch=2)
    seen = network(prepared(network, x)).features
    # The same by hand: the authors' code scales positions by (16 + 0.1) / 37 before it adds them.
    grid = tensors["pos_embed"][:, 1:].reshape(1, 37, 37, width).permute(0, 3, 1, 2)
    scaled = torch.nn.functional.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    positions = torch.cat([tensors["pos_embed"][:, :1], scaled.permute(0, 2, 3, 1).reshape(1, 256, width)], 1)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    y = (prepared(network, x) / 255 - mean[:, None, None]) / deviation[:, None, None]
    with torch.inference_mode():
        hidden = reference.patch_embed.proj(y).flatten(2).transpose(1, 2)
        hidden = torch.cat([reference.cls_token.expand(2, -1, -1), hidden], 1) + positions
        expected = reference.norm(reference.blocks(hidden))[:, 0]
    assert (expected[0] - expected[1]).abs().max() > 0.01
    assert torch.allclose(seen, expected, atol=1e-4)


def test_missing_weights_are_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=r"weights-inception-2015-12-05-6726825d\.pth.*efficientnet-lite0"):
        build("inception-v3-compat", offline=True)
    with pytest.raises(MissingWeightsError, match=r"dinov2_vitl14_pretrain\.pth"):
        build("dinov2", offline=True)


def test_files_of_other_networks_and_broken_values_are_refused(inception: Path, vgg16: Path, tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="does not hold the weights of inception-v3-compat"):
        build("inception-v3-compat", weights=vgg16)
    with pytest.raises(BadFileError, match="no weights of DINOv2"):
        build("dinov2", weights=inception)
    tensors = torch.load(inception, weights_only=True)
    tensors["fc.weight"][3, 5] = torch.nan
    torch.save(tensors, tmp_path / "nan.pth")
    with pytest.raises(BadFileError, match=r"fc\.weight holds values that are not finite"):
        build("inception-v3-compat", weights=tmp_path / "nan.pth")
