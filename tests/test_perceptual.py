"""Perceptual distances: LPIPS equals the lpips package; the EfficientNet distance is consistent, unbiased, frozen."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torchvision.models as tv
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from taming_cli.errors import BadFileError, MissingWeightsError, UsageError
from taming_cli.pretrained.classifiers import LiteClassifier
from taming_cli.pretrained.classifiers import build as build_classifier
from taming_cli.pretrained.perceptual import Perceptual, build, grid_shift
from taming_cli.runtime import weights

BACKBONES: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    "lpips-vgg": ("vgg", tv.vgg16),
    "lpips-alex": ("alex", tv.alexnet),
    "lpips-squeeze": ("squeeze", tv.squeezenet1_1),
}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of random weights in torchvision's layout for each LPIPS backbone, few classes to keep them small."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, (_, architecture) in BACKBONES.items():
            tensors = architecture(weights=None).state_dict()
            kept = {key: value for key, value in tensors.items() if key.startswith("features.")}
            # a little louder than the initial values, so that every stage says something
            kept = {key: value * 1.3 if key.endswith("weight") else value + 0.05 for key, value in kept.items()}
            paths[name] = folder / f"{name}.pth"
            torch.save(kept | {"classifier.0.weight": torch.zeros(2, 2)}, paths[name])
    return paths


@pytest.fixture(scope="module")
def lite() -> Perceptual:
    network = build("efficientnet-lite0", offline=True)
    assert network is not None
    return network


def lpips_from(file: Path, name: str) -> nn.Module:
    """The lpips package's own network with the same backbone weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        reference: nn.Module = lpips.LPIPS(net=BACKBONES[name][0], pnet_rand=True, verbose=False)
    tensors = torch.load(file, weights_only=True)
    for key, place in reference.get_submodule("net").state_dict().items():
        place.copy_(tensors["features." + key.partition(".")[2]])
    return reference


def pictures(seed: int, height: int = 64, width: int = 64, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 6, 6, generator=generator) * 2 - 1
    fine = torch.rand(batch, 3, height, width, generator=generator) * 0.4 - 0.2
    return (F.interpolate(coarse, (height, width), mode="bicubic") + fine).clamp(-1, 1)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(64, 64), (32, 45)])
def test_lpips_equals_the_lpips_package(files: dict[str, Path], name: str, size: tuple[int, int]) -> None:
    network = build(name, weights=files[name], offline=True)
    assert network is not None
    x, y = pictures(1, *size), pictures(2, *size)
    with torch.no_grad():
        distance, expected = network(x, y), lpips_from(files[name], name)(x, y).flatten()
    assert distance.shape == (2,)
    assert expected.min() > 1e-3
    assert torch.allclose(distance, expected, atol=1e-6, rtol=1e-5)


def test_lpips_is_stamped_with_its_file(files: dict[str, Path]) -> None:
    network = build("lpips-squeeze", weights=files["lpips-squeeze"])
    assert network is not None
    assert network.stamp == {"name": "lpips-squeeze", "sha256": weights.sha256(files["lpips-squeeze"]), "known": False}


def test_a_backbone_file_must_fit_entirely(files: dict[str, Path], tmp_path: Path) -> None:
    tensors = torch.load(files["lpips-squeeze"], weights_only=True)
    cases = {
        "features.0.weight is missing": {k: v for k, v in tensors.items() if k != "features.0.weight"},
        "features.0.bias is (3,)": tensors | {"features.0.bias": torch.zeros(3)},
        "features.99.weight is not part": tensors | {"features.99.weight": torch.zeros(3)},
    }
    for message, content in cases.items():
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(BadFileError) as error:
            build("lpips-squeeze", weights=tmp_path / "w.pth")
        assert message in str(error.value)


def test_missing_weights_name_the_other_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    with pytest.raises(MissingWeightsError) as error:
        build("lpips-vgg", offline=True)
    for part in ("vgg16-397923af.pth", "lpips-alex", "lpips-squeeze", "efficientnet-lite0", "none", str(tmp_path)):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_none_is_none_and_an_unknown_name_is_refused() -> None:
    assert build("none") is None
    with pytest.raises(UsageError, match="did you mean 'lpips-vgg'"):
        build("lpips-vg")


@pytest.mark.parametrize("name", ["lpips-alex", "efficientnet-lite0"])
def test_distances_are_a_sum_over_cells_of_unit_activations(files: dict[str, Path], name: str) -> None:
    """The formula of the module, by loops over stages and cells."""
    network = build(name, weights=files.get(name), offline=True)
    assert network is not None
    x, y = pictures(3, 32, 40), pictures(4, 32, 40)
    with torch.no_grad():
        expected = torch.zeros(2, dtype=torch.float64)
        stages = zip(network.activations(x, None), network.activations(y, None), network.channel_weights, strict=True)
        for a, b, weight in stages:
            for i in range(a.shape[2]):
                for j in range(a.shape[3]):
                    u, v = a[:, :, i, j].double(), b[:, :, i, j].double()
                    u, v = (z / z.norm(dim=1, keepdim=True).clamp(min=1e-10) for z in (u, v))
                    expected += ((u - v) ** 2 * weight).sum(1) / (a.shape[2] * a.shape[3])
        assert torch.allclose(network(x, y).double(), expected, rtol=1e-4)


