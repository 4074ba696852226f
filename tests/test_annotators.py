"""Annotators: equal to the pipelines of torchvision and transformers, strict about files, bounded in memory."""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from taming_cli.config.size import Size
from taming_cli.data.conditions.depth import read_depth
from taming_cli.data.conditions.skeletons import paint_skeletons
from taming_cli.errors import BadFileError, BadImageError, MissingWeightsError, TamingError, UsageError
from taming_cli.pretrained import annotators, depth
from taming_cli.pretrained.annotators import LONGEST, PoseFinder, downscaled, most_likely, pose_finder, segmenter
from taming_cli.pretrained.depth import DepthModel, depth_model
from taming_cli.pretrained.published import classes_in
from taming_cli.runtime import weights
from tests.toys import depth_models, few_persons, loud, pictures

SMALL = "lraspp_mobilenet_v3_large"
POSE = "keypointrcnn_resnet50_fpn"


def picture(height: int, width: int) -> Tensor:
    return pictures(height, width, batch=1)[0]


def published(name: str, network: nn.Module, home: Path) -> nn.Module:
    """torchvision's own way to its published network, which finds these values where its download would be."""
    version = models.get_model_weights(name).DEFAULT
    place = home / "hub" / "checkpoints" / version.url.rpartition("/")[2]
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        patch.setattr(torch.hub, "_hub_dir", None)
        built: nn.Module = models.get_model(name, weights=version, progress=False)
    return built.eval()


def file_of(name: str, home: Path) -> Path:
    (path,) = (home / "hub" / "checkpoints").glob(f"{name}*")
    return path


# --- segmentation -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("torch")
    yield folder
    shutil.rmtree(folder)  # 400 MB


@pytest.fixture(scope="module")
def lraspp(home: Path) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return published(
            SMALL, loud(models.get_model(SMALL, weights=None, weights_backbone=None, num_classes=21)), home
        )


@pytest.mark.parametrize("size", [(60, 90), (700, 540), (520, 520)])
def test_labels_are_those_of_torchvisions_transforms_and_network(
    home: Path, lraspp: nn.Module, size: tuple[int, int]
) -> None:
    network, x = segmenter(SMALL, weights=file_of(SMALL, home), offline=True), picture(*size)
    transform = models.get_model_weights(SMALL).DEFAULT.transforms()
    with torch.inference_mode():
        logits = lraspp(transform(x)[None])["out"]
    expected = F.interpolate(logits, size, mode="bilinear", antialias=True)[0].topk(2, 0)
    image = network(x)
    labels = torch.from_numpy(np.array(image))
    assert (image.mode, image.size) == ("P", size[::-1])
    assert len(labels.unique()) > 3
    sure = expected.values[0] - expected.values[1] > 1e-3
    assert sure.float().mean() > 0.95
    assert torch.equal(labels[sure], expected.indices[0][sure].byte())


def test_the_default_network_is_filled_from_the_published_layout_with_its_training_head(home: Path) -> None:
    name = "deeplabv3_resnet50"
    with torch.random.fork_rng(devices=[]):
        random = models.get_model(name, weights=None, weights_backbone=None, aux_loss=True)
    reference = published(name, random, home)
    network, x = segmenter(name, weights=file_of(name, home)), torch.randn(1, 3, 65, 40)
    assert any(key.startswith("aux_classifier.") for key in torch.load(file_of(name, home), weights_only=True))
    assert torch.equal(network.network(x)["out"], reference(x)["out"])
    assert network.stamp == (name, weights.sha256(file_of(name, home)), False)
    assert network.labels[0] == "background"
    assert network.labels[15] == "person"
    assert len(network.labels) == 21


