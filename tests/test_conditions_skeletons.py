"""Mirrored skeletons: left and right limbs exchange their colours."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taming_cli.data.conditions.keypoints import JOINTS
from taming_cli.data.conditions.pose import read_pose
from taming_cli.data.conditions.skeletons import paint_skeletons, swap_sides
from taming_cli.scenes.generate import scene
from tests.test_conditions_pose import FIGURE

# Right limb, left limb.
LIMBS = (
    ("#ff0000", "#ff5500"), ("#ffaa00", "#aaff00"), ("#ffff00", "#55ff00"), ("#00ff00", "#00ffff"),
    ("#00ff55", "#00aaff"), ("#00ffaa", "#0055ff"), ("#5500ff", "#ff00ff"), ("#aa00ff", "#ff00aa"),
    ("#0000ff", "#0000ff"),
)  # fmt: skip
# The same of ControlNet's joints, but for the knees.
DISCS = (
    ("#ff0000", "#ff0000"), ("#ff5500", "#ff5500"), ("#ffaa00", "#55ff00"), ("#ffff00", "#00ff00"),
    ("#aaff00", "#00ff55"), ("#00ffaa", "#0055ff"), ("#00aaff", "#5500ff"), ("#aa00ff", "#ff00ff"),
    ("#ff00aa", "#ff0055"), ("#0000ff", "#0000ff"),
)  # fmt: skip


def colour(text: str) -> np.ndarray:
    return np.array([int(text[k : k + 2], 16) for k in (1, 3, 5)], np.uint8)


def swapped(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(swap_sides(Image.fromarray(pixels)))


def in_a_mirror(figure, width):
    """The keypoints of a figure that is mirrored: what was the left arm is the right one."""
    at = dict(zip(JOINTS, figure, strict=True))
    other = {"left": "right", "right": "left"}
    partners = [at["_".join(other.get(word, word) for word in joint.split("_"))] for joint in JOINTS]
    return [(width - x, y, there) for x, y, there in partners]


def share_that_differs(a, b) -> float:
    """Of the pixels that either draws on."""
    differs = np.abs(a.astype(int) - b).max(2) > 32
    return differs.sum() / (np.maximum(a, b).max(2) > 32).sum()


def test_a_mirrored_drawing_is_nearly_the_drawing_of_mirrored_keypoints():
    """Where limbs meet and cross, another one is on top: of small people seen from the side that is a fifth of them."""
    drawings = [([FIGURE], 200, 190, 0.06)]
    drawings += [(scene(k, 96, 96, kind="figure").keypoints, 96, 96, 0.25) for k in range(8)]
    found = []
    for figures, width, height, most in drawings:
        mirrored = paint_skeletons(figures, width, height)[:, ::-1]
        wanted = paint_skeletons([in_a_mirror(figure, width) for figure in figures], width, height)
        assert share_that_differs(mirrored, wanted) > 0.6
        found.append(share_that_differs(swapped(mirrored), wanted))
        assert found[-1] < most
    assert np.mean(found) < 0.1


@pytest.mark.parametrize("brightness", [1, 0.6, 0.2])
def test_left_and_right_limbs_change_colours_at_any_brightness(brightness):
    right, left = (np.stack([colour(pair[side]) for pair in LIMBS])[None] * brightness for side in (0, 1))
    for before, after in ((right, left), (left, right)):
        assert np.abs(swapped(before.astype(np.uint8)).astype(int) - after).max() <= 1.5


def test_twice_is_the_map_again_up_to_rounding():
    for k in range(4):
        drawn = scene(k, 128, 128, kind="figure").pose
        again = swapped(swapped(drawn)).astype(int)
        assert not np.array_equal(swapped(drawn), drawn)
        # A colour that lies between two limbs' may be nearer to the other once it is rounded.
        assert (np.abs(again - drawn).max(2) > 3).sum() <= 1


def test_what_is_no_limb_keeps_its_colour():
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    others = np.stack([colour(text) for text in ("#ff0055", "#800000", "#ffffff", "#c0a080", "#ffaaaa", "#8890ff")])[
        None
    ]
    kept = np.delete(others, 1, 1)
    assert np.array_equal(swapped(grey), grey)
    assert np.array_equal(swapped(kept), kept)
    assert not np.array_equal(swapped(others), others)
    nothing = np.zeros((4, 4, 3), np.uint8)
    assert np.array_equal(swapped(nothing), nothing)


def test_half_of_the_photos_hardly_change(shared: Path):
    photos = [read_pose(path.read_bytes(), "p") for path in sorted((shared / "data" / "photos").iterdir())[:20]]
    for photo in photos:
        photo.thumbnail((128, 128))
    moved = [(np.abs(swapped(np.asarray(photo)).astype(int) - photo).max(2) > 16).mean() for photo in photos]
    assert np.median(moved) < 0.03


@pytest.mark.parametrize("side", [1, 0.5])
def test_control_nets_joints_change_with_their_own_partners(side):
    """Joints in full on limbs at 60 %; each limb is a bar, with a joint in the middle."""

    def drawn(right):
        rows = []
        for number in range(10):
            limb = LIMBS[number % 9] if right else LIMBS[number % 9][::-1]
            disc = DISCS[number] if right else DISCS[number][::-1]
            bar = np.zeros((24, 60, 3), np.uint8)
            bar[8:16, 4:56] = 0.6 * colour(limb[0])
            bar[8:16, 26:34] = colour(disc[0])
            rows.append(bar)
        picture = Image.fromarray(np.concatenate(rows))
        return np.asarray(picture.resize((int(60 * side), int(240 * side)), Image.Resampling.LANCZOS))

    for right in (True, False):
        differs = share_that_differs(swapped(drawn(right)), drawn(not right))
        assert differs == 0 if side == 1 else differs < 0.12


def test_a_map_saved_as_jpeg_changes_too():
    def jpeg(pixels):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        return np.asarray(Image.open(stream))

    drawn = paint_skeletons([[(2 * x, 2 * y, v) for x, y, v in FIGURE]], 400, 380)
    assert share_that_differs(jpeg(drawn), jpeg(swapped(drawn))) > 0.6
    assert share_that_differs(swapped(jpeg(drawn)), jpeg(swapped(drawn))) < 0.15
