"""EfficientNet-Lite0 with the installed weights: equal to timm's network, correct on real animals, frozen."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from taming_cli.errors import BadFileError
from taming_cli.pretrained.efficientnet import EfficientNetLite0, load_in_order
from taming_cli.runtime import weights

# ImageNet's class numbers (0 to 999, in the order of the sorted WordNet ids) of the animals in the shared folder
CLASSES = {
    "n01795545": 80,
    "n01819313": 89,
    "n01820546": 90,
    "n01828970": 92,
    "n01843065": 95,
    "n01847000": 97,
    "n02085782": 152,
    "n02086646": 156,
    "n02088466": 163,
    "n02089973": 167,
    "n02093256": 179,
    "n02096294": 193,
    "n02099601": 207,
    "n02099712": 208,
    "n02100877": 213,
    "n02101006": 214,
    "n02101556": 216,
    "n02102318": 219,
    "n02105505": 228,
    "n02110627": 252,
    "n02111889": 258,
}


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    return EfficientNetLite0(weights.find("efficientnet-lite0", offline=True))


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """timm's network with the same weights, nothing folded."""
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    load_in_order(network, weights.load(weights.find("efficientnet-lite0", offline=True)), Path())
    return network.eval()


def pictures(size: tuple[int, int], batch: int = 2) -> Tensor:
    noise = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return nn.functional.interpolate(noise, size, mode="bicubic").clamp(-1, 1)


@pytest.mark.parametrize("size", [(64, 64), (50, 75)])
def test_logits_equal_those_of_timms_network(
    network: EfficientNetLite0, reference: nn.Module, size: tuple[int, int]
) -> None:
    x = pictures(size)
    with torch.no_grad():
        outputs, expected = network(x), reference(x)
    assert outputs.features.shape == (2, 1280)
    assert expected.abs().max() > 1
    assert torch.allclose(outputs.logits, expected, atol=1e-4)


def test_activations_are_what_the_projections_of_timms_network_read(
    network: EfficientNetLite0, reference: nn.Module
) -> None:
    blocks = [stage[-1] for stage in reference.blocks]  # type: ignore[union-attr]
    read: list[Tensor] = []
    hooks = [
        (block.conv_pwl if hasattr(block, "conv_pwl") else block.conv_pw).register_forward_pre_hook(
            lambda _, inputs: read.append(inputs[0])
        )
        for block in blocks
    ]
    x = pictures((64, 96))
    with torch.no_grad():
        logits = reference(x)
        seen = network.activations(x, depth=7)
        both = network.stages_and_logits(x)
        torch.testing.assert_close(both.logits, logits, rtol=1e-4, atol=1e-4)
        assert all(torch.equal(one, other) for one, other in zip(both.stages, seen, strict=True))
        stem = reference.bn1(reference.conv_stem(x))  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    assert [tuple(a.shape[1:]) for a in seen[:6]] == [
        (32, 32, 48),
        (32, 32, 48),
        (144, 16, 24),
        (240, 8, 12),
        (480, 4, 6),
        (672, 4, 6),
    ]
    for ours, theirs in zip(seen, [stem, *read], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_it_recognises_real_animals(network: EfficientNetLite0, shared: Path) -> None:
    images, labels = [], []
    for path in sorted((shared / "data" / "animals" / "images").glob("*/*")):
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        scale = 256 / min(picture.size)
        width, height = round(picture.width * scale), round(picture.height * scale)
        left, top = (width - 224) // 2, (height - 224) // 2
        picture = picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
        images.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1)
        labels.append(CLASSES[path.parent.name])
    with torch.no_grad():
        logits = torch.cat([network(image[None]).logits for image in images])
    right = logits.topk(5).indices == torch.tensor(labels)[:, None]
    assert len(labels) >= 20
    assert right[:, 0].float().mean() >= 0.7
    assert right.any(1).float().mean() >= 0.9


def test_it_stays_frozen_inside_a_training_module(network: EfficientNetLite0) -> None:
    whole = nn.Sequential(network, nn.Dropout())
    whole.train()
    assert whole[1].training
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_building_it_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    EfficientNetLite0(weights.find("efficientnet-lite0", offline=True))
    assert torch.equal(torch.rand(3), expected)


def test_the_first_tensor_that_differs_is_named(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    path = tmp_path / "some.pth"
    fits = {f"_{name}": value.clone() + 1 for name, value in network.state_dict().items()}
    load_in_order(network, fits, path)
    assert all(torch.equal(network.state_dict()[name[1:]], value) for name, value in fits.items() if "num" not in name)
    with pytest.raises(BadFileError, match=r"some\.pth: tensor _0\.weight \(2, 1, 5, 5\).*0\.weight \(2, 1, 3, 3\)"):
        load_in_order(network, fits | {"_0.weight": torch.zeros(2, 1, 5, 5)}, path)
    swapped = {name: fits[name] for name in ("_0.weight", "_0.bias", "_1.bias", "_1.weight")}
    with pytest.raises(BadFileError, match=r"tensor _1\.bias .* in place of 1\.weight"):
        load_in_order(network, swapped, path)
    with pytest.raises(BadFileError, match="holds 2 tensors"):
        load_in_order(network, dict(list(fits.items())[:2]), path)
