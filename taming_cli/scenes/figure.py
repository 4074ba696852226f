"""People: a skeleton, dressed, and drawn limb by limb from far to near."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taming_cli.data.conditions.keypoints import JOINTS
from taming_cli.data.conditions.pose import Keypoints
from taming_cli.scenes.brush import Brush, Patch, Point
from taming_cli.scenes.canvas import Dice, Floats, ink
from taming_cli.scenes.skeleton import Pose, skeleton

_SKINS = ("#f2c9a5", "#e0a97e", "#c68a5e", "#9a623f", "#6e432c", "#ffd9bd")


_HAIRS = ("#2a1c14", "#4a2f1c", "#8a5a2b", "#c99a4a", "#1a1a1e", "#a33c22", "#9a9a9a")


_TOPS = ("#d9423a", "#2f7fc1", "#f2c230", "#3a9a6a", "#f5f1e6", "#7a4fa3", "#ef7d32", "#e88aa6", "#2b3550", "#46b5b0")


_BOTTOMS = ("#2f4a7a", "#3a3a44", "#8a7350", "#5a6b46", "#20242c", "#7a3240", "#c9bfa8", "#4a78a8")


_SHOES = ("#f0f0f0", "#26262b", "#b03a2e", "#7a5230")


class Look(NamedTuple):
    """How one person is dressed."""

    skin: Floats
    hair: Floats
    top: Floats
    bottom: Floats
    shoes: Floats
    style: str  # of the hair
    sleeves: str
    legs: str
    stripes: bool


def look(dice: Dice) -> Look:
    """Draw someone's looks."""
    return Look(
        ink(dice.pick(_SKINS)),
        ink(dice.pick(_HAIRS)),
        ink(dice.pick(_TOPS)),
        ink(dice.pick(_BOTTOMS)),
        ink(dice.pick(_SHOES)),
        dice.pick(("short", "short", "long", "bun", "tail", "curls")),
        dice.pick(("short", "long", "short", "none")),
        dice.pick(("trousers", "trousers", "shorts", "skirt")),
        dice.chance(0.25),
    )


class Drawn(NamedTuple):
    """A figure on the picture: its joints in picture heights (x from the middle, y down) with their visibility."""

    points: dict[str, Point]
    hidden: frozenset[str]


def paint(
    brush: Brush, wears: Look, bent: Pose, foot: Point, *, size: float, distance: float, first_part: int
) -> Drawn:
    """Draw a person `size` picture heights tall, standing at `foot`; parts are numbered from `first_part`."""
    at = skeleton(bent)
    # Seen slightly from above: what is nearer stands lower.
    points = {k: (foot[0] + float(p[0]) * size, foot[1] - float(p[1] - 0.1 * p[2]) * size) for k, p in at.items()}
    _cast_shadow(brush, points, foot, size, bent.lift)
    _Person(brush, wears, at, points, size=size, distance=distance, first_part=first_part).draw()
    hidden = _hidden(brush, at, points, first_part)
    return Drawn(points, hidden)


def _cast_shadow(brush: Brush, points: dict[str, Point], foot: Point, size: float, lift: float) -> None:
    strength = 0.75 / (1 + 6 * lift)
    for name in ("left_ankle", "right_ankle", "pelvis"):
        wide = (0.14 if name == "pelvis" else 0.1) * size * (1 + 2 * lift)
        brush.shadow((points[name][0], foot[1] - 0.004), wide, wide * 0.24, strength)
    reach = -float(np.sign(brush.light.direction[0]))
    for k in range(1, 5):  # the body's shadow, lying away from the sun
        at = (points["pelvis"][0] + reach * 0.075 * k * size, foot[1] - 0.016 * k * size)
        brush.shadow(at, 0.1 * size, 0.03 * size, strength * 0.3)


