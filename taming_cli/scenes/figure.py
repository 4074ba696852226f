"""People: a pose, clothes, and a drawing limb by limb from far to near.

Lengths of a skeleton are body heights, its angles degrees.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taming_cli.data.conditions.keypoints import JOINTS
from taming_cli.data.conditions.skeletons import Keypoints
from taming_cli.scenes.brush import Brush, Field, Point, Shape, capsule, ellipse, polygon
from taming_cli.scenes.canvas import Dice, Floats, ink, mix

Joints = dict[str, NDArray[np.float64]]
"""Positions in space by name: x to the picture's right, y up from the ground, z toward the camera."""


class _Stance(NamedTuple):
    """A pose before its random variation: +-spread for angles of limbs, half of that for those of the torso."""

    yaw: tuple[float, float]  # range; 0 faces the camera, 90 the right of the picture
    pitch: float  # of the torso, forward
    roll: float  # of the torso, to the side of the first limb of each pair
    lift: float  # of the feet above the ground, at most
    spread: float
    limbs: tuple[float, ...]
    """(forward, outward) from hanging straight down, of one limb and the other: upper arms, forearms, thighs, shins."""


_STANCES = {
    "walking": [_Stance((35, 92), 3, 0, 0, 7, (-25, 7, 25, 7, -3, 5, 51, 3, 25, 2, -20, 2, 14, 0, -42, 0))],
    "running": [_Stance((50, 92), 14, 0, 0.06, 8, (-52, 10, 38, 8, 38, 2, 118, 0, 66, 2, -22, 2, -18, 0, -82, 0))],
    "jumping": [_Stance((0, 40), 2, 0, 0.2, 16, (0, 140, 0, 128, 0, 160, 0, 145, 27, 24, 18, 28, -45, 14, -40, 18))],
    "dancing": [_Stance((0, 50), 0, 0, 0.02, 18, (0, 152, 0, 62, 0, 190, 0, 118, 22, 26, 0, 8, -22, 2, 0, 4))],
    "waving": [_Stance((0, 35), 0, 0, 0, 6, (0, 108, 0, 9, 4, 168, 14, 4, 0, 5, 0, 5, 0, 3, 0, 3))],
    "sitting": [_Stance((28, 85), 4, 0, 0, 7, (24, 10, 28, 8, 62, -4, 70, -4, 84, 9, 84, 7, 0, 5, 8, 3))],
    "cheering": [_Stance((0, 30), -3, 0, 0, 10, (0, 138, 0, 138, 0, 158, 0, 158, 0, 13, 0, 13, 0, 9, 0, 9))],
    "stretching": [
        _Stance((0, 22), 0, 0, 0, 5, (0, 89, 0, 91, 0, 90, 0, 90, 8, 52, 0, 36, 0, 2, 0, 34)),  # the warrior
        _Stance((0, 22), 0, 22, 0, 5, (0, 35, 0, 172, 0, 14, 0, 196, 0, 13, 0, 13, 0, 12, 0, 12)),  # the side bend
    ],
}


def _turn(angle: float) -> tuple[float, float]:
    return float(np.cos(np.radians(angle))), float(np.sin(np.radians(angle)))


