"""Keypoints in JSON, as written by data sets and programs: the people in each picture, and their joints by name.

Supported are COCO's annotations (a file for many pictures or for one, with or without `images`, as written by COCO,
COCO-WholeBody, OCHuman, AlphaPose and MMPose) and OpenPose's `people`. Positions are in pixels from the top left corner
of the picture, x to the right and y down.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from taming_cli.config.parsing import parse_json
from taming_cli.config.size import Size
from taming_cli.errors import BadImageError, UsageError

Point = tuple[float, float]

# COCO's 17 joints, in its order.
JOINTS: tuple[str, ...] = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip

# OpenPose's bodies. Of BODY_25 the middle of the hips and the feet are not drawn; of MPI the head and the chest.
BODY_18: tuple[str, ...] = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
)  # fmt: skip
_BODY_25 = (
    *BODY_18[:8], "mid_hip", *BODY_18[8:], "left_big_toe", "left_small_toe", "left_heel", "right_big_toe",
    "right_small_toe", "right_heel",
)  # fmt: skip
_MPI_15 = ("head", *BODY_18[1:14], "chest")

# The body first, then feet, face and hands: COCO-WholeBody's 23 and 133, Halpe's 26 and 136.
_COCO = {count: (*JOINTS, *[""] * (count - 17)) for count in (17, 23, 26, 133, 136)}
_OPEN_POSE = {**_COCO, 15: _MPI_15, 18: BODY_18, 25: _BODY_25}
_FEWEST_NAMED = 5
"""The fewest known joint names for which the names in a file are used."""

_FARTHEST = 1e6  # pixels: joints may lie outside of the picture, but not where arithmetic overflows

_SHORT = re.compile(r"(l|r|left|right)_?(eye|ear|shoulder|elbow|wrist|hip|knee|ankle)")


class Person(NamedTuple):
    """A person's joints as stored: numbers in one list or one list per joint, or None; separate visibilities, if any;
    and the names of the joints, if the file has them."""

    values: Any
    scores: Any = None
    names: tuple[str, ...] = ()
    open_pose: bool = False


class Sheet(NamedTuple):
    """One picture's people; its name and size, if the file has them."""

    name: str | None
    size: Size | None
    people: tuple[Person, ...]

    def to_json(self) -> bytes:
        """Return a file of this picture alone; the inverse of `sheets`, except for the name."""
        size = {} if self.size is None else {"width": self.size.width, "height": self.size.height}
        keys = ("keypoints", "keypoint_scores", "keypoint_names")
        people = [{key: value for key, value in zip(keys, each, strict=False) if value} for each in self.people]
        return json.dumps({**size, "annotations": people}).encode()


