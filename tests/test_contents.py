"""Contents: a crop cuts each kind of file as it is to be cut, and mirrors what mirroring changes."""

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.config.size import Size
from taming_cli.data.conditions.keypoints import JOINTS
from taming_cli.data.conditions.skeletons import paint_skeletons
from taming_cli.data.contents import Content, Depth, Edges, Pictures, Poses, Segmentation
from taming_cli.data.images import Crop, apply
from taming_cli.scenes.generate import scene

RNG = np.random.default_rng(4)
COLOUR = Image.fromarray(RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8))
GREY = Image.fromarray(RNG.integers(0, 9, (30, 40), dtype=np.uint8))
CROP = Crop(4, 3, 32, 24, Size(16, 12))


@pytest.mark.parametrize(
    ("content", "image"), [(Pictures(), COLOUR), (Edges(), COLOUR), (Depth(), GREY), (Segmentation(9), GREY)]
)
def test_a_crop_is_cut_and_mirrored_as_its_content_is_made_smaller(content: Content, image: Image.Image) -> None:
    cut = content.cut(image, CROP)
    assert torch.equal(cut, content.tensor(apply(image, CROP, content.resample)))
    if content.kind == "edges":  # which are found in what is mirrored
        return
    assert torch.equal(content.cut(image, CROP._replace(flip=True)), cut.flip(2))


def drawn(seed: int, side: int, *, mirrored: bool) -> Image.Image:
    """A scene's figures, drawn; `mirrored` with their keypoints, what was the left arm being the right one."""
    other = {"left": "right", "right": "left"}
    figures = []
    for figure in scene(seed, 64, 64, kind="figure").keypoints:
        at = {joint: (x * side / 64, y * side / 64, there) for joint, (x, y, there) in zip(JOINTS, figure, strict=True)}
        if mirrored:
            at = {
                "_".join(other.get(word, word) for word in joint.split("_")): (side - x, y, there)
                for joint, (x, y, there) in at.items()
            }
        figures.append([at[joint] for joint in JOINTS])
    return Image.fromarray(paint_skeletons(figures, side, side))


@pytest.mark.parametrize("scale", [1, 2, 8])
def test_a_mirrored_skeleton_has_its_left_limbs_on_its_left_at_any_scale(scale: int) -> None:
    crop = Crop(0, 0, 320, 320, Size(320 // scale, 320 // scale))
    differs, lit = {"image": 0, "pose": 0}, 0
    for seed in range(3):
        wanted = Pictures().cut(drawn(seed, 320, mirrored=True), crop).int()
        lit += int((wanted.amax(0) > 32).sum())
        for content in (Pictures(), Poses()):
            cut = content.cut(drawn(seed, 320, mirrored=False), crop._replace(flip=True))
            differs[content.kind] += int(((cut - wanted).abs().amax(0) > 32).sum())
    assert differs["image"] > 0.5 * lit
    # Where limbs cross, another one is on top. If colours changed after scaling, 0.15 would differ at an eighth.
    assert differs["pose"] < 0.09 * lit
