"""Maps of folders: where they are written, what they say, and that the same call goes on and another one is refused."""

import json
import os
import signal
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from taming_cli.annotate import Annotated, annotate
from taming_cli.config.annotate import DepthConfig, EdgesConfig, PoseConfig, SegmentationConfig
from taming_cli.config.shard import Shard
from taming_cli.data.conditions.depth import read_depth
from taming_cli.data.conditions.edges import edges, read_edges
from taming_cli.data.conditions.labels import read_labels
from taming_cli.data.conditions.pairs import partners
from taming_cli.data.conditions.pose import read_pose
from taming_cli.data.conditions.skeletons import paint_skeletons
from taming_cli.data.images import EXTENSIONS, png_settings, read_rgb, tensor
from taming_cli.data.sources import list_items
from taming_cli.data.tokens.file import TokenFile
from taming_cli.errors import Interrupted, MissingWeightsError, UsageError
from taming_cli.pretrained.annotators import PoseFinder, pose_finder, segmenter
from taming_cli.pretrained.depth import depth_model
from taming_cli.runtime import weights
from tests.test_cli import taming
from tests.toys import depth_models, few_persons, loud

SMALL = "lraspp_mobilenet_v3_large"
SEGMENTATION = SegmentationConfig(model=SMALL)
NAMES = ("a/one.jpg", "a/two.png", "b/one.png", "four.webp", "five.v2.png")