def sheets(text: bytes) -> list[Sheet]:
    """Read the people of each picture in a JSON file; `named` reads their joints.

    Raises BadImageError (without the file's name) for invalid JSON, and for JSON without keypoints.
    """
    try:
        content = parse_json(text.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise BadImageError(f"neither a picture nor valid JSON ({error})") from error
    try:
        return _sheets(content)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:  # any value may occur anywhere
        raise BadImageError(f"JSON, but its keypoints have an unknown layout ({error})") from error


def _sheets(content: Any) -> list[Sheet]:
    if isinstance(content, list):
        frames = [each for each in content if isinstance(each, dict) and "people" in each]
        if frames and len(frames) == len([each for each in content if each is not None]):
            return [_open_pose(each) for each in frames]
        return _coco({"annotations": content})
    if not isinstance(content, dict):
        raise BadImageError("JSON, but no keypoints in it")
    if "people" in content or "bodies" in content:
        return [_open_pose(content)]
    if "instance_info" in content:  # MMPose, a list of frames
        pictures = [_coco({**content, "annotations": each["instances"]})[0] for each in _frames(content)]
        return pictures or [Sheet(None, _size(content), ())]
    if "annotations" not in content and "images" not in content:
        return _coco({**content, "annotations": [content]})
    return _coco(content)


def named(person: Person, number: int) -> dict[str, Point]:
    """Return the present joints of figure `number` by name.

    A joint is present if its third number is above 0 or, without a third number, if it is not at 0, 0. Raises
    BadImageError (without the file's name) for unknown layouts.
    """
    rows = _rows(person, number)
    names = tuple(map(_name, person.names))
    if len(names) != len(rows) or len({*names} & {*BODY_18}) < _FEWEST_NAMED:
        names = (_OPEN_POSE if person.open_pose else _COCO).get(len(rows), ())
    if rows and not names:
        raise _unknown(person, number, sum(map(len, rows)))
    joints: dict[str, Point] = {}
    for name, row in zip(names, rows, strict=True):
        if any(value is None for value in row):
            continue
        if not all(isinstance(value, int | float) and abs(value) <= _FARTHEST for value in row):
            raise BadImageError(
                f"figure {number} has its joint {name} at {list(row)}, which is not a position in a picture"
            )
        x, y, visibility = map(float, row)
        if visibility > 0 and name in _DRAWN:
            joints[name] = (x, y)
    return joints


_DRAWN = frozenset(BODY_18)


def _rows(person: Person, number: int) -> list[tuple[Any, Any, Any]]:
    """Return x, y and a third number of each joint."""
    values = person.values
    if not values:
        return []
    while isinstance(values, list) and len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    if not isinstance(values, list):
        raise BadImageError(f"figure {number} has keypoints that are not a list of numbers: {json.dumps(values)[:40]}")
    if all(isinstance(each, list) and len(each) in (2, 3) for each in values):
        rows = [tuple(each) for each in values]
    else:
        pairs = len(values) // 2 in {*_OPEN_POSE, len(person.names)} and len(values) % 3
        width = 2 if pairs else 3
        if len(values) % width or any(isinstance(each, list | dict) for each in values):
            raise _unknown(person, number, len(values))
        rows = [tuple(values[start : start + width]) for start in range(0, len(values), width)]
    if isinstance(person.scores, list) and len(person.scores) == len(rows):
        return [(*row[:2], score) for row, score in zip(rows, person.scores, strict=True)]
    return [row if len(row) == 3 else (*row, float(any(row))) for row in rows]


def _unknown(person: Person, number: int, count: int) -> BadImageError:
    if any(isinstance(each, dict) for each in person.values):
        return BadImageError(f"figure {number} has {count} objects as its keypoints instead of numbers")
    if person.open_pose:
        known = "OpenPose's 18 joints (x, y and confidence of each) nor its 25 or 15, nor COCO's 17 or 133"
    else:
        known = (
            "COCO's 17 joints (x, y and visibility of each) nor the 23, 26, 133 or 136 that begin with them; name "
            "other joints in a list `keypoint_names`"
        )
    return BadImageError(f"figure {number} has {count} numbers, which are neither {known}")


def _name(text: Any) -> str:
    """Normalise a joint's name: `Left Shoulder`, `LShoulder` and `l_shoulder` are `left_shoulder`."""
    name = re.sub(r"[\s-]+", "_", str(text).strip()).lower()
    short = _SHORT.fullmatch(name)
    return f"{'left' if short[1].startswith('l') else 'right'}_{short[2]}" if short else name


def _open_pose(content: Mapping[str, Any]) -> Sheet:
    people = []
    key = "people" if "people" in content else "bodies"
    for number, person in enumerate(_listed(content, key)):
        if person is None:
            continue
        keys = ("pose_keypoints_2d", "pose_keypoints", "joints")
        body = next((key for key in keys if isinstance(person, dict) and key in person), None)
        if body is None:
            raise BadImageError(f"figure {number} has no `pose_keypoints_2d`")
        people.append(Person(person[body], open_pose=True))  # may be empty, where only a hand is visible
    return Sheet(None, _size(content), tuple(people))


def _frames(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    frames = _listed(content, "instance_info")
    if not all(isinstance(each, dict) and isinstance(each.get("instances"), list) for each in frames):
        raise BadImageError("`instance_info` is not a list of `instances`")
    return frames


def _coco(content: Mapping[str, Any]) -> list[Sheet]:
    """Return the people by picture, in the order of `images`, then of the annotations."""
    pictures = [each for each in _listed(content, "images") if isinstance(each, dict)] if "images" in content else []
    annotations = [*_listed(content, "annotations")] if "annotations" in content else []
    for picture in pictures:  # OCHuman stores annotations within their picture
        inner = picture.get("annotations")
        annotations += [{"image_id": _id(picture), **each} for each in inner or [] if isinstance(each, dict)]
    known = [each for each in annotations if isinstance(each, dict)]
    # Objects without keypoints may be annotated as well as people.
    if any(each is not None for each in annotations) and not any("keypoints" in each for each in known):
        raise BadImageError("JSON, but no keypoints in it: neither COCO's `keypoints` nor OpenPose's `people`")
    of_category = {each.get("id"): each.get("keypoints") for each in _dicts(content.get("categories"))}
    of_all = content.get("keypoint_names")
    people: dict[str | None, list[Person]] = {_id(each): [] for each in pictures}
    only = next(iter(people)) if len(people) == 1 else None
    for each in known:
        if "keypoints" not in each:
            continue
        names = each.get("keypoint_names") or of_all or of_category.get(each.get("category_id")) or ()
        person = Person(each.get("keypoints"), each.get("keypoint_scores"), _names(names))
        of_picture = people.setdefault(_key(each["image_id"]) if "image_id" in each else only, [])
        if person.values:
            of_picture.append(person)
    about = {_id(each): each for each in pictures}
    sheets_by_picture = []
    for key, persons in people.items():
        picture = about.get(key, {})
        size = _size(picture) or _size(content)
        sheets_by_picture.append(Sheet(_file_name(picture.get("file_name"), key), size, tuple(persons)))
    return sheets_by_picture or [Sheet(None, _size(content), ())]


def _id(picture: Mapping[str, Any]) -> str | None:
    return next((_key(picture[key]) for key in ("id", "image_id", "file_name") if picture.get(key) is not None), None)


def _key(value: Any) -> str | None:
    return None if value is None else str(value)


def _file_name(given: Any, key: str | None) -> str | None:
    """Return a picture's relative path, by default from its number, as COCO names its pictures."""
    if not given and key is not None:
        given = key.zfill(12) if key.isdecimal() else key
    parts = [part for part in re.split(r"[/\\]", str(given or "")) if part not in ("", ".", "..")]
    name = "/".join(parts)
    if "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise BadImageError(f"{name!r} is not a file name")
    return name or None


def _names(given: Any) -> tuple[str, ...]:
    names = tuple(map(str, given)) if isinstance(given, list | tuple) else ()
    return () if names == JOINTS else names  # the default need not be stored per person


def _dicts(content: Any) -> Iterable[Mapping[str, Any]]:
    return [each for each in content if isinstance(each, dict)] if isinstance(content, list) else []


def _listed(content: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(content[key], list):
        raise BadImageError(f"`{key}` is not a list")
    return list(content[key])


def _size(about: Mapping[str, Any]) -> Size | None:
    """Return the picture's size, if it is stated."""
    for keys in (("width", "height"), ("canvas_width", "canvas_height")):
        if all(about.get(key) is not None for key in keys):
            width, height = (about[key] for key in keys)
            if not all(isinstance(side, int | float) and side == int(side) for side in (width, height)):
                raise BadImageError(f"the size {width!r} x {height!r} is not in whole pixels")
            try:
                return Size(int(width), int(height))
            except UsageError as error:
                raise BadImageError(str(error)) from error
    return None
