"""Skeletons in OpenPose's colours on black: drawn from joints, and mirrored.

Positions are in pixels from the top left corner of the picture, x to the right and y down.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from taming_cli.data.conditions.keypoints import BODY_18, JOINTS, Point

Keypoints = list[tuple[float, float, float]]
"""A figure's joints in the order of JOINTS: x, y, and a visibility that is 0 where the joint is missing."""

# OpenPose's limbs, with its colours; "neck" is the middle of the shoulders.
_LIMBS: tuple[tuple[str, str, str], ...] = (
    ("neck", "right_shoulder", "#ff0000"), ("neck", "left_shoulder", "#ff5500"),
    ("right_shoulder", "right_elbow", "#ffaa00"), ("right_elbow", "right_wrist", "#ffff00"),
    ("left_shoulder", "left_elbow", "#aaff00"), ("left_elbow", "left_wrist", "#55ff00"),
    ("neck", "right_hip", "#00ff00"), ("right_hip", "right_knee", "#00ff55"), ("right_knee", "right_ankle", "#00ffaa"),
    ("neck", "left_hip", "#00ffff"), ("left_hip", "left_knee", "#00aaff"), ("left_knee", "left_ankle", "#0055ff"),
    ("neck", "nose", "#0000ff"), ("nose", "right_eye", "#5500ff"), ("right_eye", "right_ear", "#aa00ff"),
    ("nose", "left_eye", "#ff00ff"), ("left_eye", "left_ear", "#ff00aa"),
)  # fmt: skip

# The limbs' hues are 20 degrees apart, in the order of the limbs; 340 degrees is no limb's hue.
_HUES = 18

# The least chroma of a limb's pixel, as a share of its brightness. Where limbs cross, and in JPEG files, colours are
# not pure. In half of the photographs examined, less than 2 % of the pixels are as vivid.
_VIVID = 0.7

# ControlNet draws limbs at 60 % of full brightness, and joints, in colours of their own, at full brightness.
_DIM, _BRIGHT = 153, 204


def paint_skeletons(
    figures: Sequence[Keypoints], width: int, height: int, sizes: Sequence[float] | None = None
) -> NDArray[np.uint8]:
    """Draw joints and limbs in OpenPose's colours on black, uint8 (H, W, 3).

    `sizes` are the heights of the whole bodies in pixels, which set the width of the strokes. By default they are
    estimated from the joints.
    """
    places = [
        {name: (x, y) for name, (x, y, known) in zip(JOINTS, joints, strict=True) if known > 0} for joints in figures
    ]
    return paint_figures(places, width, height, sizes)


def paint_figures(
    figures: Sequence[Mapping[str, Point]], width: int, height: int, sizes: Sequence[float] | None = None
) -> NDArray[np.uint8]:
    """As `paint_skeletons`, from joints by name, any of which may be missing."""
    if sizes is None:
        sizes = [_body_height(joints) for joints in figures]
    picture = np.zeros((height, width, 3), np.float32)
    for joints, size in zip(figures, sizes, strict=True):
        places = dict(joints)
        if "neck" not in places and {"left_shoulder", "right_shoulder"} <= places.keys():
            a, b = places["left_shoulder"], places["right_shoulder"]
            places["neck"] = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
        for start, end, colour in _LIMBS:
            if start in places and end in places:
                _stroke(picture, places[start], places[end], max(0.6, 0.011 * size), colour)
        for _, end, colour in _LIMBS:
            if end in places:
                _stroke(picture, places[end], places[end], max(0.8, 0.015 * size), colour)
    picture += 0.5
    return picture.astype(np.uint8)


