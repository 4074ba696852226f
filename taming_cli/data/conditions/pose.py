"""Poses: skeletons in OpenPose's colours on black, read as they were rendered, or drawn from keypoints in JSON.

Positions are in pixels from the top left corner of the picture, x to the right and y down.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from taming_cli.config.size import Size
from taming_cli.data.formats import check_pixels
from taming_cli.data.images import read_rgb
from taming_cli.errors import BadImageError, UsageError

Point = tuple[float, float]
Keypoints = list[tuple[float, float, float]]
"""A figure's joints in the order of JOINTS, each x, y, and 0 where it is missing."""

# COCO's 17 joints, in its order.
JOINTS: tuple[str, ...] = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip

# OpenPose's two bodies; of BODY_25 the middle of the hips and the feet are not drawn.
_BODY_18: tuple[str, ...] = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
)  # fmt: skip
_BODY_25: tuple[str, ...] = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe",
    "right_heel",
)  # fmt: skip

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

_FARTHEST = 1e6  # pixels: joints may lie outside of the picture, but not where arithmetic goes wrong


class _Found(NamedTuple):
    """What a file of keypoints says."""

    figures: list[dict[str, Point]]
    """Of each person the joints that are there, by name."""

    size: Size | None
    """Of the picture, where the file says it."""


def read_pose(data: bytes, name: str, *, size: Size | None = None) -> Image.Image:
    """A rendered skeleton, as `images.read_rgb` reads it, or keypoints in JSON, drawn -> RGB.

    JSON is known by its content: COCO's (a file with `annotations`, a list of them, or one; `keypoints` of 17 joints
    x, y, v) or OpenPose's (`people`, each with `pose_keypoints_2d` of 18 or 25 joints x, y, confidence). Joints whose
    third number is 0 are missing. The drawing has the size that the file says (`width` and `height`, `canvas_width`
    and `canvas_height`, or those of the only one of its `images`), else `size`.

    Raises BadImageError for what `read_rgb` refuses, other JSON, keypoints of several pictures, and where no size is
    known.
    """
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] not in (b"{", b"["):  # no format of pictures begins with either
        return read_rgb(data, name)
    try:
        found = _parse(json.loads(text))
        size = found.size or size
        if size is None:
            raise BadImageError("keypoints without the size of their picture; add `width` and `height` to the file")
        check_pixels((size.width, size.height))
        places = [place for figure in found.figures for place in figure.values()]
        if len(places) > 2 and max(size.width, size.height) > 2 and np.abs(places).max() <= 1:
            raise BadImageError("the keypoints are shares of the picture's size; write them in pixels")
    except BadImageError as error:
        raise BadImageError(f"{name}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadImageError(f"{name}: neither a picture nor valid JSON ({error})") from error
    sizes = [_estimate(figure) for figure in found.figures]
    return Image.fromarray(_paint(found.figures, size, sizes))


def paint_skeletons(
    figures: Sequence[Keypoints], width: int, height: int, sizes: Sequence[float] | None = None
) -> NDArray[np.uint8]:
    """Joints and limbs in OpenPose's colours on black, uint8 (H, W, 3).

    `sizes` are the heights of the whole bodies in pixels, on which the widths of the strokes depend; without them they
    are estimated from the joints that are there.
    """
    named = [
        {name: (x, y) for name, (x, y, there) in zip(JOINTS, joints, strict=True) if there > 0} for joints in figures
    ]
    return _paint(named, Size(width, height), [_estimate(each) for each in named] if sizes is None else sizes)


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
_JOINT_TURNS = _turns({(joint,): number for number, joint in enumerate(_BODY_18) if "knee" not in joint})


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


def _parse(content: Any) -> _Found:
    """The content of a JSON file, of COCO's or OpenPose's kind; BadImageError (without the file's name) for others."""
    if isinstance(content, list):
        annotations, about = content, {}
    elif not isinstance(content, dict):
        raise BadImageError("JSON, but no keypoints in it")
    elif "people" in content:
        figures = [_open_pose(person, number) for number, person in enumerate(_listed(content, "people"))]
        return _Found(figures, _size(content))
    elif "annotations" in content:
        annotations, about = _listed(content, "annotations"), content
    else:
        annotations, about = [content], content
    pictures = _listed(about, "images") if "images" in about else []
    of = {str(each["image_id"]) for each in annotations if isinstance(each, dict) and "image_id" in each}
    if len(pictures) > 1 or len(of) > 1:
        count = max(len(pictures), len(of))
        raise BadImageError(f"keypoints of {count} pictures; split the file into one for each, named like the picture")
    # Where people are annotated, so may be things, which have no keypoints.
    people = [each for each in annotations if isinstance(each, dict) and each.get("keypoints") is not None]
    if annotations and not people:
        raise BadImageError("JSON, but no keypoints in it: neither COCO's `keypoints` nor OpenPose's `people`")
    figures = [_joints(each["keypoints"], {17: JOINTS}, number) for number, each in enumerate(people)]
    return _Found(figures, _size(about) or (_size(pictures[0]) if pictures else None))


def _listed(content: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(content[key], list):
        raise BadImageError(f"`{key}` is not a list")
    return list(content[key])


def _open_pose(person: Any, number: int) -> dict[str, Point]:
    if not isinstance(person, dict) or "pose_keypoints_2d" not in person:
        raise BadImageError(f"figure {number} has no `pose_keypoints_2d`")
    values = person["pose_keypoints_2d"]
    return _joints(values, {18: _BODY_18, 25: _BODY_25}, number) if values else {}  # a hand may be all that is seen


def _joints(values: Any, bodies: Mapping[int, Sequence[str]], number: int) -> dict[str, Point]:
    """x, y and a third number for each joint -> the joints that are there."""
    counts = " or ".join(map(str, bodies))
    if not isinstance(values, list) or len(values) % 3 or len(values) // 3 not in bodies:
        given = f"{len(values)} numbers" if isinstance(values, list) else "no list"
        raise BadImageError(f"figure {number} has {given} where x, y and visibility of {counts} joints are expected")
    found = {}
    for name, *numbers in zip(bodies[len(values) // 3], values[::3], values[1::3], values[2::3], strict=True):
        if not all(isinstance(value, int | float) and abs(value) <= _FARTHEST for value in numbers):
            raise BadImageError(f"figure {number} has its joint {name} at {numbers}, which is no place in a picture")
        x, y, there = map(float, numbers)
        if there > 0:
            found[name] = (x, y)
    return found


def _size(about: Any) -> Size | None:
    """The picture's size, where it is said."""
    for keys in (("width", "height"), ("canvas_width", "canvas_height")):
        if isinstance(about, dict) and all(about.get(key) is not None for key in keys):
            width, height = (about[key] for key in keys)
            if not isinstance(width, int) or not isinstance(height, int):
                raise BadImageError(f"the size {width!r} x {height!r} is not in whole pixels")
            try:
                return Size(width, height)
            except UsageError as error:
                raise BadImageError(str(error)) from error
    return None
