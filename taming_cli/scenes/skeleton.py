"""The skeleton of a person in a pose. Lengths are body heights, angles degrees."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taming_cli.scenes.canvas import Dice

Joints = dict[str, NDArray[np.float64]]
"""Places in space by name: x to the picture's right, y up from the ground, z toward the camera."""


class _Stance(NamedTuple):
    """What the poses of a class have in common. Angles of limbs vary by +-spread, of the torso by half of that."""

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
    """Draw a pose of one of the figure classes; the person stands on the ground at x = z = 0."""
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

    for index, (side, sign) in enumerate((("right", 1.0), ("left", -1.0))):

        def along(limb: int, index: int = index, sign: float = sign) -> NDArray[np.float64]:
            forward, outward = stance.limbs[4 * limb + (0 if (index == 0) == right_first else 2) :][:2]
            cf, sf = _turn(forward + dice.between(-spread, spread))
            co, so = _turn(outward + dice.between(-spread, spread) / 2)
            return np.asarray(so * sign * right + co * (sf * ahead - cf * up))

        shoulder = at[f"{side}_shoulder"] = at["chest"] + 0.1 * sign * across
        elbow = at[f"{side}_elbow"] = shoulder + 0.165 * along(0)
        forearm = along(1)
        at[f"{side}_wrist"], at[f"{side}_hand"] = elbow + 0.15 * forearm, elbow + 0.185 * forearm
        hip = at[f"{side}_hip"] = 0.058 * sign * right - 0.01 * up
        knee = at[f"{side}_knee"] = hip + 0.245 * along(2)
        shin = along(3)
        at[f"{side}_ankle"], heel = knee + 0.24 * shin, knee + 0.262 * shin
        toe = ahead - shin * float(ahead @ shin) + 0.25 * sign * right
        at[f"{side}_heel"], at[f"{side}_toe"] = heel, heel + toe / np.linalg.norm(toe) * 0.085
        at[f"{side}_eye"] = head + 0.044 * face + 0.022 * sign * across + 0.012 * spine
        at[f"{side}_ear"] = head + 0.05 * sign * across
    lift = dice.between(0.5, 1) * stance.lift - lowest(at)
    return {name: place + lift * up for name, place in at.items()}


def lowest(at: Joints) -> float:
    """Return the height of the soles above the ground."""
    return min(float(at[name][1]) for name in ("left_heel", "right_heel", "left_toe", "right_toe")) - 0.018