class _Person:
    """The parts of one figure, each a shape with a depth; drawn from far to near."""

    def __init__(
        self,
        brush: Brush,
        wears: Look,
        at: dict[str, NDArray[np.float64]],
        points: dict[str, Point],
        *,
        size: float,
        distance: float,
        first_part: int,
    ) -> None:
        self.brush, self.wears, self.at, self.points = brush, wears, at, points
        self.size, self.distance, self.first = size, distance, first_part
        self.todo: list[tuple[float, int, tuple[Patch | None, Floats], Floats, str, float]] = []

    def limb(self, joints: str, radii: Point, cloth: tuple[Floats, str], lean: float, part: int) -> None:
        """Note a limb for drawing: "from to" joints, radii in body heights, colour and label, depth added, part."""
        a, b = joints.split()
        ra, rb = radii
        colour, label = cloth
        depth = float(self.at[a][2] + self.at[b][2]) / 2 + lean
        shape = self.brush.capsule(self.points[a], self.points[b], ra * self.size, rb * self.size)
        self.todo.append((depth, part, shape, colour, label, max(ra, rb)))

    def draw(self) -> None:
        w = self.wears
        skin, top, bottom = (w.skin, "skin"), (w.top, "top"), (w.bottom, "bottom")
        sleeve, cuff = (skin if w.sleeves == "none" else top), (top if w.sleeves == "long" else skin)
        leg, calf = (skin if w.legs == "skirt" else bottom), (bottom if w.legs == "trousers" else skin)
        for side, arm, limb in (("right", 2, 3), ("left", 6, 7)):
            self.limb(f"{side}_wrist {side}_hand", (0.022, 0.021), skin, 0.045, arm)
            self.limb(f"{side}_elbow {side}_wrist", (0.027, 0.021), cuff, 0.04, arm)
            self.limb(f"{side}_shoulder {side}_elbow", (0.036, 0.028), sleeve, 0.035, arm)
            self.limb(f"{side}_heel {side}_toe", (0.024, 0.018), (w.shoes, "shoes"), -0.02, limb)
            self.limb(f"{side}_knee {side}_ankle", (0.038, 0.024), calf, -0.03, limb)
            self.limb(f"{side}_hip {side}_knee", (0.056, 0.039), leg, -0.025, limb)
        self.limb("neck head", (0.028, 0.026), skin, -0.004, 1)
        self._back_hair()
        if w.legs == "skirt":
            self._skirt()
        ring = ("left_shoulder", "right_shoulder", "right_hip", "left_hip")
        shape = self.brush.polygon([self.points[joint] for joint in ring], 0.042 * self.size)
        depth = float(self.at["chest"][2] + self.at["pelvis"][2]) / 2
        self.todo.append((depth, 1, shape, self._cloth(shape), "top", 0.07))
        for _, part, (patch, field), colour, label, thick in sorted(self.todo, key=lambda item: item[0]):
            self.brush.fill(
                patch, field, colour, label, self.distance, round_over=thick * 1.1 * self.size,
                outline=0.016 * self.size, part=self.first + part,
            )  # fmt: skip
        self._head()

    def _back_hair(self) -> None:
        """What hangs or stands behind the head, at its own depth: behind the body when the face is in front."""
        w, size, (x, y) = self.wears, self.size, self.points["head"]
        face = (self.at["nose"] - self.at["head"]) / 0.05
        back = -float(face[0]) * 0.02 * size
        depth = float(self.at["head"][2]) - (0.12 if face[2] > -0.2 else -0.12)
        if w.style == "long":
            shape, thick = (
                self.brush.capsule((x + back, y), (x + 2.2 * back, y + 0.1 * size), 0.066 * size, 0.05 * size),
                0.05,
            )
        elif w.style == "bun":
            shape, thick = self.brush.ellipse((x + 1.6 * back, y - 0.085 * size), 0.032 * size, 0.03 * size), 0.03
        elif w.style == "tail":
            tip = (x + 4.5 * back, y + 0.06 * size)
            shape = self.brush.capsule((x + 2.5 * back, y - 0.03 * size), tip, 0.026 * size, 0.014 * size)
            thick = 0.03
        else:
            return
        self.todo.append((depth, 10, shape, w.hair, "hair", thick))

    def _skirt(self) -> None:
        knees = [self.points[f"{side}_knee"] for side in ("left", "right")]
        hips = [self.points[f"{side}_hip"] for side in ("left", "right")]
        hem = []
        for (kx, ky), (hx, hy) in zip(knees, hips, strict=True):
            hem.append((hx + (kx - hx) * 0.72, hy + (ky - hy) * 0.72))
        hem.sort()
        hips.sort()
        flare = 0.03 * self.size
        shape = self.brush.polygon(
            [hips[0], hips[1], (hem[1][0] + flare, hem[1][1]), (hem[0][0] - flare, hem[0][1])], 0.04 * self.size
        )
        self.todo.append((float(self.at["pelvis"][2]) - 0.004, 1, shape, self.wears.bottom, "bottom", 0.07))

    def _cloth(self, shape: tuple[Patch | None, Floats]) -> Floats:
        """The top's colour, striped where the look says so."""
        if not self.wears.stripes or shape[0] is None:
            return self.wears.top
        band = np.sin((shape[0].y - self.points["chest"][1]) / self.size * 130)[..., None]
        blend = np.clip(band / max(0.35, 130 * self.brush.pixel / self.size) + 0.5, 0, 1)
        return np.asarray(self.wears.top + (ink("#f6f2ea") - self.wears.top) * blend, np.float32)

    def _head(self) -> None:
        w, size, brush = self.wears, self.size, self.brush
        x, y = self.points["head"]
        face = (self.at["nose"] - self.at["head"]) / 0.05
        turned, toward = float(face[0]), float(face[2])
        part = self.first + 10

        def round_shape(shape: tuple[Patch | None, Floats], colour: Floats, label: str, thick: float) -> None:
            brush.fill(*shape, colour, label, self.distance, round_over=thick * size, outline=0.012 * size, part=part)

        back = -turned * 0.02 * size
        grow = 0.073 if w.style == "curls" else 0.064
        round_shape(brush.ellipse((x + 0.5 * back, y - 0.012 * size), grow * size, 0.076 * size), w.hair, "hair", 0.06)
        if toward < -0.35:
            return
        shift = turned * 0.017 * size
        wide = (0.05 - 0.008 * abs(turned)) * size
        round_shape(brush.ellipse((x + shift, y + 0.014 * size), wide, 0.062 * size), w.skin, "skin", 0.06)
        fringe = (x + shift * 0.4, y - 0.046 * size)
        round_shape(brush.ellipse(fringe, 0.05 * size, 0.026 * size), w.hair, "hair", 0.05)
        dark = ink("#241a18")
        for side in ("left", "right"):
            if self.at[f"{side}_eye"][2] - self.at["head"][2] > 0.008:
                ex, ey = self.points[f"{side}_eye"]
                dot = brush.ellipse((ex, ey + 0.002 * size), 0.0062 * size, 0.0085 * size)
                brush.fill(*dot, dark, "skin", self.distance, part=part)
        mouth = (x + turned * 0.045 * size, y + 0.043 * size)
        smile = brush.ellipse(mouth, (0.016 - 0.008 * abs(turned)) * size, 0.0055 * size)
        brush.fill(*smile, w.skin * np.array([0.62, 0.3, 0.3], np.float32), "skin", self.distance, part=part)