def _stroke(picture: NDArray[np.float32], a: Point, b: Point, radius: float, colour: str) -> None:
    """Draw a line with round ends from a to b, `radius` pixels to each side, its edge smooth over one pixel."""
    reach = radius + 1
    rows = slice(max(0, int(min(a[1], b[1]) - reach)), max(0, int(max(a[1], b[1]) + reach) + 1))
    columns = slice(max(0, int(min(a[0], b[0]) - reach)), max(0, int(max(a[0], b[0]) + reach) + 1))
    part = picture[rows, columns]
    y = (np.arange(rows.start, rows.start + part.shape[0]) + 0.5 - a[1])[:, None]
    x = (np.arange(columns.start, columns.start + part.shape[1]) + 0.5 - a[0])[None, :]
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    cover = np.clip(radius - np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2) + 0.5, 0, 1)[..., None]
    rgb = np.array(list(bytes.fromhex(colour[1:])), np.float32)
    part += ((rgb - part) * cover).astype(np.float32)


def _body_height(joints: Mapping[str, Point]) -> float:
    """Estimate a body's height in pixels from the longer side of the box around its joints.

    In our scenes that side is 0.70 (sitting) to 1.10 (arms raised) body heights, 0.96 in the median.
    """
    if not joints:
        return 0.0
    places = np.array(list(joints.values()))
    return float((places.max(0) - places.min(0)).max() / 0.96)


def swap_sides(skeletons: Image.Image) -> Image.Image:
    """Exchange the colours of left and right limbs, RGB; each limb keeps its place.

    A mirrored map of skeletons needs this: a person's left arm is a right arm in the mirror. Each pixel's hue changes
    by as much as the nearest limb's differs from that of its partner on the other side. Brightness and saturation stay,
    and so do black, white, grey, pale colours, and hues of no limb. Twice is the identity up to rounding.

    The colours are those of our drawings and of ControlNet, whose joints are recognised by their brightness unless a
    map was reduced to a small size. OpenPose's own program assigns the same colours to other limbs.
    """
    red, green, blue = (np.asarray(channel) for channel in skeletons.split())
    most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    chroma = most - least
    lit = chroma > _VIVID * most
    value, chroma, red, green, blue = (each[lit].astype(np.float32) for each in (most, chroma, red, green, blue))
    # The hue, 6 for the whole circle (A. R. Smith, "Color Gamut Transform Pairs", 1978).
    hue = np.where(value == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma)
    hue = np.where(value == red, (green - blue) / chroma % 6, hue)
    nearest = np.floor(hue * _HUES / 6 + 0.5).astype(int) % _HUES
    turns = _LIMB_TURNS[nearest]
    # Our drawings have fewer such pixels than a third; ControlNet's have more, down to a third of their size.
    if (np.abs(value - _DIM) <= 12).sum() > len(value) / 3:
        turns = np.where(value > _BRIGHT, _JOINT_TURNS[nearest], turns)
    away = (np.array([5, 3, 1], np.float32) + (hue + turns)[:, None]) % 6
    pixels = np.array(skeletons)
    pixels[lit] = (value[:, None] - chroma[:, None] * np.minimum(away, 4 - away).clip(0, 1) + 0.5).astype(np.uint8)
    return Image.fromarray(pixels)


def _turns(numbers: Mapping[tuple[str, ...], int]) -> NDArray[np.float32]:
    """Return, for each hue, its difference to the hue of the other side, (_HUES,), 6 for the whole circle.

    `numbers` are the hues of joints, or of pairs of joints.
    """
    other = {"left": "right", "right": "left"}
    turns = np.zeros(_HUES, np.float32)
    for joints, number in numbers.items():
        partner = tuple("_".join(other.get(word, word) for word in joint.split("_")) for joint in joints)
        turns[number] = (numbers[partner] - number) * 6 / _HUES
    return turns


_LIMB_TURNS = _turns({(start, end): number for number, (start, end, _) in enumerate(_LIMBS)})
# ControlNet's joints, in its order. Knees stay: the left one's blue is also that of all the joints of hands.
_JOINT_TURNS = _turns({(joint,): number for number, joint in enumerate(BODY_18) if "knee" not in joint})
