"""The skeleton of a person, bent into a pose in space."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taming_cli.scenes.canvas import Dice

# Lengths in body heights.
_SHOULDER, _HIP, _TORSO = 0.1, 0.058, 0.285


_ARM, _FOREARM, _THIGH, _SHIN = 0.165, 0.15, 0.245, 0.24


class Pose(NamedTuple):
    """Angles in degrees. A limb's pair is (forward, outward) from hanging straight down, each limb for itself."""

    yaw: float = 0.0  # 0 faces the camera, 90 the right of the picture
    pitch: float = 0.0  # of the torso, forward
    roll: float = 0.0  # of the torso, to the person's right
    arms: tuple[tuple[float, float], tuple[float, float]] = ((0, 8), (0, 8))  # upper arms, right and left
    forearms: tuple[tuple[float, float], tuple[float, float]] = ((12, 5), (12, 5))
    thighs: tuple[tuple[float, float], tuple[float, float]] = ((0, 4), (0, 4))
    shins: tuple[tuple[float, float], tuple[float, float]] = ((0, 2), (0, 2))
    lift: float = 0.0  # of the feet above the ground, body heights


def pose(label: str, dice: Dice) -> Pose:
    """Draw a pose of one of the figure classes."""

    def near(angle: float, spread: float = 8) -> float:
        return angle + dice.between(-spread, spread)

    side = dice.chance(0.5)
    way = 1 if dice.chance(0.5) else -1

    def pair(
        a: tuple[float, float], b: tuple[float, float], spread: float = 8
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        first = (near(a[0], spread), near(a[1], spread / 2))
        second = (near(b[0], spread), near(b[1], spread / 2))
        return (first, second) if side else (second, first)

    if label == "walking":
        s = dice.between(18, 32)
        return Pose(
            way * dice.between(35, 92), near(3, 3), 0, pair((-s, 7), (s, 7)), pair((-s + 22, 5), (s + 26, 3)),
            pair((s, 2), (-s * 0.8, 2), 4), pair((s * 0.55, 0), (-s * 1.7, 0), 5),
        )  # fmt: skip
    if label == "running":
        return Pose(
            way * dice.between(50, 92), near(14, 5), 0, pair((-52, 10), (38, 8)), pair((38, 2), (118, 0)),
            pair((66, 2), (-22, 2)), pair((-18, 0), (-82, 0)), dice.between(0.01, 0.06),
        )  # fmt: skip
    if label == "jumping":
        tuck = dice.between(20, 70)
        return Pose(
            way * dice.between(0, 40), near(2, 5), near(0, 5), pair((0, 140), (0, 128), 18),
            pair((0, 160), (0, 145), 18), pair((tuck * 0.6, 24), (tuck * 0.4, 28)),
            pair((-tuck, 14), (-tuck * 0.9, 18)), dice.between(0.1, 0.2),
        )  # fmt: skip
    if label == "dancing":
        return Pose(
            way * dice.between(0, 50), near(0, 6), near(0, 14), pair((0, 152), (0, 62), 22),
            pair((0, 190), (0, 118), 28), pair((22, 26), (0, 8), 10), pair((-22, 2), (0, 4), 10), dice.between(0, 0.02),
        )  # fmt: skip
    if label == "waving":
        return Pose(
            way * dice.between(0, 35), 0, near(0, 3), pair((0, 108), (0, 9), 10), pair((4, 168), (14, 4), 14),
            pair((0, 5), (0, 5), 3), pair((0, 3), (0, 3), 3),
        )  # fmt: skip
    if label == "sitting":
        return Pose(
            way * dice.between(28, 85), near(4, 6), 0, pair((24, 10), (28, 8)), pair((62, -4), (70, -4)),
            pair((84, 9), (84, 7), 4), pair((0, 5), (8, 3), 9),
        )  # fmt: skip
    if label == "cheering":
        return Pose(
            way * dice.between(0, 30), near(-3, 3), 0, pair((0, 138), (0, 138), 14), pair((0, 158), (0, 158), 14),
            pair((0, 13), (0, 13), 6), pair((0, 9), (0, 9), 5),
        )  # fmt: skip
    if dice.chance(0.5):  # the warrior
        return Pose(
            way * dice.between(0, 22), 0, 0, pair((0, 89), (0, 91), 6), pair((0, 90), (0, 90), 6),
            pair((8, 52), (0, 36), 5), pair((0, 2), (0, 34), 4),
        )  # fmt: skip
    return Pose(  # the side bend
        way * dice.between(0, 22), 0, 22 if side else -22, pair((0, 35), (0, 172), 6), pair((0, 14), (0, 196), 6),
        pair((0, 13), (0, 13), 4), pair((0, 12), (0, 12), 4),
    )  # fmt: skip


def _turn(angle: float) -> tuple[float, float]:
    return float(np.cos(np.radians(angle))), float(np.sin(np.radians(angle)))


def skeleton(bent: Pose) -> dict[str, NDArray[np.float64]]:
    """Joints in space: x to the picture's right, y up from the ground, z toward the camera; body heights."""
    c, s = _turn(bent.yaw)
    ahead, right, up = np.array([s, 0, c]), np.array([-c, 0, s]), np.array([0.0, 1.0, 0.0])
    cp, sp = _turn(bent.pitch)
    cr, sr = _turn(bent.roll)
    spine = cp * (cr * up + sr * right) + sp * ahead
    across = cr * right - sr * up
    face = cp * ahead - sp * up
    at: dict[str, NDArray[np.float64]] = {"pelvis": np.zeros(3)}
    at["chest"] = spine * _TORSO
    for index, (name, sign) in enumerate((("right", 1.0), ("left", -1.0))):

        def along(angles: tuple[float, float], sign: float = sign) -> NDArray[np.float64]:
            (cf, sf), (co, so) = _turn(angles[0]), _turn(angles[1])
            return np.asarray(so * sign * right + co * (sf * ahead - cf * up))

        at[f"{name}_shoulder"] = at["chest"] + across * (sign * _SHOULDER)
        at[f"{name}_elbow"] = at[f"{name}_shoulder"] + along(bent.arms[index]) * _ARM
        at[f"{name}_wrist"] = at[f"{name}_elbow"] + along(bent.forearms[index]) * _FOREARM
        at[f"{name}_hand"] = at[f"{name}_wrist"] + along(bent.forearms[index]) * 0.035
        at[f"{name}_hip"] = right * (sign * _HIP) - up * 0.01
        at[f"{name}_knee"] = at[f"{name}_hip"] + along(bent.thighs[index]) * _THIGH
        at[f"{name}_ankle"] = at[f"{name}_knee"] + along(bent.shins[index]) * _SHIN
        shin = along(bent.shins[index])
        toe = ahead - shin * float(ahead @ shin) + sign * 0.25 * right
        at[f"{name}_toe"] = at[f"{name}_ankle"] + shin * 0.022 + toe / np.linalg.norm(toe) * 0.085
        at[f"{name}_heel"] = at[f"{name}_ankle"] + shin * 0.022
    at["neck"] = at["chest"] + spine * 0.02
    head = at["chest"] + spine * 0.135 + face * 0.012
    at["head"], at["nose"] = head, head + face * 0.05 - spine * 0.008
    for name, sign in (("right", 1.0), ("left", -1.0)):
        at[f"{name}_eye"] = head + face * 0.044 + across * (sign * 0.022) + spine * 0.012
        at[f"{name}_ear"] = head + across * (sign * 0.05)
    floor = min(float(at[f"{side}_{part}"][1]) for side in ("left", "right") for part in ("heel", "toe")) - 0.018
    shift = np.array([0.0, bent.lift - floor, 0.0])
    return {name: place + shift for name, place in at.items()}