def test_a_file_of_another_number_of_labels_has_numbers_for_names(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        reference = models.get_model(SMALL, weights=None, weights_backbone=None, num_classes=3)
    torch.save(reference.state_dict(), tmp_path / "mine.pth")
    network = segmenter(SMALL, weights=tmp_path / "mine.pth")
    assert network.labels == ("0", "1", "2")
    assert np.array(network(picture(40, 40))).max() <= 2
    tensors = reference.state_dict()
    tensors |= {key: torch.zeros(300, *tensors[key].shape[1:]) for key in tensors if "_classifier" in key}
    torch.save(tensors, tmp_path / "mine.pth")
    with pytest.raises(BadFileError, match=r"mine\.pth: 300 labels; a map holds at most 256"):
        segmenter(SMALL, weights=tmp_path / "mine.pth")


@pytest.mark.parametrize("size", [(9, 7), (40, 33), (3, 50), (1, 1)])
def test_the_most_likely_label_is_that_of_logits_scaled_all_at_once(size: tuple[int, int]) -> None:
    logits = torch.randn(30, 12, 16, generator=torch.Generator().manual_seed(3))
    scaled = F.interpolate(logits[None], size, mode="bilinear", antialias=True)[0]
    assert np.array_equal(most_likely(logits, Size(size[1], size[0])), scaled.argmax(0).numpy())


def test_every_network_of_torchvision_is_built_with_its_head_at_the_end() -> None:
    names = models.list_models(module=models.segmentation)
    assert "deeplabv3_resnet50" in names
    for name in names:
        with torch.device("meta"):
            network = annotators._segmentation(name, 5)
        assert classes_in(network.state_dict(), network, 21) == 5, name
        assert len(models.get_model_weights(name).DEFAULT.meta["categories"]) == 21


def test_long_pictures_are_downscaled_and_strips_are_refused(home: Path, lraspp: nn.Module) -> None:
    network = segmenter(SMALL, weights=file_of(SMALL, home))
    assert network.prepared(picture(10, 900)).shape == (1, 3, round(10 * LONGEST / 900), LONGEST)
    assert network.prepared(picture(100, 500)).shape == (1, 3, 520, 2600)
    assert network(picture(4, 200)).size == (200, 4)
    with pytest.raises(BadImageError, match="a strip of 201x4 pixels is too narrow"):
        network(picture(4, 201))
    assert downscaled(picture(30, 6000)).shape == (3, 13, LONGEST)
    assert torch.equal(downscaled(picture(30, LONGEST)), picture(30, LONGEST))


# --- pose -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rcnn(home: Path) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        random = models.get_model(POSE, weights=None, weights_backbone=None)
        for module in random.modules():
            if isinstance(module, nn.BatchNorm2d):  # so small a variance that what is added to it shows
                module.running_var.uniform_(1e-4, 1e-3)
                module.weight.data.copy_(module.running_var.sqrt())
    reference = published(POSE, random, home)
    few_persons(reference)
    return reference


@pytest.fixture(scope="module")
def finder(home: Path, rcnn: nn.Module) -> PoseFinder:
    made = pose_finder(score=0.0, joint_score=-1e9, weights=file_of(POSE, home), offline=True)
    few_persons(made.network)
    return made


def test_skeletons_are_our_drawing_of_torchvisions_key_points(rcnn: nn.Module, finder: PoseFinder) -> None:
    x = picture(90, 120)
    transform = models.get_model_weights(POSE).DEFAULT.transforms()
    with torch.inference_mode():
        (expected,) = rcnn([transform(x)])
    assert len(expected["scores"]) == 4
    assert expected["scores"].min() > 0.05  # which is where torchvision leaves off, and `finder` does not
    figures = finder.figures(x)
    assert torch.allclose(torch.tensor(figures)[..., :2], expected["keypoints"][..., :2], atol=1e-3)
    image = finder(x)
    joints = [[(x, y, 1.0) for x, y, _ in person] for person in expected["keypoints"].tolist()]
    drawn = paint_skeletons(joints, 120, 90)
    assert (image.mode, image.size) == ("RGB", (120, 90))
    assert (drawn > 0).any()
    assert (np.abs(np.array(image).astype(int) - drawn) > 1).mean() < 1e-3


def test_only_probable_joints_of_probable_persons_are_drawn(
    rcnn: nn.Module, finder: PoseFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = picture(90, 120)
    with torch.inference_mode():
        (expected,) = rcnn([x / 255])
    middle = float(expected["keypoints_scores"].median())
    monkeypatch.setattr(finder, "joint_score", middle)
    there = torch.tensor(finder.figures(x))[..., 2]
    assert torch.equal(there, (expected["keypoints_scores"] > middle).float())
    assert 0.2 < there.mean() < 0.8
    between = float(expected["scores"][1:3].mean())
    monkeypatch.setattr(finder.network.roi_heads, "score_thresh", between)
    assert len(finder.figures(x)) == 2
    monkeypatch.setattr(finder.network.roi_heads, "score_thresh", 1.0)
    assert finder.figures(x) == []
    assert not np.array(finder(x)).any()


def test_key_points_of_a_downscaled_picture_are_in_its_own_pixels(
    finder: PoseFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = picture(96, 128)
    monkeypatch.setattr(annotators, "LONGEST", 64)
    halved = torch.tensor(finder.figures(x))
    expected = torch.tensor(finder.figures(downscaled(x)))
    assert downscaled(x).shape == (3, 48, 64)
    assert torch.allclose(halved[..., :2], 2 * expected[..., :2], atol=1e-3)
    assert finder(x).size == (128, 96)


def test_the_threshold_and_the_version_of_the_file_reach_the_network(
    home: Path, rcnn: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(POSE, home)
    digest, versions = weights.sha256(path), models.get_model_weights(POSE)

    def as_published(name: str, url: str) -> weights.PublishedFile:
        known = weights.published_file(name, url)
        return known._replace(sha256=digest[:8]) if url == versions.COCO_LEGACY.url else known

    monkeypatch.setattr("taming_cli.pretrained.published.published_file", as_published)
    made = pose_finder(score=0.75, joint_score=2.0, weights=path)
    assert made.network.roi_heads.score_thresh == 0.75
    assert made.settings == {"score": 0.75, "joint_score": 2.0}
    assert made.stamp == (POSE, digest, True)
    assert {module.eps for module in made.modules() if hasattr(module, "eps")} == {1e-5}
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert not made.training


# --- weights ----------------------------------------------------------------------------------------------------------


def test_unknown_names_missing_and_wrong_weights_are_one_line_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    with pytest.raises(UsageError, match="no segmentation network is called 'deeplabv3'; did you mean"):
        segmenter("deeplabv3")
    for build, file in (
        (lambda: segmenter("deeplabv3_resnet50", offline=True), "deeplabv3_resnet50_coco-cd0a2569.pth"),
        (lambda: pose_finder(score=0.5, joint_score=0, offline=True), "keypointrcnn_resnet50_fpn_coco-fc266e95.pth"),
    ):
        with pytest.raises(MissingWeightsError) as error:
            build()
        for part in (f"https://download.pytorch.org/models/{file}", "(sha256", "--offline", "--weights", str(tmp_path)):
            assert part in str(error.value)
        assert "\n" not in str(error.value)
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(BadFileError, match=r"give a state dict of torchvision's lraspp"):
        segmenter(SMALL, weights=tmp_path / "other.pth")


def test_building_leaves_the_random_state_alone(home: Path, lraspp: nn.Module) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    segmenter(SMALL, weights=file_of(SMALL, home))
    assert torch.equal(torch.rand(3), expected)


# --- depth ------------------------------------------------------------------------------------------------------------

COMMIT = "1" * 40


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", reason="transformers is not installed")
    return depth_models(tmp_path_factory.mktemp("depth"))


@pytest.mark.parametrize("name", ["anything", "dpt"])
@pytest.mark.parametrize("size", [(50, 70), (120, 40)])
def test_depth_is_that_of_transformers_own_pipeline(toys: Path, name: str, size: tuple[int, int]) -> None:
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation, pipeline

    x = picture(*size)
    with depth.quiet_transformers():
        theirs = pipeline(
            "depth-estimation",
            model=AutoModelForDepthEstimation.from_pretrained(toys / name),
            image_processor=AutoImageProcessor.from_pretrained(toys / name),
            device="cpu",
        )
        expected = theirs(Image.fromarray(x.permute(1, 2, 0).numpy()))["predicted_depth"]
    network = depth_model(str(toys / name), offline=True)
    assert expected.std() > 0.01
    assert torch.allclose(network.depth(x), expected, atol=1e-5)
    image = network(x)
    assert image.size == size[::-1]
    scaled = (expected - expected.min()) / (expected.max() - expected.min())
    assert np.abs(np.array(image) / 65535 - scaled.numpy()).max() < 1e-4
    image.save(toys / "map.png")
    read = np.array(read_depth((toys / "map.png").read_bytes(), "map.png"))
    assert np.abs(read - (2 * scaled.numpy() - 1)).max() < 2e-4  # near is bright, where the model says nearness


def test_depth_records_its_model(toys: Path) -> None:
    network = depth_model(str(toys / "dpt"))
    assert network.stamp == ("dpt", weights.sha256(toys / "dpt" / "model.safetensors"), False)
    assert network.settings["preprocessor_config"] == weights.sha256(toys / "dpt" / "preprocessor_config.json")[:16]
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_long_pictures_and_single_pixels_have_a_depth_of_their_own_size(
    toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = depth_model(str(toys / "anything"))
    for size in ((1, 1), (3, 3), (3, 9)):
        assert network(picture(*size)).size == size[::-1]
    assert network(picture(50, 7)).size == (7, 50)
    with pytest.raises(BadImageError, match="anything cannot process 290x8 pixels: "):
        network(picture(8, 290))
    x = picture(100, 160)
    exact = network.depth(x)
    monkeypatch.setattr(annotators, "LONGEST", 80)
    assert network.depth(x).shape == (100, 160)
    assert 1e-5 < (network.depth(x) - exact).abs().mean() < exact.std()


def test_a_constant_map_is_0_and_nan_is_refused(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = depth_model(str(toys / "dpt"))
    monkeypatch.setattr(DepthModel, "depth", lambda self, picture: torch.full((4, 5), 7.0))
    assert not np.array(network(picture(4, 5))).any()
    monkeypatch.setattr(DepthModel, "depth", lambda self, picture: torch.tensor([[1.0, torch.inf]]))
    with pytest.raises(BadImageError, match="dpt estimates depths that are infinite"):
        network(picture(1, 2))


def changed(folder: Path, target: Path, leave_out: str) -> Path:
    """A copy of a model whose file lacks the tensors that begin so."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    tensors = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if not key.startswith(leave_out)}
    assert len(kept) < len(tensors)
    save_file(kept, target / "model.safetensors", {"format": "pt"})
    return target


def test_tensors_that_the_network_never_uses_may_be_missing_and_no_others(toys: Path, tmp_path: Path) -> None:
    x = picture(40, 60)
    unused = changed(toys / "dpt", tmp_path / "old", "neck.fusion_stage.layers.0.residual_layer1.")  # as Intel's lack
    assert torch.equal(depth_model(str(unused)).depth(x), depth_model(str(toys / "dpt")).depth(x))
    used = changed(toys / "dpt", tmp_path / "less", "neck.fusion_stage.layers.1.residual_layer1.")
    with pytest.raises(BadFileError, match=r"lacks 4 tensors of the network, such as neck\.fusion_stage\.layers\.1"):
        depth_model(str(used))


def test_only_safetensors_are_read_and_no_code_is_run(toys: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(toys / "dpt", pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(BadFileError, match=r"lacks model\.safetensors; give a folder"):
        depth_model(str(pickled))
    remote = tmp_path / "remote"
    shutil.copytree(toys / "dpt", remote)
    about = json.loads((remote / "config.json").read_text())
    about |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}}
    (remote / "config.json").write_text(json.dumps(about))
    (remote / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(BadFileError, match="remote is not a depth model that transformers can load: ") as error:
        depth_model(str(remote))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_model_in_parts_is_read_and_its_parts_are_hashed(toys: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForDepthEstimation

    with depth.quiet_transformers():
        model = AutoModelForDepthEstimation.from_pretrained(toys / "dpt")
        model.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    shutil.copy(toys / "dpt" / "preprocessor_config.json", tmp_path / "parts")
    parts = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert len(parts) > 1
    network, x = depth_model(str(tmp_path / "parts")), picture(40, 60)
    assert torch.equal(network.depth(x), depth_model(str(toys / "dpt")).depth(x))
    digests = "".join(f"{weights.sha256(part)}\n" for part in parts)
    assert network.stamp.sha256 == hashlib.sha256(digests.encode()).hexdigest()
    parts[0].unlink()
    with pytest.raises(BadFileError, match=r"lacks model\.safetensors"):
        depth_model(str(tmp_path / "parts"))


@pytest.fixture
def hub(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with one model, toy/dpt, as the hub's library lays it out; and no hub to be reached."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    root = tmp_path / "hub" / "models--toy--dpt"
    for folder in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (root / folder).mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for file in ("config.json", "preprocessor_config.json", "model.safetensors"):
        content = (toys / "dpt" / file).read_bytes()
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (root / "snapshots" / COMMIT / file).symlink_to(Path("..") / ".." / "blobs" / blob.name)
    return root


def test_a_name_is_found_in_the_given_folder_then_in_the_hubs_cache(
    toys: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = depth_model("toy/dpt", offline=True)
    assert network.stamp == ("toy/dpt", weights.sha256(toys / "dpt" / "model.safetensors"), False)
    assert depth_model("toy/dpt").stamp == network.stamp  # what is here is not asked for again
    other = weights.sha256(toys / "anything" / "model.safetensors")
    shutil.copytree(toys / "anything", tmp_path / "mine" / "dpt")
    assert depth_model("toy/dpt", weights=tmp_path / "mine").stamp == ("toy/dpt", other, False)
    assert depth_model("toy/dpt", weights=tmp_path / "mine" / "dpt").stamp == ("toy/dpt", other, False)
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "mine"))
    assert depth_model("toy/dpt").stamp == ("toy/dpt", other, False)


def test_locate_finds_a_model_and_verifies_it_against_the_hub(
    toys: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = hub / "snapshots" / COMMIT
    assert depth.locate("toy/other", verify=True) == weights.Location("missing")
    assert depth.locate("toy/dpt") == weights.Location("present", snapshot, "cache")
    assert depth.locate("toy/dpt", verify=True) == weights.Location("verified", snapshot, "cache")
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes() + b" ")
    assert depth.locate("toy/dpt", verify=True) == weights.Location("wrong sha256", snapshot, "cache")
    shutil.copytree(toys / "dpt", tmp_path / "mine" / "dpt")
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "mine"))
    by_hand = weights.Location("present", tmp_path / "mine" / "dpt", "folder")  # it has no recorded sha256
    assert depth.locate("toy/dpt") == depth.locate("toy/dpt", verify=True) == by_hand
    assert depth.locate("toy/dpt", weights=tmp_path / "mine").origin == "given"


def test_fetch_copies_a_local_model_to_a_folder(hub: Path, tmp_path: Path) -> None:
    snapshot, folder = hub / "snapshots" / COMMIT, tmp_path / "mine"
    assert depth.fetch("toy/dpt", offline=True) == weights.FetchResult(snapshot, created=False)
    assert depth.fetch("toy/dpt", folder, offline=True) == weights.FetchResult(folder / "dpt", created=True)
    assert depth.fetch("toy/dpt", folder, offline=True) == weights.FetchResult(folder / "dpt", created=False)
    assert [path.name for path in folder.iterdir()] == ["dpt"]
    assert depth_model("toy/dpt", weights=folder).stamp == depth_model("toy/dpt").stamp
    (folder / "dpt" / "config.json").unlink()
    with pytest.raises(BadFileError, match=r"lacks config\.json: remove it"):
        depth.fetch("toy/dpt", folder)
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(BadFileError, match=f"instead of {blob.name}"):
        depth.fetch("toy/dpt", tmp_path / "other")


@pytest.mark.parametrize("bars", [True, False])
def test_fetch_downloads_a_missing_model_with_bars_or_without(
    toys: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, bars: bool
) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled

    def snapshot_download(model: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("nowhere")
        asked.append((model, are_progress_bars_disabled()))
        return str(toys / "dpt")

    from huggingface_hub.errors import LocalEntryNotFoundError

    asked: list[tuple[str, bool]] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(MissingWeightsError, match="--offline forbids"):
        depth.fetch("toy/new", offline=True, bars=bars)
    assert depth.fetch("toy/new", bars=bars) == weights.FetchResult(toys / "dpt", created=True)
    assert asked == [("toy/new", not bars)]
    assert not are_progress_bars_disabled()


def test_a_damaged_download_is_refused(hub: Path) -> None:
    blob = (hub / "snapshots" / COMMIT / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(BadFileError, match=f"instead of {blob.name}: remove"):
        depth_model("toy/dpt")


def test_a_missing_model_is_one_line_with_the_remedy(hub: Path, tmp_path: Path) -> None:
    for options, message in (({"offline": True}, "--offline forbids"), ({}, "downloading it failed")):
        with pytest.raises(MissingWeightsError, match=message) as error:
            depth_model("toy/other", **options)
        for part in ("toy/other", "https://huggingface.co/toy/other", "--model FOLDER", "$TAMING_WEIGHTS_DIR as other"):
            assert part in str(error.value)
        assert "\n" not in str(error.value)
    for name in ("no such/folder/anywhere", "./nowhere"):
        with pytest.raises(MissingWeightsError, match="is neither a folder nor the name of a model"):
            depth_model(name, offline=True)
    with pytest.raises(MissingWeightsError, match="is not a folder"):
        depth_model("toy/dpt", weights=tmp_path / "nowhere")
    (hub / "snapshots" / COMMIT / "model.safetensors").unlink()  # a download that was stopped
    with pytest.raises(MissingWeightsError, match="--offline forbids"):
        depth_model("toy/dpt", offline=True)


def test_without_transformers_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TamingError, match=r"pip install 'taming\[annotate\]'"):
        depth_model("toy/dpt")