# A joint is visible when the part on top of it is one it belongs to: numbers as given in `_Person.draw`.
_OWNERS: dict[str, tuple[int, ...]] = {
    "shoulder": (1,), "elbow": (), "wrist": (), "hip": (1,), "knee": (1,), "ankle": (),
    "nose": (10,), "eye": (10,), "ear": (10,),
}  # fmt: skip


def _hidden(brush: Brush, at: dict[str, NDArray[np.float64]], points: dict[str, Point], first: int) -> frozenset[str]:
    hidden = set()
    for name in JOINTS:
        side, _, joint = name.rpartition("_")
        own = set(_OWNERS[joint])
        if joint in ("shoulder", "elbow", "wrist"):
            own.add(2 if side == "right" else 6)
        elif joint in ("hip", "knee", "ankle"):
            own.add(3 if side == "right" else 7)
        elif at[name][2] < at["head"][2] - 0.02:
            own = set()  # on the far side of the head
        x, y = points[name]
        column, row = int(np.floor(x * brush.height + brush.width / 2)), int(np.floor(y * brush.height))
        if 0 <= row < brush.height and 0 <= column < brush.width and int(brush.parts[row, column]) - first not in own:
            hidden.add(name)
    return frozenset(hidden)


def keypoints(drawn: Drawn, brush: Brush) -> Keypoints:
    """COCO's 17 joints in pixels, with visibility."""
    found: Keypoints = []
    for name in JOINTS:
        x = drawn.points[name][0] * brush.height + brush.width / 2
        y = drawn.points[name][1] * brush.height
        inside = 0 <= x < brush.width and 0 <= y < brush.height
        found.append((x, y, 1.0 if name in drawn.hidden else 2.0) if inside else (0.0, 0.0, 0.0))
    return found
