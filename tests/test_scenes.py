"""scenes: the maps of a scene agree with its picture, and equal seeds draw equal scenes."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taming_cli.config.size import Size
from taming_cli.data.conditions.labels import read_colours
from taming_cli.errors import UsageError
from taming_cli.scenes.canvas import CLASSES, LABELS, PALETTE, Scene
from taming_cli.scenes.folder import write
from taming_cli.scenes.generate import label_of, scene

FIGURE_LABELS = [LABELS.index(name) for name in ("skin", "hair", "top", "bottom", "shoes")]
SKY = [LABELS.index(name) for name in ("sky", "sun", "moon")]


def digest(drawn: Scene) -> str:
    found = hashlib.sha256()
    for array in drawn[:4]:
        found.update(np.ascontiguousarray(array).tobytes())
    found.update(repr((drawn.keypoints, drawn.label)).encode())
    return found.hexdigest()


def test_the_same_seed_draws_the_same_scene_in_another_process() -> None:
    cases = [(3, 48, 40), (8, 40, 48), (21, 64, 32)]
    here = [digest(scene(*case)) for case in cases]
    assert here == [digest(scene(*case)) for case in cases]
    code = (
        "import hashlib, sys\nimport numpy as np\nfrom taming_cli.scenes.generate import scene\n"
        f"for case in {cases!r}:\n"
        "    drawn, found = scene(*case), hashlib.sha256()\n"
        "    for array in drawn[:4]:\n        found.update(np.ascontiguousarray(array).tobytes())\n"
        "    found.update(repr((drawn.keypoints, drawn.label)).encode())\n    print(found.hexdigest())\n"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.split() == here


def test_drawing_does_not_load_torch() -> None:
    code = "import sys, taming_cli.scenes.folder\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_different_seeds_draw_different_pictures() -> None:
    assert len({digest(scene(seed, 32, 32)) for seed in range(0, 160, 16)}) == 10


@pytest.mark.parametrize(("width", "height"), [(16, 16), (57, 33), (33, 57), (120, 17)])
def test_shapes_types_and_ranges_hold_at_odd_sizes(width: int, height: int) -> None:
    for seed in range(16):
        drawn = scene(seed, width, height)
        assert drawn.image.shape == drawn.pose.shape == (height, width, 3)
        assert drawn.segmentation.shape == drawn.depth.shape == (height, width)
        assert drawn.image.dtype == drawn.pose.dtype == drawn.segmentation.dtype == np.uint8
        assert drawn.depth.dtype == np.float32
        assert drawn.segmentation.max() < len(LABELS)
        assert np.isfinite(drawn.depth).all()
        assert drawn.depth.min() > 0
        assert drawn.depth.max() <= 1
        assert drawn.label == CLASSES[seed]
        assert not any((drawn.image == 0).all(axis=2).ravel()), "a pixel was left unpainted"


def test_the_palette_has_one_distinct_colour_for_each_label() -> None:
    assert PALETTE.shape == (len(LABELS), 3)
    assert PALETTE.dtype == np.uint8
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == len(LABELS) == len(set(LABELS))


def test_classes_are_balanced_over_any_stretch_of_seeds() -> None:
    assert set(Counter(label_of(seed, None) for seed in range(5, 5 + 3 * len(CLASSES))).values()) == {3}
    landscapes = {label_of(seed, "landscape") for seed in range(8)}
    figures = {label_of(seed, "figure") for seed in range(8)}
    assert landscapes | figures == set(CLASSES)
    assert not landscapes & figures


def test_every_label_is_seen_somewhere() -> None:
    seen: set[int] = set()
    for seed in range(96):
        seen |= set(np.unique(scene(seed, 48, 48).segmentation).tolist())
        if len(seen) == len(LABELS):
            break
    assert {LABELS[index] for index in seen} == set(LABELS)


@pytest.mark.parametrize("seed", range(16))
def test_only_the_sky_is_farthest_and_figures_stand_before_what_is_behind_them(seed: int) -> None:
    drawn = scene(seed, 72, 64)
    sky = np.isin(drawn.segmentation, SKY)
    assert (drawn.depth[sky] == 1).all()
    assert (drawn.depth[~sky] < 1).all()
    figure = np.isin(drawn.segmentation, FIGURE_LABELS)
    if figure.any():
        # Ground below the feet may be nearer; all else in the columns of the figures is farther.
        assert drawn.depth[figure].max() < np.median(drawn.depth[: 64 // 2][~figure[: 64 // 2]])
    ground = drawn.depth[-1].mean()
    assert ground < 0.5
    assert ground < drawn.depth[32].mean()


def test_ground_comes_nearer_down_the_picture() -> None:
    sand, water = LABELS.index("sand"), LABELS.index("water")
    drawn = scene(6, 64, 96)
    assert drawn.label == "coast"
    flat = np.isin(drawn.segmentation[1:], (sand, water)) & (drawn.segmentation[1:] == drawn.segmentation[:-1])
    assert flat.sum() > 500
    assert (np.diff(drawn.depth, axis=0)[flat] <= 0).all()


@pytest.mark.parametrize("seed", range(16))
def test_another_size_is_the_same_composition(seed: int) -> None:
    small, large = scene(seed, 72, 48), scene(seed, 288, 192)
    blocks = large.segmentation.reshape(48, 4, 72, 4).transpose(0, 2, 1, 3).reshape(48, 72, 16)
    votes = (blocks[..., None] == np.arange(len(LABELS))).sum(axis=2)
    assert (votes.argmax(axis=2) == small.segmentation).mean() >= 0.9
    means = large.image.reshape(48, 4, 72, 4, 3).mean(axis=(1, 3))
    assert np.abs(means - small.image).mean() < 12
    for a, b in zip(small.keypoints, large.keypoints, strict=True):
        joints, others = np.array(a), np.array(b)
        both = (joints[:, 2] > 0) & (others[:, 2] > 0)
        assert np.allclose(joints[both, :2] * 4, others[both, :2], atol=1e-3)


@pytest.mark.parametrize("seed", range(24))
def test_keypoints_lie_on_figures_and_the_skeleton_is_drawn_there(seed: int) -> None:
    drawn = scene(seed, 160, 128, kind="figure")
    assert drawn.keypoints
    assert drawn.label in CLASSES[8:]
    figure = np.isin(drawn.segmentation, FIGURE_LABELS)
    for joints in drawn.keypoints:
        assert len(joints) == 17
        assert sum(v == 2 for _, _, v in joints) >= 8
        for x, y, v in joints:
            assert v in (0, 1, 2)
            if v == 0:
                continue
            assert figure[int(y), int(x)] or v == 1
            assert drawn.pose[int(y), int(x)].any()
    assert (drawn.pose.any(axis=2) & ~figure).sum() < 0.2 * drawn.pose.any(axis=2).sum()


def test_landscapes_have_no_skeleton() -> None:
    drawn = scene(5, 32, 32, kind="landscape")
    assert not drawn.pose.any()
    assert drawn.keypoints == []


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [((0, 15, 64), None, "15x64"), ((-1, 64, 64), None, "seed -1"), ((2**63, 64, 64), None, "seed"),
     ((0, 64, 64), "portrait", "kind 'portrait'")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(arguments: tuple[int, int, int], kind: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        scene(*arguments, kind=kind)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("scenes") / "out", count=4, size=Size(40, 32), seed=6)


def test_a_data_set_holds_every_map_of_every_scene(written: Path) -> None:
    assert (written / "labels.txt").read_text().split() == list(LABELS)
    colours = read_colours(written / "colours.txt")
    assert colours.names == LABELS
    assert np.array_equal(colours.rgb, PALETTE)
    for seed in range(6, 10):
        drawn = scene(seed, 40, 32)
        name = f"{drawn.label}/{seed:06d}"
        for part, expected in (("images", drawn.image), ("pose", drawn.pose), ("segmentation", drawn.segmentation)):
            assert (np.asarray(Image.open(written / part / f"{name}.png")) == expected).all()
        with Image.open(written / "segmentation" / f"{name}.png") as image:
            assert image.mode == "P"
            palette = image.getpalette()
            assert palette is not None
            assert palette[: PALETTE.size] == PALETTE.ravel().tolist()
        depth = np.asarray(Image.open(written / "depth" / f"{name}.png"))
        assert depth.dtype.itemsize >= 2
        assert np.abs(depth / 65535 - drawn.depth).max() < 1e-5
        joints = written / "keypoints" / f"{name}.json"
        assert joints.exists() == bool(drawn.keypoints)
        if drawn.keypoints:
            people = json.loads(joints.read_text())["annotations"]
            assert np.allclose(
                np.array([p["keypoints"] for p in people]).reshape(-1, 17, 3), drawn.keypoints, atol=0.01
            )
    with Image.open(written / "seg.png") as large:
        assert (large.size, large.mode) == ((1280, 832), "P")
        assert len(np.unique(np.asarray(large))) >= 4
    assert not list(written.rglob("*.tmp"))


def test_the_same_call_completes_what_is_missing_and_touches_nothing_else(written: Path) -> None:
    before = contents(written)
    gone = [written / "images" / scene(7, 16, 16).label / "000007.png", written / "labels.txt"]
    for path in gone:
        path.unlink()
    kept = written / "images" / scene(6, 16, 16).label / "000006.png"
    stamp = kept.stat().st_mtime_ns
    seen: list[tuple[int, int]] = []
    write(written, count=4, size=Size(40, 32), seed=6, on_item=lambda done, count: seen.append((done, count)))
    assert contents(written) == before
    assert kept.stat().st_mtime_ns == stamp
    assert seen == [(3, 4), (4, 4)]


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_write_the_same(workers: int, written: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "again", list[int]()
    write(out, count=4, size=Size(40, 32), seed=6, workers=workers, on_item=lambda done, _: seen.append(done))
    assert contents(out) == contents(written)
    assert seen == [1, 2, 3, 4]


def test_a_folder_of_other_arguments_is_refused(written: Path) -> None:
    before = contents(written)
    with pytest.raises(UsageError, match="another count, size"):
        write(written, count=5, size=Size(48, 32), seed=6)
    assert contents(written) == before


def test_a_folder_of_someone_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="not empty"):
        write(tmp_path, count=1, size=Size(32, 32), seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(UsageError, match="is a file"):
        write(tmp_path / "holiday.jpg", count=1, size=Size(32, 32), seed=0)


def test_bad_arguments_leave_no_folder(tmp_path: Path) -> None:
    for count, size in ((0, Size(32, 32)), (1, Size(8, 32))):
        with pytest.raises(UsageError):
            write(tmp_path / "out", count=count, size=size, seed=0)
    assert not (tmp_path / "out").exists()