def pose(label: str, dice: Dice) -> Joints:
    """Pick a pose of one of FIGURES; the person stands on the ground at x = z = 0."""
    right_first, way, stance = dice.chance(0.5), dice.pick((-1, 1)), dice.pick(_STANCES[label])
    spread = stance.spread
    cy, sy = _turn(way * dice.between(*stance.yaw))
    cp, sp = _turn(stance.pitch + dice.between(-spread, spread) / 2)
    cr, sr = _turn((stance.roll if right_first else -stance.roll) + dice.between(-spread, spread) / 2)
    ahead, right, up = np.array([sy, 0, cy]), np.array([-cy, 0, sy]), np.array([0.0, 1.0, 0.0])
    spine = cp * (cr * up + sr * right) + sp * ahead
    across, face = cr * right - sr * up, cp * ahead - sp * up
    at: Joints = {"pelvis": np.zeros(3), "chest": 0.285 * spine, "neck": 0.305 * spine}
    head = at["head"] = 0.42 * spine + 0.012 * face
    at["nose"] = head + 0.05 * face - 0.008 * spine

    def direction(angles: NDArray[np.int64], sign: float) -> NDArray[np.float64]:
        cf, sf = _turn(angles[0] + dice.between(-spread, spread))
        co, so = _turn(angles[1] + dice.between(-spread, spread) / 2)
        return np.asarray(so * sign * right + co * (sf * ahead - cf * up))

    limbs = np.reshape(stance.limbs, (4, 2, 2))[:, :: 1 if right_first else -1]
    for index, (side, sign) in enumerate((("right", 1.0), ("left", -1.0))):
        arm, forearm, thigh, shin = (direction(angles, sign) for angles in limbs[:, index])
        shoulder = at[f"{side}_shoulder"] = at["chest"] + 0.1 * sign * across
        elbow = at[f"{side}_elbow"] = shoulder + 0.165 * arm
        at[f"{side}_wrist"], at[f"{side}_hand"] = elbow + 0.15 * forearm, elbow + 0.185 * forearm
        hip = at[f"{side}_hip"] = 0.058 * sign * right - 0.01 * up
        knee = at[f"{side}_knee"] = hip + 0.245 * thigh
        at[f"{side}_ankle"], heel = knee + 0.24 * shin, knee + 0.262 * shin
        toe = ahead - shin * float(ahead @ shin) + 0.25 * sign * right
        at[f"{side}_heel"], at[f"{side}_toe"] = heel, heel + toe / np.linalg.norm(toe) * 0.085
        at[f"{side}_eye"] = head + 0.044 * face + 0.022 * sign * across + 0.012 * spine
        at[f"{side}_ear"] = head + 0.05 * sign * across
    lift = dice.between(0.5, 1) * stance.lift - _lowest(at)
    return {name: place + lift * up for name, place in at.items()}


def _lowest(at: Joints) -> float:
    """Return the height of the soles above the ground."""
    return min(float(at[name][1]) for name in ("left_heel", "right_heel", "left_toe", "right_toe")) - 0.018


# Parts of a figure: a joint is hidden where none of its own parts is on top.
_TORSO, _HEAD = 1, 10
_ARM, _LEG = {"right": 2, "left": 6}, {"right": 3, "left": 7}

# Hair behind the head: a capsule from (ax * back, ay) to (bx * back, by) as ax, ay, bx, by and its radii.
_BACK_HAIR = {"long": (1.0, 0.0, 2.2, 0.1, 0.066, 0.05), "bun": (1.6, -0.085, 1.6, -0.085, 0.031, 0.031),
              "tail": (2.5, -0.03, 4.5, 0.06, 0.026, 0.014)}  # fmt: skip


class Look(NamedTuple):
    """One person's clothes and hair: colours by label, the style of the hair, the lengths of sleeves and legs."""

    colours: dict[str, Floats]
    hair: str
    sleeves: str
    legs: str
    striped: bool


def look(dice: Dice) -> Look:
    """Pick a person's clothes and hair."""
    colours = {
        "skin": ("#f2c9a5", "#e0a97e", "#c68a5e", "#9a623f", "#6e432c", "#ffd9bd"),
        "hair": ("#2a1c14", "#4a2f1c", "#8a5a2b", "#c99a4a", "#1a1a1e", "#a33c22", "#9a9a9a"),
        "top": ("#d9423a", "#2f7fc1", "#f2c230", "#3a9a6a", "#f5f1e6", "#7a4fa3", "#ef7d32", "#e88aa6", "#2b3550"),
        "bottom": ("#2f4a7a", "#3a3a44", "#8a7350", "#5a6b46", "#20242c", "#7a3240", "#c9bfa8", "#4a78a8"),
        "shoes": ("#f0f0f0", "#26262b", "#b03a2e", "#7a5230"),
    }
    return Look({label: dice.ink(*choices) for label, choices in colours.items()},
                dice.pick(("short", "short", "long", "bun", "tail", "curls")),
                dice.pick(("short", "long", "short", "none")),
                dice.pick(("trousers", "trousers", "shorts", "skirt")), dice.chance(0.25))  # fmt: skip


