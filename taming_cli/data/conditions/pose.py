"""Poses: skeletons in OpenPose's colours on black, read as they were rendered, or drawn from keypoints in JSON.

Positions are in pixels from the top left corner of the picture, x to the right and y down.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from taming_cli.config.size import Size
from taming_cli.data.conditions.keypoints import BODY_18, JOINTS, Point, named, sheets
from taming_cli.data.formats import check_pixels
from taming_cli.data.images import read_rgb
from taming_cli.errors import BadImageError

Keypoints = list[tuple[float, float, float]]
"""A figure's joints in the order of JOINTS, each x, y, and 0 where it is missing."""

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

# The limbs' hues are 20 degrees apart, in the order of the limbs; 340 degrees are no limb's.
_HUES = 18

# The share of a pixel's brightness that its colour must make up to be a limb's: where limbs cross, and in JPEG files,
# it is not all of it. Half of the photographs that we looked at have less than 2 % of such pixels.
_VIVID = 0.7

# ControlNet's limbs have 60 % of the full brightness, and its joints, in colours of their own, all of it.
_DIM, _BRIGHT = 153, 204

_SHARES = 1.5
"""The farthest that joints lie from the corner where they are written as shares of the picture's sides: some are
outside of it."""


def read_pose(data: bytes, name: str, *, size: Size | None = None) -> Image.Image:
    """A rendered skeleton, as `images.read_rgb` reads it, or keypoints in JSON, drawn -> RGB.

    JSON is known by its content (see `keypoints`). The drawing has the size that the file says (`width` and `height`,
    `canvas_width` and `canvas_height`, or those of the only one of its `images`), else `size`. Joints that are all
    within 1.5 of the corner are shares of the picture's sides.

    Raises BadImageError for what `read_rgb` refuses, other JSON, keypoints of several pictures, where no size is known,
    and where most joints lie outside of `size`.
    """
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] not in (b"{", b"["):  # no format of pictures begins with either
        return read_rgb(data, name)
    try:
        found = sheets(text)
        if len(found) > 1:
            raise BadImageError(
                f"keypoints of {len(found)} pictures; split the file into one for each, named like the picture"
            )
        sheet = found[0]
        figures = [named(person, number) for number, person in enumerate(sheet.people)]
        drawn = sheet.size or size
        if drawn is None:
            raise BadImageError(
                "keypoints without the size of their picture; name the pictures (--pictures), give the size (--size), "
                "or add `width` and `height` to the file; see: taming guide conditions"
            )
        check_pixels((drawn.width, drawn.height))
        figures = _in_pixels(figures, drawn)
        if sheet.size is None:
            _check_inside(figures, drawn)
    except BadImageError as error:
        raise BadImageError(f"{name}: {error}") from error
    return Image.fromarray(_paint(figures, drawn, [_estimate(figure) for figure in figures]))


def _in_pixels(figures: list[dict[str, Point]], size: Size) -> list[dict[str, Point]]:
    """The same, where joints are written as shares of the picture's sides."""
    places = [place for figure in figures for place in figure.values()]
    if len(places) < 3 or max(size.width, size.height) < 8 or np.abs(places).max() > _SHARES:
        return figures
    return [{name: (x * size.width, y * size.height) for name, (x, y) in figure.items()} for figure in figures]


def _check_inside(figures: Sequence[Mapping[str, Point]], size: Size) -> None:
    """Refuse a size that cannot be the picture's: joints may lie outside of it, but not most."""
    places = np.array([place for figure in figures for place in figure.values()]).reshape(-1, 2)
    outside = (places < 0).any(1) | (places > (size.width, size.height)).any(1)
    if outside.sum() > len(places) / 2:
        x, y = places[outside][places[outside].sum(1).argmax()]
        raise BadImageError(
            f"most joints lie outside of {size}, one at ({x:.0f}, {y:.0f}): that is not the size of their picture"
        )


def paint_skeletons(
    figures: Sequence[Keypoints], width: int, height: int, sizes: Sequence[float] | None = None
) -> NDArray[np.uint8]:
    """Joints and limbs in OpenPose's colours on black, uint8 (H, W, 3).

    `sizes` are the heights of the whole bodies in pixels, on which the widths of the strokes depend; without them they
    are estimated from the joints that are there.
    """
    found = [
        {name: (x, y) for name, (x, y, there) in zip(JOINTS, joints, strict=True) if there > 0} for joints in figures
    ]
    return _paint(found, Size(width, height), [_estimate(each) for each in found] if sizes is None else sizes)


