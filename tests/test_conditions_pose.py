"""Poses: keypoints in JSON are drawn at their places, in OpenPose's colours."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taming_cli.config.size import Size
from taming_cli.data.conditions.keypoints import JOINTS
from taming_cli.data.conditions.pose import read_pose
from taming_cli.data.conditions.skeletons import paint_skeletons
from taming_cli.errors import BadImageError
from taming_cli.scenes.folder import write
from taming_cli.scenes.generate import scene

# Somebody who stands, arms out: COCO's joint -> x, y.
PLACES: dict[str, tuple[float, float]] = {
    "nose": (100, 30), "left_eye": (104, 26), "right_eye": (96, 26), "left_ear": (109, 28), "right_ear": (91, 28),
    "left_shoulder": (120, 50), "right_shoulder": (80, 50), "left_elbow": (145, 60), "right_elbow": (55, 60),
    "left_wrist": (170, 45), "right_wrist": (30, 45), "left_hip": (112, 105), "right_hip": (88, 105),
    "left_knee": (115, 140), "right_knee": (85, 140), "left_ankle": (116, 175), "right_ankle": (84, 175),
}  # fmt: skip
FIGURE = [(*PLACES[joint], 2.0) for joint in JOINTS]
SIZE = Size(200, 190)

# OpenPose's parts in its order.
BODY_18 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
)  # fmt: skip
BODY_25 = (*BODY_18[:8], "mid_hip", *BODY_18[8:], "a", "b", "c", "d", "e", "f")


def coco(figure=FIGURE):
    return {"category_id": 1, "image_id": 7, "keypoints": [number for joint in figure for number in joint]}


def open_pose(body, missing=(), neck=(100, 50)):
    places = PLACES | {"neck": neck, "mid_hip": (100, 105)}
    numbers = []
    for joint in body:
        numbers += [*places[joint], 0.8] if joint in places and joint not in missing else [0, 0, 0]
    return {"pose_keypoints_2d": numbers, "face_keypoints_2d": []}


def read(content, **options) -> np.ndarray:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    image = read_pose(data, "p.json", **options)
    assert image.mode == "RGB"
    return np.asarray(image)


DRAWN = paint_skeletons([FIGURE], 200, 190)


def test_limbs_have_their_colours_and_the_rest_is_black():
    for start, end, colour in (
        ("right_shoulder", "right_elbow", "#ffaa00"),
        ("left_elbow", "left_wrist", "#55ff00"),
        ("right_knee", "right_ankle", "#00ffaa"),
        ("left_hip", "left_knee", "#00aaff"),
    ):
        (x0, y0), (x1, y1) = PLACES[start], PLACES[end]
        at = DRAWN[round((y0 + y1) / 2), round((x0 + x1) / 2)]
        assert at.tolist() == [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    assert 0.01 < DRAWN.any(2).mean() < 0.1
    assert not DRAWN[:20].any()
    assert not DRAWN[120:, 95:105].any()


@pytest.mark.parametrize(
    "content",
    [
        {"width": 200, "height": 190, "annotations": [coco()]},
        {"images": [{"id": 7, "width": 200, "height": 190}], "annotations": [coco()]},
        {"images": [], "width": 200, "height": 190, "annotations": [coco(), {"category_id": 3, "bbox": [1, 2, 3, 4]}]},
        {"width": 200, "height": 190, **coco()},
        {"canvas_width": 200, "canvas_height": 190, "people": [open_pose(BODY_18)]},
    ],
)
def test_a_file_that_states_its_size_is_drawn_at_that(content):
    assert (read(content) == DRAWN).all()
    assert (read(content, size=Size(30, 40)) == DRAWN).all()


@pytest.mark.parametrize(
    "content",
    [
        [coco()],
        coco(),
        {"annotations": [coco()]},
        {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": [coco()]},
        {"version": 1.3, "people": [open_pose(BODY_18)]},
        {"people": [open_pose(BODY_25)]},
        b"\xef\xbb\xbf \n" + json.dumps({"people": [open_pose(BODY_25)]}).encode(),
        {"people": [open_pose(BODY_25), {"pose_keypoints_2d": []}]},
    ],
)
def test_a_file_that_does_not_is_drawn_at_the_pictures(content):
    assert (read(content, size=SIZE) == DRAWN).all()
    with pytest.raises(BadImageError, match=r"^p.json: keypoints without the size of their picture"):
        read(content)


def test_missing_joints_take_their_limbs_with_them():
    gone = [
        (x, y, 0.0) if joint == "left_elbow" else (x, y, v) for joint, (x, y, v) in zip(JOINTS, FIGURE, strict=True)
    ]
    for content in (coco(gone), {"people": [open_pose(BODY_25, ("left_elbow",))]}):
        picture = read(content, size=SIZE)
        assert picture[45, 170].any()  # the wrist is a dot
        assert not picture[55, 133].any()
        assert not picture[52, 158].any()
        assert (picture[:, :110] == DRAWN[:, :110]).all()


def test_the_neck_is_taken_from_open_pose_or_between_the_shoulders():
    shoulder = ("left_shoulder",)
    given = read({"people": [open_pose(BODY_18, shoulder)]}, size=SIZE)
    assert given[50, 90].tolist() == [255, 0, 0]
    lower = read({"people": [open_pose(BODY_18, neck=(100, 70))]}, size=SIZE)
    assert lower[70, 100].any()
    assert not lower[50, 90].any()
    between = read({"people": [open_pose(BODY_18, ("neck",))]}, size=SIZE)
    assert (between == DRAWN).all()
    none = read({"people": [open_pose(BODY_18, ("neck", *shoulder))]}, size=SIZE)
    assert not none[50, 90].any()


def test_several_people_and_nobody():
    other = [(x / 2, y / 2 + 90, v) for x, y, v in FIGURE]
    assert (read([coco(), coco(other)], size=SIZE) == paint_skeletons([FIGURE, other], 200, 190)).all()
    for nobody in ([], {"annotations": []}, {"people": []}, coco([(0, 0, 0)] * 17)):
        assert not read(nobody, size=SIZE).any()


def test_people_may_reach_out_of_the_picture():
    shifted = [
        (x - 120.0, y - 400000.0 * (joint == "nose"), v) for joint, (x, y, v) in zip(JOINTS, FIGURE, strict=True)
    ]
    picture = paint_skeletons([shifted], 60, 190, [150.0])
    whole = paint_skeletons([[(x + 120, y, v) for x, y, v in shifted]], 180, 190, [150.0])
    assert (picture == whole[:, 120:]).all()
    assert picture.any()


def test_strokes_grow_with_the_figure():
    twice = [(2 * x, 2 * y, v) for x, y, v in FIGURE]
    covered = paint_skeletons([twice], 400, 380).any(2).mean()
    assert covered == pytest.approx(DRAWN.any(2).mean(), rel=0.15)
    assert paint_skeletons([FIGURE], 200, 190, [600.0]).any(2).mean() > 2 * covered


def test_scenes_keypoints_drawn_again_are_nearly_their_pose_maps(tmp_path: Path):
    write(tmp_path / "s", count=4, size=Size(96, 80), seed=2, kind="figure")
    files = sorted((tmp_path / "s" / "keypoints").rglob("*.json"))
    assert len(files) == 4
    for file in files:
        again = read(file.read_bytes())
        rendered = tmp_path / "s" / "pose" / file.parent.name / f"{file.stem}.png"
        there = np.asarray(read_pose(rendered.read_bytes(), "p.png"))
        drawn = scene(int(file.stem), 96, 80, kind="figure")
        assert (there == drawn.pose).all()
        assert again.shape == there.shape
        # Only the widths of strokes may differ a little: the body's height is estimated.
        assert np.abs(again.astype(int) - there).mean() < 0.1 * there.mean() + 0.5
        for joints in drawn.keypoints:
            assert all(again[int(y), int(x)].any() for x, y, v in joints if v > 0)


def test_a_rendered_skeleton_is_read_like_any_picture():
    stream = io.BytesIO()
    Image.fromarray(DRAWN).save(stream, "PNG")
    assert (read(stream.getvalue(), size=Size(3, 3)) == DRAWN).all()


def changed(**more):
    return {"width": 200, "height": 190, "annotations": [coco() | more]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"annotations": [coco(), coco() | {"image_id": 8}], "width": 9, "height": 9}, "of 2 pictures; split the file"),
        ({"annotations": [], "images": [{"id": k, "width": 9, "height": 9} for k in range(5)]}, "of 5 pictures"),
        ([coco(), coco() | {"image_id": 8}], "of 2 pictures"),
        (changed(keypoints=[1, 2, 2] * 16), "48 numbers, which are neither COCO's 17 joints"),
        (changed(keypoints="all"), 'keypoints that are not a list of numbers: "all"'),
        (changed(keypoints=[[1, 2, 2]] * 51), "153 numbers, which are neither"),
        (changed(keypoints=[1e9, 2, 2] * 17), "joint nose at"),
        (changed(keypoints=[10**400, 2, 2] * 17), "joint nose at"),
        (b'{"keypoints": [' + b"NaN, 1, 2, " * 16 + b"1, 2, 3]}", "joint nose at [nan"),
        (
            {"people": [{"pose_keypoints_2d": [1, 2, 1] * 21}]},
            "63 numbers, which are neither OpenPose's 18",
        ),
        ({"people": [{"face_keypoints_2d": []}]}, "no `pose_keypoints_2d`"),
        ({"people": 3}, "`people` is not a list"),
        ({"annotations": {}}, "`annotations` is not a list"),
        ([{"bbox": [1, 2, 3, 4]}], "no keypoints"),
        ({"a": 1}, "no keypoints"),
        ([1, 2], "no keypoints"),
        (changed() | {"width": 0}, "size 0x190"),
        (changed() | {"width": "200"}, "not in whole pixels"),
        (changed() | {"width": 60000, "height": 60000}, "60000 x 60000 are 3600000000 pixels"),
        (b"{nothing", "neither a picture nor valid JSON"),
        (b"[" * 100000, "neither a picture nor valid JSON"),
        (b'{"a": "\xff"}', "neither a picture nor valid JSON"),
        (b"", "empty"),
        (b"pose", "not a picture"),
    ],
)
def test_what_is_no_pose_is_refused_in_one_line(content, words):
    with pytest.raises(BadImageError) as caught:
        read(content, size=None if isinstance(content, bytes) and not content else SIZE)
    assert str(caught.value).startswith("p.json: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