class _Item(NamedTuple):
    """One shape of a figure; depth grows toward the camera, thickness is in body heights."""

    depth: float
    part: int
    shape: Shape
    label: str
    thickness: float


def paint(
    brush: Brush, wears: Look, at: Joints, foot: Point, *, size: float, distance: float, first_part: int
) -> Keypoints:
    """Draw a person `size` picture heights tall who stands at `foot`; returns COCO's 17 joints in pixels.

    The numbers of the parts begin at `first_part`.
    """
    # The camera looks down slightly: nearer points lie lower.
    points = {k: (foot[0] + float(p[0]) * size, foot[1] - float(p[1] - 0.1 * p[2]) * size) for k, p in at.items()}
    colours: dict[str, Floats | Field] = dict(wears.colours)
    if wears.striped:
        colours["top"] = _striped(wears.colours["top"], points["chest"][1], size, brush.pixel)
    _cast_shadow(brush, points, foot, size, _lowest(at))
    for item in sorted(_body(wears, at, points, size), key=lambda item: item.depth):
        brush.fill(item.shape, colours[item.label], item.label, distance, round_over=1.1 * item.thickness * size,
                   outline=0.016 * size, part=first_part + item.part)  # fmt: skip
    _face(brush, wears, at, points, size=size, distance=distance, part=first_part + _HEAD)
    joints: Keypoints = []
    for name in JOINTS:
        x, y = points[name][0] * brush.height + brush.width / 2, points[name][1] * brush.height
        inside = 0 <= x < brush.width and 0 <= y < brush.height
        own = inside and int(brush.parts[int(y), int(x)]) - first_part in _parts_of(name, at)
        joints.append((x, y, 2.0 if own else 1.0) if inside else (0.0, 0.0, 0.0))
    return joints


def _parts_of(name: str, at: Joints) -> tuple[int, ...]:
    """Return the parts that a joint belongs to: it is visible where one of them is on top."""
    side, _, joint = name.rpartition("_")
    if joint in ("elbow", "wrist", "ankle"):
        return ((_LEG if joint == "ankle" else _ARM)[side],)
    if joint in ("shoulder", "hip", "knee"):
        return ((_ARM if joint == "shoulder" else _LEG)[side], _TORSO)
    return () if at[name][2] < at["head"][2] - 0.02 else (_HEAD,)  # the far side of the head


def _striped(cloth: Floats, middle: float, size: float, pixel: float) -> Field:
    """Return the colour of a shirt with white stripes, which blend where they are finer than a pixel."""

    def colour(x: Floats, y: Floats) -> Floats:
        band = np.sin((y - middle) / size * 130)[..., None]
        return mix(cloth, ink("#f6f2ea"), np.clip(band / max(0.35, 130 * pixel / size) + 0.5, 0, 1))

    return colour


def _cast_shadow(brush: Brush, points: dict[str, Point], foot: Point, size: float, lift: float) -> None:
    strength = 0.75 / (1 + 6 * lift)
    for name, radius in (("left_ankle", 0.1), ("right_ankle", 0.1), ("pelvis", 0.14)):
        wide = radius * size * (1 + 2 * lift)
        brush.shadow((points[name][0], foot[1] - 0.004), wide, 0.24 * wide, strength)
    away = -float(np.sign(brush.light.direction[0]))
    for k in range(1, 5):  # the body's shadow
        place = (points["pelvis"][0] + away * 0.075 * k * size, foot[1] - 0.016 * k * size)
        brush.shadow(place, 0.1 * size, 0.03 * size, 0.3 * strength)


