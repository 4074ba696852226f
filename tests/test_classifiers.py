"""Classifiers: equal to torchvision's networks and transforms, correct on real animals, strict about files."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

from taming_cli.data.images import read_image, tensor, to_float
from taming_cli.errors import BadFileError, MissingWeightsError, UsageError
from taming_cli.pretrained import classifiers
from taming_cli.pretrained.classifiers import Classifier, build, imagenet, names
from taming_cli.pretrained.published import classes_in
from taming_cli.runtime import weights
from tests.toys import loud, pictures

RECIPES = {"mobilenet_v3_small": 1000, "squeezenet1_1": 7}  # a name, and the classes of its file


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        return {name: loud(models.get_model(name, weights=None, num_classes=n)) for name, n in RECIPES.items()}


@pytest.fixture(scope="module")
def files(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("classifiers")
    for name, network in networks.items():
        torch.save(network.state_dict(), folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in networks}


@pytest.fixture(scope="module")
def lite() -> Classifier:
    return build("efficientnet-lite0", offline=True)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [(256, 256), (300, 420), (90, 70)])
def test_log_probabilities_are_those_of_torchvisions_transforms_and_network(
    files: dict[str, Path], networks: dict[str, nn.Module], name: str, size: tuple[int, int]
) -> None:
    network, x = build(name, weights=files[name], offline=True), pictures(*size)
    transform = models.get_model_weights(name).DEFAULT.transforms()
    seen, expected = network(x), networks[name](transform(x)).log_softmax(1)
    assert seen.shape == (3, RECIPES[name])
    assert (expected[0] - expected[1]).abs().max() > 0.02
    assert torch.allclose(seen, expected, atol=1e-4)
    assert network.stamp == {"name": name, "sha256": weights.sha256(files[name]), "known": False}


@pytest.mark.parametrize("name", ["convnext_base", "efficientnet_b0"])  # bilinear, bicubic
def test_pictures_are_prepared_as_torchvision_prepares_those_of_pillow(name: str) -> None:
    version, x = models.get_model_weights(name).DEFAULT, pictures(300, 420) // 2 + 64
    transform = version.transforms()
    prepared = classifiers._recipe(version)(x)
    expected = torch.stack([transform(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in x])
    levels = (prepared - expected).abs() * 255 * 0.225
    assert prepared.shape == expected.shape
    assert (
        levels.max() < 1.5
    )  # Pillow rounds to 8 bits between its two passes too (and cuts there, so no black or white)
    assert levels.mean() < 0.25


def test_pictures_in_floating_point_are_scored_as_they_will_be_saved(lite: Classifier) -> None:
    x = pictures(64, 64)
    assert torch.equal(lite(to_float(x) + 0.002), lite(x))
    assert torch.equal(lite(to_float(x).double()), lite(x))
    assert not torch.equal(lite(to_float(x) + 0.01), lite(x))


def test_it_recognises_real_animals(lite: Classifier, shared: Path) -> None:
    right = []
    for path in sorted((shared / "data" / "animals" / "images").glob("*/*")):
        log_probs = lite(read_image(path.read_bytes(), path.name)[None])
        assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-4)
        right.append(lite.wordnet[int(log_probs.argmax())] == path.parent.name)
    assert len(right) >= 20
    assert sum(right) / len(right) >= 0.7


def test_lite_prepares_pictures_as_timm_does(lite: Classifier) -> None:
    timm_data = pytest.importorskip("timm.data")
    config = {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bicubic", "mean": (0.5,) * 3}
    transform = timm_data.create_transform(**config, std=(0.5,) * 3)
    with Image.new("RGB", (400, 300)) as image:
        image.paste(Image.linear_gradient("L").resize((400, 300)))
        prepared, expected = lite.recipe(tensor(image)[None])[0], transform(image)
    assert prepared.shape == (3, 224, 224)
    assert (prepared - expected).abs().max() < 2.1 / 127.5  # Pillow's bicubic rounds twice


def test_classes_are_imagenets_with_their_wordnet_ids(lite: Classifier) -> None:
    assert len(lite.classes) == len(lite.wordnet) == len(lite.synonyms) == 1000
    assert len(set(lite.classes)) == 1000
    assert list(lite.wordnet) == sorted(lite.wordnet)
    assert (lite.classes[0], lite.wordnet[0], lite.synonyms[0]) == ("tench", "n01440764", ("tench", "Tinca tinca"))
    assert (lite.classes[281], lite.wordnet[281]) == ("tabby", "n02123045")
    differing = [name for name, words in zip(lite.classes, lite.synonyms, strict=True) if name not in words]
    assert differing == ["crane bird", "maillot tank suit"]


def test_a_file_of_another_number_of_classes_has_numbers_for_names(files: dict[str, Path]) -> None:
    network = build("squeezenet1_1", weights=files["squeezenet1_1"], offline=True)
    assert network.classes == ("0", "1", "2", "3", "4", "5", "6")
    assert (network.wordnet, network.synonyms) == ((), ())
    thousand = build("mobilenet_v3_small", weights=files["mobilenet_v3_small"])
    assert thousand.classes == imagenet().names


@pytest.mark.parametrize("name", ["googlenet", "densenet121"])
def test_files_of_older_layouts_are_read(name: str, tmp_path: Path) -> None:
    options = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        reference = loud(models.get_model(name, weights=None, num_classes=5, **options))
    tensors = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in reference.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert any(key.startswith("aux1.") or ".norm.1." in key for key in tensors)
    torch.save(tensors, tmp_path / "old.pth")
    network, x = build(name, weights=tmp_path / "old.pth"), pictures(70, 70, batch=2)
    expected = reference(models.get_model_weights(name).DEFAULT.transforms()(x)).log_softmax(1)
    assert (expected[0] - expected[1]).abs().max() > 0.01
    assert torch.allclose(network(x), expected, atol=1e-4)


def test_every_network_of_torchvision_has_known_files_a_recipe_and_its_head_at_the_end() -> None:
    for name in names()[1:]:
        for version in models.get_model_weights(name):
            start = weights.published_file(name, version.url).sha256
            assert 8 <= len(start) <= 64
            assert version.url.endswith(f"-{start[:8]}{start[8:10] if len(start) == 10 else ''}.pth")
            assert classifiers._recipe(version).crop == version.transforms().crop_size[0]
    families = {models.get_model_builder(name).__module__: name for name in names()[:0:-1]}  # the first of each
    families["torchvision.models.regnet"] = "regnet_x_400mf"
    assert len(families) > 15
    for name in families.values():  # on "meta" a network takes no memory for its values; regnet cannot be there
        with torch.device("cpu" if name.startswith("regnet") else "meta"):
            network = classifiers._unfilled(name, models.get_model_weights(name).DEFAULT, 13)
        assert classes_in(network.state_dict(), network, 1000) == 13, name


def test_a_vision_transformer_is_built_for_the_picture_size_of_its_weights() -> None:
    versions = models.ViT_B_16_Weights
    for version, cells in ((versions.IMAGENET1K_V1, 14), (versions.IMAGENET1K_SWAG_E2E_V1, 24)):
        with torch.device("meta"):
            network = classifiers._unfilled("vit_b_16", version, 1000)
        assert network.get_parameter("encoder.pos_embedding").shape[1] == cells**2 + 1


def test_another_published_version_is_known_and_gets_its_own_recipe(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = models.MobileNet_V2_Weights.IMAGENET1K_V1, models.MobileNet_V2_Weights.IMAGENET1K_V2
    torch.save(models.mobilenet_v2().state_dict(), tmp_path / "first.pth")
    digest = weights.sha256(tmp_path / "first.pth")

    def published(name: str, url: str) -> weights.PublishedFile:
        known = weights.published_file(name, url)
        return known._replace(sha256=digest[:8]) if url == first.url else known

    monkeypatch.setattr("taming_cli.pretrained.published.published_file", published)
    network = build("mobilenet_v2", weights=tmp_path / "first.pth")
    assert (network.recipe.resize, second.transforms().resize_size) == (256, [232])
    assert network.stamp == {"name": "mobilenet_v2", "sha256": digest, "known": True}


def test_a_tensor_that_does_not_fit_the_network_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    right = torch.load(files["squeezenet1_1"], weights_only=True)
    first = "features.0.weight"
    for change, message in (
        (
            {first: torch.zeros(64, 3, 5, 5)},
            r"features\.0\.weight is \(64, 3, 5, 5\) where \(64, 3, 3, 3\) is expected",
        ),
        ({first: right[first] * float("nan")}, r"features\.0\.weight holds values that are not finite"),
        ({"fc.weight": torch.zeros(2, 2)}, r"fc\.weight is not part of squeezenet1_1"),
        ({"classifier.1.bias": torch.zeros(8)}, r"classifier\.1\.bias is \(8,\) where \(7,\)"),
        ({"classifier.1.weight": torch.zeros(())}, r"classifier\.1\.weight is \(\) where \(1000, 512, 1, 1\)"),
    ):
        torch.save(right | change, tmp_path / "other.pth")
        with pytest.raises(BadFileError, match=message) as error:
            build("squeezenet1_1", weights=tmp_path / "other.pth")
        assert "\n" not in str(error.value)
    torch.save({key: value for key, value in right.items() if key != first}, tmp_path / "other.pth")
    with pytest.raises(BadFileError, match=r"features\.0\.weight is missing"):
        build("squeezenet1_1", weights=tmp_path / "other.pth")
    with pytest.raises(BadFileError, match="mobilenet_v3_small"):
        build("mobilenet_v3_small", weights=files["squeezenet1_1"])


def test_unknown_names_and_missing_weights_are_one_line_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    with pytest.raises(UsageError, match="no classifier is called 'resnet1010'; did you mean 'resnet101'"):
        build("resnet1010")
    with pytest.raises(MissingWeightsError) as error:
        build("resnet101", offline=True)
    url = models.ResNet101_Weights.DEFAULT.url
    for part in (url, "resnet101-cd907fc2.pth", "(sha256 cd907fc2...)", "--offline", "--weights", "efficientnet-lite0"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet101-cd907fc2.pth").write_bytes(b"something else")
    with pytest.raises(BadFileError, match=r"instead of cd907fc2\.\.\.: remove it"):
        build("resnet101", offline=True)


def test_it_stays_frozen_and_leaves_the_random_state_alone(files: dict[str, Path]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    network = build("mobilenet_v3_small", weights=files["mobilenet_v3_small"])
    assert torch.equal(torch.rand(3), expected)
    nn.Sequential(network).train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