def test_a_distance_is_zero_for_equal_pictures_symmetric_and_one_per_picture(lite: Perceptual) -> None:
    x, y = pictures(5, 48, 70, batch=3), pictures(6, 48, 70, batch=3)
    with torch.no_grad():
        assert torch.equal(lite(x, x), torch.zeros(3))
        assert torch.allclose(lite(x, y), lite(y, x))
        alone = torch.cat([lite(x[i : i + 1], y[i : i + 1]) for i in range(3)])
        assert torch.allclose(lite(x, y), alone, rtol=1e-4)
        assert lite(x, y).min() > 0.05


def test_lpips_gradients_equal_those_of_the_lpips_package(files: dict[str, Path]) -> None:
    name = "lpips-squeeze"
    network = build(name, weights=files[name])
    assert network is not None
    x, y = (pictures(seed, 48, 48).requires_grad_() for seed in (7, 8))
    ours = torch.autograd.grad(network(x, y).sum(), (x, y))
    theirs = torch.autograd.grad(lpips_from(files[name], name)(x, y).sum(), (x, y))
    for mine, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 1e-5
        assert torch.allclose(mine, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_the_gradient_of_the_efficientnet_distance_is_its_slope(lite: Perceptual) -> None:
    x, y = pictures(7, 48, 48, batch=1), pictures(8, 48, 48, batch=1)
    for moving, still, swapped in ((x, y, False), (y, x, True)):

        def distance(picture: Tensor, other: Tensor = still, swap: bool = swapped) -> Tensor:
            x, y = (other, picture) if swap else (picture, other)
            return lite.distance(lite.features(x), y).sum()

        leaf = moving.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(distance(leaf), leaf)
        step = 0.02 * gradient / gradient.norm()
        with torch.no_grad():
            slope = (distance(moving + step) - distance(moving - step)).item() / 0.04
        assert slope == pytest.approx(gradient.norm().item(), rel=0.05)


def test_distance_and_gradient_are_zero_where_every_activation_is(files: dict[str, Path], tmp_path: Path) -> None:
    tensors = torch.load(files["lpips-squeeze"], weights_only=True)
    torch.save({name: torch.zeros_like(value) for name, value in tensors.items()}, tmp_path / "zeros.pth")
    network = build("lpips-squeeze", weights=tmp_path / "zeros.pth")
    assert network is not None
    y = pictures(1).requires_grad_()
    distance = network(pictures(2), y)
    distance.sum().backward()
    assert torch.equal(distance, torch.zeros(2))
    assert y.grad is not None
    assert torch.equal(y.grad, torch.zeros_like(y))


def test_features_of_the_real_pictures_hold_no_graph_and_serve_the_distance(lite: Perceptual) -> None:
    x, y = pictures(1), pictures(2).requires_grad_()
    real = lite.features(x)
    assert not any(stage.requires_grad for stage in real.stages)
    assert torch.equal(lite.distance(real, y), lite(x, y))
    assert lite.distance(real, y).requires_grad


def test_bf16_autocast_does_not_change_the_efficientnet_distance(lite: Perceptual) -> None:
    x, y = pictures(1), pictures(2)
    expected = lite(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        distance = lite(x, y)
    assert distance.dtype == torch.float32
    assert torch.equal(distance, expected)


def test_lpips_under_bf16_autocast_is_close_and_fp32(files: dict[str, Path]) -> None:
    network = build("lpips-alex", weights=files["lpips-alex"])
    assert network is not None
    x, y = pictures(1), pictures(2)
    with torch.autocast("cpu", torch.bfloat16):
        distance = network(x, y)
    assert distance.dtype == torch.float32
    assert torch.allclose(distance, network(x, y), rtol=0.05)


@pytest.mark.parametrize("shape", [(1, 3, 31, 64), (1, 1, 64, 64), (3, 64, 64)])
def test_pictures_that_cannot_be_scored_are_refused(lite: Perceptual, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="efficientnet-lite0"):
        lite(torch.zeros(shape), torch.zeros(shape))


def test_networks_stay_frozen_and_take_no_randomness(files: dict[str, Path]) -> None:
    for name in ("lpips-vgg", "efficientnet-lite0"):
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        network = build(name, weights=files.get(name), offline=True)
        assert network is not None
        network(pictures(1), pictures(2))
        assert torch.equal(torch.rand(2), expected)
        nn.ModuleList([network]).train()
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_any_sixteen_shifts_in_a_row_are_all_different() -> None:
    every = {(i, j) for i in range(4) for j in range(4)}
    for start in (0, 5, 16, 1000):
        assert {grid_shift(number) for number in range(start, start + 16)} == every


def test_a_training_step_looks_at_both_pictures_with_the_same_shift(lite: Perceptual) -> None:
    x, y = pictures(1), pictures(2)
    shifts = [grid_shift(21), grid_shift(22)]
    moved = [torch.stack([p.roll(shift, (1, 2)) for p, shift in zip(batch, shifts, strict=True)]) for batch in (x, y)]
    distance = lite.distance(lite.features(x, step=21), y)
    assert torch.allclose(distance, lite(*moved), rtol=1e-5)
    assert not torch.allclose(distance, lite(x, y), rtol=1e-3)
    assert torch.equal(lite.distance(lite.features(x, step=21), x), torch.zeros(2))


@pytest.mark.parametrize("name", ["efficientnet-lite0", "lpips-squeeze"])
def test_with_a_classifier_features_have_its_logits(name: str, files: dict[str, Path]) -> None:
    plain, network = (build(name, classify=classify, weights=files.get(name)) for classify in (False, True))
    classifier = build_classifier("efficientnet-lite0")
    assert plain is not None
    assert network is not None
    assert isinstance(classifier, LiteClassifier)
    x = pictures(1, 64, 80)
    moved = torch.stack([x[0].roll(grid_shift(21), (1, 2)), x[1].roll(grid_shift(22), (1, 2))])
    with torch.autocast("cpu", torch.bfloat16):
        seen = network.features(x, step=21)
        assert plain.features(x, step=21).logits is None
    assert torch.equal(plain(x, moved), network(x, moved))
    torch.testing.assert_close(seen.logits, classifier.logits(moved), rtol=1e-4, atol=1e-4)
    assert (plain.classifier_stamp, network.classifier_stamp) == (None, classifier.stamp)
    assert network.stamp == plain.stamp


def unevenness(gradient: Tensor) -> float:
    """Largest over smallest mean square of the gradient in the four classes of (even, odd) rows and columns."""
    energies = [gradient[..., i::2, j::2].square().mean().item() for i in (0, 1) for j in (0, 1)]
    return max(energies) / min(energies)


def test_over_training_steps_even_and_odd_pixels_count_the_same(lite: Perceptual) -> None:
    x = pictures(1, 64, 64, batch=4)
    y = (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    still = torch.autograd.grad(lite(x, y).sum(), y)[0]
    energy = torch.zeros_like(still)
    for step in range(16):
        energy += torch.autograd.grad(lite.distance(lite.features(x, step), y).sum(), y)[0].square()
    assert unevenness(still) > 1.5
    assert unevenness(energy.sqrt()) < 1.05


def photos(shared: Path) -> Tensor:
    """(6, 3, 128, 128) in [-1, 1]: centre squares of real photos."""
    batch = []
    for path in sorted((shared / "data" / "photos").glob("*.jpg"))[:6]:
        with Image.open(path) as opened:
            side = min(opened.size)
            left, top = (opened.width - side) // 2, (opened.height - side) // 2
            square = opened.convert("RGB").crop((left, top, left + side, top + side))
        batch.append(torch.from_numpy(np.array(square.resize((128, 128), Image.Resampling.LANCZOS))))
    return torch.stack(batch).permute(0, 3, 1, 2) / 127.5 - 1


def blurred(x: Tensor, strength: float) -> Tensor:
    at = torch.arange(-12, 13)
    kernel = torch.exp(-at.square() / (2 * strength**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(x, (12, 12, 12, 12), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[:, :, :, None], groups=3), kernel[:, :, None, :], groups=3)


def noisy(x: Tensor, strength: float) -> Tensor:
    return (x + strength * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)


def jpeg(x: Tensor, coarseness: float) -> Tensor:
    batch = []
    for picture in x:
        stream = io.BytesIO()
        pixels = ((picture + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(stream, "JPEG", quality=int(100 - coarseness))
        batch.append(torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1) / 127.5 - 1)
    return torch.stack(batch)


def shifted(x: Tensor, columns: float) -> Tensor:
    return x.roll(int(columns), 3)


@pytest.mark.parametrize(
    ("damage", "strengths"),
    [
        (blurred, (0.5, 0.8, 1.2, 2.0, 4.0)),
        (noisy, (0.01, 0.03, 0.1, 0.3)),
        (jpeg, (10, 50, 80, 95)),
        (shifted, (1, 2, 4, 8)),
    ],
)
def test_the_efficientnet_distance_grows_with_every_damage_to_photos(
    lite: Perceptual, shared: Path, damage: Callable[[Tensor, float], Tensor], strengths: tuple[float, ...]
) -> None:
    x = photos(shared)
    with torch.no_grad():
        distances = torch.stack([lite(x, damage(x, strength)) for strength in strengths])
    assert (distances.diff(dim=0) > 0).all(), distances
    assert distances[0].min() > 0