def _body(wears: Look, at: Joints, points: dict[str, Point], size: float) -> list[_Item]:
    """Return the limbs, the torso and the hair behind the head."""
    items: list[_Item] = []

    def limb(start: str, end: str, ra: float, rb: float, label: str, lean: float, part: int) -> None:
        shape = capsule(points[start], points[end], ra * size, rb * size)
        items.append(_Item(float(at[start][2] + at[end][2]) / 2 + lean, part, shape, label, max(ra, rb)))

    sleeve, cuff = ("skin" if wears.sleeves == "none" else "top"), ("top" if wears.sleeves == "long" else "skin")
    thigh, calf = ("skin" if wears.legs == "skirt" else "bottom"), ("bottom" if wears.legs == "trousers" else "skin")
    hem = []
    for side in ("right", "left"):
        arm, leg = _ARM[side], _LEG[side]
        limb(f"{side}_wrist", f"{side}_hand", 0.022, 0.021, "skin", 0.045, arm)
        limb(f"{side}_elbow", f"{side}_wrist", 0.027, 0.021, cuff, 0.04, arm)
        limb(f"{side}_shoulder", f"{side}_elbow", 0.036, 0.028, sleeve, 0.035, arm)
        limb(f"{side}_heel", f"{side}_toe", 0.024, 0.018, "shoes", -0.02, leg)
        limb(f"{side}_knee", f"{side}_ankle", 0.038, 0.024, calf, -0.03, leg)
        limb(f"{side}_hip", f"{side}_knee", 0.056, 0.039, thigh, -0.025, leg)
        (hx, hy), (kx, ky) = points[f"{side}_hip"], points[f"{side}_knee"]
        hem.append((hx + 0.72 * (kx - hx), hy + 0.72 * (ky - hy)))
    limb("neck", "head", 0.028, 0.026, "skin", -0.004, _TORSO)
    ring = [points[joint] for joint in ("left_shoulder", "right_shoulder", "right_hip", "left_hip")]
    depth = float(at["chest"][2] + at["pelvis"][2]) / 2
    items.append(_Item(depth, _TORSO, polygon(ring, 0.042 * size), "top", 0.07))
    if wears.legs == "skirt":
        (ax, ay), (bx, by) = sorted(hem)
        flare = polygon([*sorted(ring[2:]), (bx + 0.03 * size, by), (ax - 0.03 * size, ay)], 0.04 * size)
        items.append(_Item(float(at["pelvis"][2]) - 0.004, _TORSO, flare, "bottom", 0.07))
    if wears.hair in _BACK_HAIR:  # behind the whole body when the face is in front
        turned, _, toward = (at["nose"] - at["head"]) / 0.05
        (x, y), back = points["head"], -0.02 * float(turned)
        ax, ay, bx, by, ra, rb = (size * number for number in _BACK_HAIR[wears.hair])
        behind = float(at["head"][2]) - (0.12 if toward > -0.2 else -0.12)
        shape = capsule((x + ax * back, y + ay), (x + bx * back, y + by), ra, rb)
        items.append(_Item(behind, _HEAD, shape, "hair", 0.04))
    return items


def _face(
    brush: Brush, wears: Look, at: Joints, points: dict[str, Point], *, size: float, distance: float, part: int
) -> None:
    """Draw the head: hair, and a face where it is turned toward the camera."""
    (x, y), (turned, _, toward) = points["head"], (float(v) for v in (at["nose"] - at["head"]) / 0.05)
    skin, hair = wears.colours["skin"], wears.colours["hair"]

    def spot(across: float, down: float, rx: float, ry: float, colour: Floats, label: str, thickness: float) -> None:
        shape = ellipse((x + across * size, y + down * size), rx * size, ry * size)
        outline = 0.012 * size if thickness else 0.0
        brush.fill(shape, colour, label, distance, round_over=thickness * size, outline=outline, part=part)

    spot(-0.01 * turned, -0.012, 0.073 if wears.hair == "curls" else 0.064, 0.076, hair, "hair", 0.06)
    if toward < -0.35:
        return
    spot(0.017 * turned, 0.014, 0.05 - 0.008 * abs(turned), 0.062, skin, "skin", 0.06)
    spot(0.007 * turned, -0.046, 0.05, 0.026, hair, "hair", 0.05)
    for side in ("left", "right"):
        if at[f"{side}_eye"][2] - at["head"][2] > 0.008:
            eye = points[f"{side}_eye"]
            spot((eye[0] - x) / size, (eye[1] - y) / size + 0.002, 0.0062, 0.0085, ink("#241a18"), "skin", 0.0)
    lips = skin * np.array([0.62, 0.3, 0.3], np.float32)
    spot(0.045 * turned, 0.043, 0.016 - 0.008 * abs(turned), 0.0055, lips, "skin", 0.0)