def swap_sides(skeletons: Image.Image) -> Image.Image:
    """Left limbs in the colours of right ones and the other way round, RGB, each at its place.

    A mirrored map of skeletons lacks just that: a person's left arm is a right arm in the mirror. Each pixel's hue is
    turned by as much as the nearest limb's is from its partner's on the other side; brightness and saturation stay, and
    so do black, white, grey, pale colours, and hues that no limb has. Twice gives the picture again, up to rounding.

    The limbs' colours are those of our drawings and of ControlNet's, whose joints are known by their brightness as long
    as a map has not been made much smaller. OpenPose's own program gives the same colours to other limbs.
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
    # A third is more than in any drawing of ours, and less than in ControlNet's until they are a third of their size.
    if (np.abs(value - _DIM) <= 12).sum() > len(value) / 3:
        turns = np.where(value > _BRIGHT, _JOINT_TURNS[nearest], turns)
    away = (np.array([5, 3, 1], np.float32) + (hue + turns)[:, None]) % 6
    pixels = np.array(skeletons)
    pixels[lit] = (value[:, None] - chroma[:, None] * np.minimum(away, 4 - away).clip(0, 1) + 0.5).astype(np.uint8)
    return Image.fromarray(pixels)


def _turns(numbers: Mapping[tuple[str, ...], int]) -> NDArray[np.float32]:
    """Joints or pairs of them, with the numbers of their hues -> of each hue, how far it is to that of the same on the
    other side, (_HUES,), 6 for the whole circle."""
    other = {"left": "right", "right": "left"}
    turns = np.zeros(_HUES, np.float32)
    for joints, number in numbers.items():
        partner = tuple("_".join(other.get(word, word) for word in joint.split("_")) for joint in joints)
        turns[number] = (numbers[partner] - number) * 6 / _HUES
    return turns


_LIMB_TURNS = _turns({(start, end): number for number, (start, end, _) in enumerate(_LIMBS)})
# ControlNet's joints, in its order. Knees stay: the left one's blue is also that of all the joints of hands.
_JOINT_TURNS = _turns({(joint,): number for number, joint in enumerate(BODY_18) if "knee" not in joint})


def _paint(figures: Sequence[Mapping[str, Point]], size: Size, heights: Sequence[float]) -> NDArray[np.uint8]:
    picture = np.zeros((size.height, size.width, 3), np.float32)
    for joints, tall in zip(figures, heights, strict=True):
        places = dict(joints)
        if "neck" not in places and {"left_shoulder", "right_shoulder"} <= places.keys():
            a, b = places["left_shoulder"], places["right_shoulder"]
            places["neck"] = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
        for start, end, colour in _LIMBS:
            if start in places and end in places:
                _stroke(picture, places[start], places[end], max(0.6, 0.011 * tall), colour)
        for _, end, colour in _LIMBS:
            if end in places:
                _stroke(picture, places[end], places[end], max(0.8, 0.015 * tall), colour)
    picture += 0.5
    return picture.astype(np.uint8)


def _stroke(picture: NDArray[np.float32], a: Point, b: Point, radius: float, colour: str) -> None:
    """A line with round ends from a to b, `radius` pixels to each side, its edge smooth over one pixel."""
    reach = radius + 1
    rows = slice(max(0, int(min(a[1], b[1]) - reach)), max(0, int(max(a[1], b[1]) + reach) + 1))
    columns = slice(max(0, int(min(a[0], b[0]) - reach)), max(0, int(max(a[0], b[0]) + reach) + 1))
    part = picture[rows, columns]
    y = (np.arange(rows.start, rows.start + part.shape[0]) + 0.5 - a[1])[:, None]
    x = (np.arange(columns.start, columns.start + part.shape[1]) + 0.5 - a[0])[None, :]
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    cover = np.clip(radius - np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2) + 0.5, 0, 1)[..., None]
    paint_colour = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
    part += ((paint_colour - part) * cover).astype(np.float32)


def _estimate(joints: Mapping[str, Point]) -> float:
    """A body's height in pixels, from the longer side of the box around its joints.

    In our scenes that side is 0.70 (sitting) to 1.10 (arms raised) body heights, 0.96 in the middle.
    """
    if not joints:
        return 0.0
    places = np.array(list(joints.values()))
    return float((places.max(0) - places.min(0)).max() / 0.96)