def picture(path: Path, size: tuple[int, int] = (60, 44), seed: int = 0) -> Path:
    """Rectangles, whose outlines Canny finds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(values).resize(size, Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(NAMES):
        picture(tmp_path / "photos" / name, (60 + 7 * seed, 44 + seed), seed)
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two files of weights for the smallest segmentation network."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            network = loud(models.get_model(SMALL, weights=None, weights_backbone=None, num_classes=21))
            with torch.no_grad():
                next(network.parameters()).mul_(1 + seed)
            torch.save(network.state_dict(), folder / f"{seed}.pth")
    return folder / "0.pth", folder / "1.pth"


def maps(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


Refused = Callable[..., str]


@pytest.fixture
def refused(photos: Path, tmp_path: Path) -> Refused:
    """The refusal of a call, which has to be one line and leave the folder as it is."""

    def refuse(out: Path, config: Any = None, images: Path = photos, **more: Any) -> str:
        before = maps(out) if out.is_dir() else None
        with pytest.raises(UsageError) as error:
            annotate([images], out, config or EdgesConfig(), **more)
        assert (maps(out) if out.is_dir() else None) == before
        assert "\n" not in str(error.value)
        return str(error.value)

    return refuse


# --- what is written --------------------------------------------------------------------------------------------------


def test_edges_are_those_of_the_rule_at_the_pictures_own_size_and_place(photos: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    out = tmp_path / "edges"
    made = annotate([photos], out, EdgesConfig(), on_item=lambda done, total: told.append((done, total)))
    assert made == Annotated(folder=out, kind="edges", made=5, present=0)
    assert told == [(number, 5) for number in range(6)]
    assert sorted(maps(out)) == ["a/one.png", "a/two.png", "b/one.png", "five.v2.png", "four.png"]
    for item in list_items([photos]).items:
        expected = edges(read_rgb(item.read(), item.name))
        path = out / item.name.replace(".jpg", ".png").replace(".webp", ".png")
        with Image.open(path) as image:
            assert image.mode == "L"
            assert np.array_equal(np.array(image), np.array(expected)), item.name
        assert np.array_equal(np.array(read_edges(path.read_bytes(), path.name)), np.array(expected))
        assert np.array(expected).any()


def test_tokenize_pairs_each_picture_with_its_map(photos: Path, tmp_path: Path) -> None:
    annotate([photos], tmp_path / "edges", EdgesConfig())
    items = list_items([photos]).items
    pairs = partners(items, tmp_path / "edges", EXTENSIONS)
    assert (len(pairs.maps), pairs.missing, pairs.unused) == (5, (), 0)


def test_segmentation_is_a_label_map_that_our_reader_reads_and_labels_txt_names_its_labels(
    photos: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "seg"
    made = annotate([photos], out, SEGMENTATION, weights=files[0], offline=True, device="cpu")
    network = segmenter(SMALL, weights=files[0])
    assert made.labels == network.labels
    assert (out / "labels.txt").read_text().splitlines() == list(network.labels)
    assert len(maps(out)) == 6
    for item in list_items([photos]).items:
        path = out / item.name.replace(".jpg", ".png").replace(".webp", ".png")
        expected = network(tensor(read_rgb(item.read(), item.name)))
        assert np.array_equal(np.array(read_labels(path.read_bytes(), path.name)), np.array(expected))
    stamp = json.loads(png_settings(path) or "")
    assert stamp.pop("of")
    digest = weights.sha256(files[0])
    assert stamp == {"kind": "segmentation", "network": {"name": SMALL, "sha256": digest, "known": False}}


def test_depth_is_16_bit_and_states_its_model(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    folder = depth_models(tmp_path / "models") / "dpt"
    made = annotate([photos], tmp_path / "depth", DepthConfig(model=str(folder)), offline=True, device="cpu")
    assert (made.kind, made.made, made.labels) == ("depth", 5, ())
    network = depth_model(str(folder))
    for item in list_items([photos]).items:
        path = tmp_path / "depth" / item.name.replace(".jpg", ".png").replace(".webp", ".png")
        picture = read_rgb(item.read(), item.name)
        near = network.depth(tensor(picture)).numpy()
        read = np.array(read_depth(path.read_bytes(), path.name))
        assert np.abs(read - (2 * (near - near.min()) / np.ptp(near) - 1)).max() < 1e-4
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("I;16", picture.size)
    stamp = json.loads(png_settings(path) or "")
    assert stamp["network"] == {"name": "dpt", "sha256": weights.sha256(folder / "model.safetensors"), "known": False}
    about = json.loads((folder / "preprocessor_config.json").read_text()) | {"do_rescale": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    with pytest.raises(UsageError, match="was made with another preprocessor_config; give another folder"):
        annotate([photos], tmp_path / "depth", DepthConfig(model=str(folder)))


def test_pose_is_what_our_renderer_draws_and_states_its_thresholds(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "keypointrcnn_resnet50_fpn"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        torch.save(models.get_model(name, weights=None, weights_backbone=None).state_dict(), tmp_path / "pose.pth")
    built: list[PoseFinder] = []

    def build(**how: Any) -> PoseFinder:
        built.append(pose_finder(**how))
        few_persons(built[0].network)
        return built[0]

    monkeypatch.setattr("taming_cli.annotate.pose_finder", build)
    config, one = PoseConfig(score=0.0, joint_score=-1e9), photos / "a" / "one.jpg"
    annotate([one], tmp_path / "pose", config, weights=tmp_path / "pose.pth", device="cpu")
    path, picture = tmp_path / "pose" / "one.png", read_rgb(one.read_bytes(), "one.jpg")
    drawn = paint_skeletons(built[0].figures(tensor(picture)), *picture.size)
    assert drawn.any()
    assert np.array_equal(np.array(read_pose(path.read_bytes(), path.name)), drawn)
    stamp = json.loads(png_settings(path) or "")
    assert (stamp["kind"], stamp["score"], stamp["joint_score"]) == ("pose", 0.0, -1e9)
    assert stamp["network"] == {"name": name, "sha256": weights.sha256(tmp_path / "pose.pth"), "known": False}


def test_pictures_in_an_archive_have_maps_too(photos: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name in NAMES:
            archive.write(photos / name, name)
    annotate([tmp_path / "photos.zip"], tmp_path / "out", EdgesConfig())
    annotate([photos], tmp_path / "same", EdgesConfig())
    assert maps(tmp_path / "out") == maps(tmp_path / "same")


def test_bad_pictures_and_strips_are_skipped_and_named(photos: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    (photos / "a" / "broken.jpg").write_bytes(b"no picture")
    picture(photos / "z.png", (300, 2))
    made = annotate([photos], tmp_path / "seg", SEGMENTATION, weights=files[0])
    assert (made.made, [name for name, _ in made.skipped]) == (5, ["a/broken.jpg", "z.png"])
    assert "too narrow" in dict(made.skipped)["z.png"]
    assert len(list((tmp_path / "seg").rglob("*.png"))) == 5


# --- going on ---------------------------------------------------------------------------------------------------------


def test_what_is_there_is_not_made_again_and_what_is_missing_or_cut_short_is(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "edges"
    annotate([photos], out, EdgesConfig())
    whole = maps(out)
    (out / "a" / "one.png").unlink()
    (out / "four.png").write_bytes(whole["four.png"][:-20])
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png") if path.name != "four.png"}
    told: list[tuple[int, int]] = []
    made = annotate([photos], out, EdgesConfig(), on_item=lambda *counts: told.append(counts))
    assert (made.made, made.present, made.count) == (2, 3, 5)
    assert told == [(3, 5), (4, 5), (5, 5)]
    assert maps(out) == whole
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert annotate([photos], out, EdgesConfig()).made == 0


def test_a_signal_stops_after_a_map_and_the_same_call_continues(photos: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"stopped; 2 of 5 maps are in .*: repeat the command to continue") as error:
        annotate([photos], tmp_path / "edges", EdgesConfig(), on_item=stop)
    assert error.value.exit_code == 143
    assert len(maps(tmp_path / "edges")) == 2
    made = annotate([photos], tmp_path / "edges", EdgesConfig())
    assert (made.made, made.present) == (3, 2)


def test_shards_share_out_the_pictures_and_may_run_at_once(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "edges"
    for index in (1, 2, 3):
        part = annotate([photos], tmp_path / f"part{index}", EdgesConfig(), shard=Shard(index, 3))
        assert part.count == (2, 2, 1)[index - 1]
    parts = [maps(tmp_path / f"part{index}") for index in (1, 2, 3)]
    with ThreadPoolExecutor(3) as workers:
        made = list(workers.map(lambda index: annotate([photos], out, EdgesConfig(), shard=Shard(index, 3)), (1, 2, 3)))
    assert sum(each.made for each in made) == 5
    assert maps(out) == parts[0] | parts[1] | parts[2]
    assert sum(map(len, parts)) == 5
    annotate([photos], tmp_path / "whole", EdgesConfig())
    assert maps(tmp_path / "whole") == maps(out)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "1", "a/b", "-1/4", ""])
def test_other_shards_than_1_to_n_of_n_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="1/4"):
        Shard.parse(text)


def test_a_shard_is_written_as_it_is_read() -> None:
    assert Shard.parse(" 2/4 ") == Shard(2, 4)
    assert str(Shard(2, 4)) == "2/4"
    assert [list(range(10))[Shard(index, 4).places] for index in (1, 4)] == [[0, 4, 8], [3, 7]]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_maps_made_otherwise_are_not_mixed(
    photos: Path, files: tuple[Path, Path], tmp_path: Path, refused: Refused
) -> None:
    out = tmp_path / "maps"
    annotate([photos / "a"], out, SEGMENTATION, weights=files[0])
    said = refused(out, SEGMENTATION, weights=files[1])
    assert "was made with another network; give another folder" in said
    assert "one.png was made with another kind and network and rule" in refused(out)
    # Of none of the pictures asked for is there a map, but the folder would hold both.
    assert "another network" in refused(out, SEGMENTATION, images=photos / "b", weights=files[1])
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "labels.txt").write_text("sky\n")
    assert "names other labels" in refused(tmp_path / "named", SEGMENTATION, weights=files[0])


def test_the_map_of_another_picture_of_the_same_name_is_not_taken_for_its_own(
    photos: Path, tmp_path: Path, refused: Refused
) -> None:
    annotate([photos], tmp_path / "edges", EdgesConfig())
    picture(photos / "b" / "one.png", seed=99)
    said = refused(tmp_path / "edges")
    assert said == f"{tmp_path}/edges/b/one.png is the map of another picture than b/one.png; remove it, or give " + (
        "another folder"
    )


def test_pictures_in_the_folder_that_are_no_maps_are_left_alone(photos: Path, tmp_path: Path, refused: Refused) -> None:
    annotate([photos], tmp_path / "edges", EdgesConfig())
    picture(tmp_path / "edges" / "c" / "mine.jpg")
    assert "c/mine.jpg is not a map written by this command" in refused(tmp_path / "edges")
    (tmp_path / "edges" / "c" / "mine.jpg").rename(tmp_path / "edges" / ".mine.jpg")
    assert annotate([photos], tmp_path / "edges", EdgesConfig()).made == 0


def test_two_pictures_of_one_stem_would_have_one_map(photos: Path, tmp_path: Path, refused: Refused) -> None:
    picture(photos / "a" / "one.png")
    said = refused(tmp_path / "edges")
    assert said == f"a/one.jpg and a/one.png would have one map, {tmp_path}/edges/a/one.png; rename one of them"
    assert not (tmp_path / "edges").exists()


def test_a_folder_among_the_pictures_and_a_file_are_no_place_for_maps(photos: Path, refused: Refused) -> None:
    for out in (photos, photos / "edges", photos / ".." / "photos" / "a"):
        assert "would be listed as pictures; give another folder" in refused(out)
    assert "four.webp is a file; give a folder" in refused(photos / "four.webp", images=photos / "a")
    assert not (photos / "edges").exists()


def test_without_weights_nothing_is_written(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for config in (SegmentationConfig(), PoseConfig()):
        with pytest.raises(MissingWeightsError):
            annotate([photos], tmp_path / "out", config, offline=True)
    assert not (tmp_path / "out").exists()


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_reports_what_it_made_and_3_for_what_it_skipped(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no picture")
    said = taming("annotate", "edges", photos, tmp_path / "edges", "--shard", "2/2", "--json")
    assert said.code == 3
    assert said.json == {
        "path": str(tmp_path / "edges"),
        "kind": "edges",
        "count": 2,
        "made": 2,
        "part": "2/2",
        "skipped": {"broken.jpg": "not a picture in a format that can be read, or damaged at its start"},
    }
    assert "broken.jpg" in said.err
    (photos / "broken.jpg").unlink()
    said = taming("annotate", "edges", photos, "-o", tmp_path / "edges")
    assert (said.code, said.out) == (0, f"{tmp_path}/edges: 5 maps (2 existed already)\n")
    said = taming("annotate", "edges", photos, tmp_path / "edges", "-q")
    assert (said.code, said.out, said.err) == (0, f"{tmp_path}/edges\n", "")


def test_the_command_of_a_network(photos: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    flags = ["--model", SMALL, "--weights", files[0], "--device", "cpu", "--offline"]
    said = taming("annotate", "segmentation", photos, tmp_path / "seg", *flags)
    assert (said.code, said.out) == (
        0,
        f"{tmp_path}/seg: 5 maps; 21 labels, named in {tmp_path}/seg/labels.txt\n",
    )
    said = taming("annotate", "segmentation", photos, tmp_path / "seg", *flags, "--json")
    assert said.json["labels"][:3] == ["background", "aeroplane", "bicycle"]


@pytest.mark.parametrize(
    ("words", "code", "remedy"),
    [
        ("edge photos out", 2, "edges"),
        ("edges photos", 2, "taming annotate edges IMAGES OUT"),
        ("edges photos out --shard 3/2", 2, "1/4"),
        ("edges photos out --scor 1", 2, "--scor"),
        ("edges nowhere out", 2, "no such file or folder"),
        ("pose photos out --score 2", 2, "at most 1"),
        ("segmentation photos out --model deeplab", 2, "deeplabv3_resnet50"),
        ("segmentation photos out --offline", 1, "deeplabv3_resnet50_coco-cd0a2569.pth (sha256"),
        ("pose photos out --offline", 1, "https://download.pytorch.org/models/keypointrcnn"),
        ("pose photos out --weights gone.pth", 1, "gone.pth does not exist"),
    ],
)
def test_what_is_refused_is_one_line_that_names_the_remedy(
    words: str, code: int, remedy: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    said = taming("annotate", *words.split())
    assert said.code == code
    assert remedy in said.refusal
    assert not (tmp_path / "out").exists()


def test_codecs_train_on_the_maps_and_tokenize_takes_them(
    photos: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    for number in range(3):
        picture(photos / "more" / f"{number}.jpg", (64, 48), 20 + number)
    annotate([photos], tmp_path / "edges", EdgesConfig())
    annotate([photos], tmp_path / "segmentation", SEGMENTATION, weights=files[0])
    toy = "--ch 32 --ch-mult 1 --num-res-blocks 1 --z-channels 4 --resolution 32 --codebook-size 16 --codebook-dim 4"
    toy += " --size 32x32 --batch-size 2 --steps 2 --perceptual none --precision fp32 --device cpu --workers 0"
    codecs = {}
    for kind, more in (("edges", ""), ("segmentation", "--labels 21"), ("image", "--disc-weight 0")):
        images = photos if kind == "image" else tmp_path / kind
        said = taming(
            "train-vqgan", images, "--kind", kind, *toy.split(), *more.split(), "-o", tmp_path / f"run-{kind}"
        )
        assert said.code == 0, said.err
        codecs[kind] = tmp_path / f"run-{kind}" / "checkpoints" / "best.safetensors"
    conditions = [f"--cond={kind}={tmp_path / kind}" for kind in ("edges", "segmentation")]
    ckpts = [f"--cond-ckpt={codecs[kind]}" for kind in ("edges", "segmentation")]
    out = tmp_path / "t.h5"
    said = taming("tokenize", photos, "--ckpt", codecs["image"], *conditions, *ckpts, "-o", out, "--device", "cpu")
    assert said.code == 0, said.err
    with TokenFile(out) as tokens:
        assert len(tokens) == 8
        assert sorted(tokens.header.conditions) == ["edges", "segmentation"]
