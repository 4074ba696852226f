"""Where figures are: parks, beaches and snow from the landscapes, a street, a room; and the figures placed there."""

from typing import NamedTuple

import numpy as np

from taming_cli.data.conditions.pose import Keypoints, paint_skeletons
from taming_cli.scenes import figure, landscape, skeleton
from taming_cli.scenes.brush import Brush
from taming_cli.scenes.canvas import LABEL, Bytes, Dice, Floats, Layers, ink, mix
from taming_cli.scenes.sky import Light

_NEAR = 3.4  # distance at which figures stand


class Peopled(NamedTuple):
    """A finished picture with figures: its layers, the skeletons on black, and each figure's joints."""

    layers: Layers
    pose: Bytes
    keypoints: list[Keypoints]


def paint(seed: int, label: str, width: int, height: int) -> Peopled:
    """Paint one or two people in a pose of this class, somewhere."""
    dice = Dice(seed, 11)
    somewhere = dice.pick(("park", "park", "beach", "snow", "evening", "desert", "street", "street", "room", "room"))
    if somewhere == "street":
        layers, light = _street(seed, width, height)
    elif somewhere == "room":
        layers, light = _room(seed, width, height)
    else:
        layers, light = _outdoors(seed, somewhere, width, height)
    brush = Brush(layers, light)
    pair = dice.chance(0.35) and label != "sitting"
    # All of a figure stays in the picture: its height, or in narrow pictures its reach to both sides, sets the size.
    size = min(dice.between(0.62, 0.74), 0.95 * width / height) * (
        0.86 if label in ("jumping", "cheering", "waving") else 1
    )
    size *= 0.62 if pair and width < 1.2 * height else 1.0
    room = max(0.0, width / height / 2 - 0.42 * size)
    spots = [-0.52 * room, 0.52 * room] if pair else [dice.between(-0.55, 0.55) * room]
    if pair and spots[1] - spots[0] < 0.7 * size:
        spots = [-0.36 * size, 0.36 * size]
    drawn = []
    for index, spot in enumerate(spots):
        tall = size * dice.between(0.93, 1.03)
        foot = (spot + dice.between(-0.03, 0.03) * room, 0.915 - 0.03 * dice.between(0, 1))
        wears, bent = figure.look(dice), skeleton.pose(label, dice)
        if label == "sitting":
            wears = wears._replace(legs="trousers" if wears.legs == "skirt" else wears.legs)
            _seat(brush, foot, tall, dice, bent)
        distance = _NEAR + 0.3 * (0.915 - foot[1])
        person = figure.paint(brush, wears, bent, foot, size=tall, distance=distance, first_part=1 + 20 * index)
        drawn.append((person, tall))
    joints = [figure.keypoints(person, brush) for person, _ in drawn]
    return Peopled(layers, paint_skeletons(joints, width, height, [tall * height for _, tall in drawn]), joints)


def _outdoors(seed: int, somewhere: str, width: int, height: int) -> landscape.Painted:
    """A landscape whose foreground is level and free."""
    dice = Dice(seed, 12)
    label = {"park": "day", "beach": "coast", "snow": "winter", "evening": "sunset", "desert": "desert"}[somewhere]
    wanted = landscape.plan(label, dice)
    place = wanted.place._replace(canopy=9.0)
    place = place._replace(shore=18.0) if label == "coast" else place._replace(water="")
    if label == "day":
        place = place._replace(woods=max(place.woods, 0.45))
    hour = wanted.hour if label in ("day", "coast", "desert") else ("golden" if label == "sunset" else wanted.hour)
    horizon, up = dice.between(0.5, 0.6), dice.between(1.3, 1.7)
    return landscape.paint(seed, wanted._replace(place=place, horizon=horizon, up=up, hour=hour), width, height)


def _seat(brush: Brush, foot: tuple[float, float], tall: float, dice: Dice, bent: skeleton.Pose) -> None:
    """A stool, crate or bench whose top is where the sitter's thighs rest."""
    at = skeleton.skeleton(bent)
    top = foot[1] - (float(at["pelvis"][1]) - 0.055) * tall
    middle = foot[0] + float(at["pelvis"][0] + 0.35 * (at["right_knee"][0] + at["left_knee"][0])) * tall * 0.5
    wide = dice.between(0.13, 0.2) * tall
    colour = ink(dice.pick(("#a8713f", "#7d4f9a", "#c2543f", "#4a7f8a", "#8a5a34")))
    brush.shadow((middle, foot[1] - 0.01), wide * 1.7, 0.035, 0.7)
    distance = _NEAR + 0.15
    if dice.chance(0.5):
        block = brush.box(middle - wide, top, middle + wide, foot[1] - 0.012, 0.012)
        brush.fill(*block, colour * 0.8, "furniture", distance, round_over=0.02)
    else:
        for x in (-0.8, 0.8):
            leg = brush.capsule((middle + x * wide * 0.85, top), (middle + x * wide, foot[1] - 0.015), 0.011, 0.009)
            brush.fill(*leg, colour * 0.6, "furniture", distance, round_over=0.01)
    board = brush.box(middle - wide * 1.08, top - 0.006, middle + wide * 1.08, top + 0.03, 0.012)
    brush.fill(*board, colour, "furniture", distance, round_over=0.02)


def _blank(width: int, height: int) -> Layers:
    return Layers(
        np.zeros((height, width, 3), np.float32),
        np.zeros((height, width), np.uint8),
        np.full((height, width), np.inf, np.float32),
    )


def _floor(layers: Layers, first: float, colour: Floats, label: str, wall: float) -> None:
    """Ground from row `first` (picture heights) down, nearer toward the bottom; `wall` is its distance at `first`."""
    height = len(layers.labels)
    row = int(np.floor(first * height + 0.5))
    y = (np.arange(row, height) + 0.5) / height
    horizon = first - 0.12
    z = wall * (first - horizon) / (y - horizon)
    layers.light[row:] = colour
    layers.labels[row:] = LABEL[label]
    layers.distance[row:] = z[:, None]


def _street(seed: int, width: int, height: int) -> tuple[Layers, Light]:
    """House fronts over a pavement, with trees and sky."""
    dice = Dice(seed, 13)
    hour = dice.pick(("noon", "golden", "overcast", "golden"))
    horizon = dice.between(0.52, 0.6)
    wanted = landscape.plan("day", dice)
    far = wanted.place._replace(water="", canopy=7.0, woods=0.7)
    layers, light = landscape.paint(seed, wanted._replace(place=far, hour=hour, horizon=horizon, up=1.6), width, height)
    brush = Brush(layers, light)
    kerb = horizon + dice.between(0.13, 0.17)
    left = -max(1.6, width / height) / 2 - 0.3
    x = left
    lit = brush.flat()
    while x < -left:
        wide = dice.between(0.24, 0.42)
        tall = dice.between(0.36, 0.62)
        colour = ink(dice.pick(("#c4694f", "#d9b48a", "#a9b7b0", "#cf9a52", "#8d9db8", "#e0d2bd", "#b98a8a")))
        if not dice.chance(0.18):  # now and then a gap shows what is behind
            _house(brush, dice, (x, kerb - tall, x + wide, kerb), colour, lit)
        x += wide
    tone = 0.9 + 0.2 * dice.between(0, 1)
    _floor(layers, kerb, ink("#a79d90") * lit * tone * 0.9, "path", 7.0)
    _flags(layers, kerb, lit)
    brush.fill(*brush.box(left, kerb - 0.008, -left, kerb + 0.01), ink("#7e766c") * lit, "path", 7.0)
    return layers, light


def _flags(layers: Layers, first: float, lit: Floats) -> None:
    """Joints between paving stones, in perspective, faded where they are finer than a pixel."""
    height, width = layers.labels.shape
    row = int(np.floor(first * height + 0.5))
    z = layers.distance[row:, :1]
    x = ((np.arange(width) + 0.5 - width / 2) / height)[None, :] * z
    pixel = z / height

    def joint(at: Floats, blur: Floats) -> Floats:
        line = np.abs(at - np.floor(at) - 0.5)
        return np.clip((0.03 - (0.5 - line)) / np.maximum(blur, 0.012) + 0.5, 0, 1) * np.clip(0.12 / blur, 0, 1)

    slabs = z * 1.6
    shift = np.floor(slabs) % 2 * 0.5
    lines = np.maximum(
        joint(x * 0.9 + shift, pixel * 0.9), joint(slabs, np.abs(np.gradient(slabs[:, 0]))[:, None] + 1e-6)
    )
    shades = (
        0.94 + 0.12 * np.modf(np.abs(np.sin(np.floor(x * 0.9 + shift) * 12.99 + np.floor(slabs) * 78.2) * 437.5))[0]
    )
    ground = layers.light[row:]
    ground *= shades[..., None].astype(np.float32)
    ground[:] = mix(ground, ink("#5f574e") * lit, (0.55 * lines)[..., None])


def _house(brush: Brush, dice: Dice, box: tuple[float, float, float, float], colour: Floats, lit: Floats) -> None:
    """One house front in the box (left, top, right, foot): wall, cornice, windows, door."""
    x0, top, x1, foot = box
    tall = foot - top
    storeys, bays = max(1, int(tall / 0.15)), dice.pick((2, 3))
    trim = ink(dice.pick(("#f0eadc", "#5a4a40", "#dcd4c4")))
    glass = dice.pick(("#5b7f99", "#35516b", "#8fb0bf"))
    door = ink(dice.pick(("#7a2f2f", "#2f5a4a", "#34466f", "#6b4a2a")))
    brush.fill(*brush.box(x0, top, x1, foot), colour * lit, "building", 7.5)
    brush.fill(*brush.box(x0 - 0.006, top - 0.012, x1 + 0.006, top + 0.012), trim * lit, "building", 7.5)
    bay, storey = (x1 - x0) / bays, (tall - 0.03) / storeys
    for j in range(storeys):
        for i in range(bays):
            cx, y = x0 + (i + 0.5) * bay, top + 0.03 + j * storey
            if j == storeys - 1 and i == bays // 2:
                brush.fill(*brush.box(cx - 0.036, foot - 0.118, cx + 0.036, foot), trim * lit, "building", 7.5)
                brush.fill(*brush.box(cx - 0.028, foot - 0.11, cx + 0.028, foot), door * lit, "building", 7.5)
                continue
            w, h = min(0.036, bay * 0.3), storey * 0.62
            brush.fill(
                *brush.box(cx - w - 0.006, y - 0.006, cx + w + 0.006, y + h + 0.008), trim * lit, "building", 7.5
            )
            pane = brush.box(cx - w, y, cx + w, y + h)
            if pane[0] is not None:  # panes mirror the sky, lighter above
                fade = np.clip((y + h - pane[0].y) / h, 0, 1)[..., None]
                brush.fill(*pane, ink(glass) * lit * (0.55 + 0.6 * fade), "building", 7.5)
            brush.fill(*brush.box(cx - 0.003, y, cx + 0.003, y + h), trim * lit, "building", 7.5)


def _room(seed: int, width: int, height: int) -> tuple[Layers, Light]:
    """A wall with a window onto a landscape, a floor, a rug, a plant and a lamp."""
    dice = Dice(seed, 14)
    label = dice.pick(("day", "lake", "winter", "sunset", "coast"))
    view, light = landscape.paint(seed, landscape.plan(label, dice), width, height)
    inside = light._replace(
        ambient=mix(light.ambient, ink("#c8c0b8"), 0.6) * 0.75, beam=mix(light.beam, ink("#fff0d8"), 0.5) * 0.8
    )
    layers = _blank(width, height)
    brush = Brush(layers, inside)
    lit = brush.flat()
    skirting = dice.between(0.72, 0.77)
    wall = ink(dice.pick(("#e6d5b8", "#b9cdd0", "#d8b9b0", "#b8c4a4", "#c9bfd6", "#e8e0d4", "#8fa9b5")))
    u = ((np.arange(width) + 0.5 - width / 2) / height)[None, :, None]
    y = ((np.arange(height) + 0.5) / height)[:, None, None]
    side = -1.0 if dice.chance(0.5) else 1.0
    window = side * dice.between(0.12, 0.3)
    fall = np.exp(-((u - window) ** 2 + (y - 0.35) ** 2) * 1.2)
    layers.light[:] = wall * lit * (0.72 + 0.32 * fall)
    layers.labels[:] = LABEL["wall"]
    layers.distance[:] = 6.0
    if dice.chance(0.5):  # panelling below
        brush.fill(*brush.box(-2.5, skirting - 0.16, 2.5, skirting), ink("#f2ede4") * lit * 0.85, "wall", 6.0)
    wood = ink(dice.pick(("#a5713f", "#7d5230", "#c29a66", "#8a6a50")))
    _floor(layers, skirting, wood * lit * 0.85, "floor", 6.0)
    _boards(layers, skirting)
    brush.fill(*brush.box(-2.5, skirting - 0.03, 2.5, skirting), ink("#f4efe6") * lit * 0.9, "wall", 6.0)
    half, top, sill = dice.between(0.17, 0.23), dice.between(0.09, 0.14), dice.between(0.5, 0.56)
    frame = ink("#f7f3ea") * lit
    brush.fill(*brush.box(window - half - 0.02, top - 0.02, window + half + 0.02, sill + 0.02), frame, "wall", 6.0)
    pane = brush.box(window - half, top, window + half, sill)
    if pane[0] is not None:  # what is seen outside keeps its labels and its distance
        at, glass = pane[0].at, pane[1] < 0
        cover = np.clip(0.5 - pane[1] / brush.pixel, 0, 1)[..., None]
        layers.light[at] = mix(layers.light[at], view.light[at], cover)
        layers.labels[at] = np.where(glass, view.labels[at], layers.labels[at])
        layers.distance[at] = np.where(glass, np.maximum(view.distance[at], 8.0), layers.distance[at])
    for bar in (brush.box(window - 0.006, top, window + 0.006, sill),
                brush.box(window - half, (top + sill) / 2 - 0.006, window + half, (top + sill) / 2 + 0.006),
                brush.box(window - half - 0.035, sill + 0.012, window + half + 0.035, sill + 0.032)):  # fmt: skip
        brush.fill(*bar, frame, "wall", 6.0)
    _furnish(brush, dice, lit, -side, skirting)
    return layers, inside


def _boards(layers: Layers, first: float) -> None:
    """Floor boards that run away from the camera."""
    height, width = layers.labels.shape
    row = int(np.floor(first * height + 0.5))
    z = layers.distance[row:, :1]
    x = ((np.arange(width) + 0.5 - width / 2) / height)[None, :] * z * 2.2
    shade = 0.86 + 0.28 * np.modf(np.abs(np.sin(np.floor(x) * 12.99) * 437.5))[0]
    edge = 0.5 - np.abs(x - np.floor(x) - 0.5)
    seam = np.clip(1 - edge / np.maximum(0.03, z * 2.2 / height), 0, 1) * np.clip(0.1 * height / (z * 2.2), 0, 1)
    layers.light[row:] *= (shade * (1 - 0.4 * seam))[..., None].astype(np.float32)


def _furnish(brush: Brush, dice: Dice, lit: Floats, side: float, skirting: float) -> None:
    """A picture on the wall, a lamp or a plant below it, and a rug."""
    x = side * dice.between(0.26, 0.34)
    art = [ink(dice.pick(("#d9603b", "#e8b04a", "#3f7f8c", "#2f4858", "#f0e6d2", "#8c4a5e"))) for _ in range(3)]
    brush.fill(*brush.box(x - 0.095, 0.16, x + 0.095, 0.4), ink("#4a3a2c") * lit, "wall", 5.95)
    brush.fill(*brush.box(x - 0.083, 0.172, x + 0.083, 0.388), art[0] * lit, "wall", 5.95)
    brush.fill(*brush.box(x - 0.083, 0.31, x + 0.083, 0.388), art[1] * lit, "wall", 5.95)
    brush.fill(*brush.ellipse((x + 0.02, 0.27), 0.036, 0.036), art[2] * lit, "wall", 5.95)
    rug = ink(dice.pick(("#b5483f", "#3f5f8a", "#d0a85a", "#5f7f6a")))
    for grow, colour in ((1.0, rug), (0.86, ink("#efe4cc")), (0.8, rug * 0.85)):
        brush.fill(*brush.ellipse((0.0, 0.9), 0.46 * grow, 0.075 * grow), colour * lit * 0.85, "floor", None)
    x = side * dice.between(0.42, 0.52)
    brush.shadow((x, skirting + 0.03), 0.1, 0.022, 0.6)
    if dice.chance(0.5):
        pot = [
            (x - 0.05, skirting - 0.08),
            (x + 0.05, skirting - 0.08),
            (x + 0.036, skirting + 0.03),
            (x - 0.036, skirting + 0.03),
        ]
        green = ink(dice.pick(("#3f7d45", "#5a8f3c", "#2f6b52")))
        for k in range(13):
            turn, reach = -0.5 * np.pi + (k - 6) * 0.2, dice.between(0.13, 0.24)
            tip = (x + float(np.cos(turn)) * reach * 0.75, skirting - 0.09 + float(np.sin(turn)) * reach)
            blade = brush.capsule((x, skirting - 0.08), tip, 0.008, 0.019)
            brush.fill(*blade, green * dice.between(0.7, 1.2), "furniture", 5.5, round_over=0.02)
        brush.fill(*brush.polygon(pot, 0.006), ink("#c46a45"), "furniture", 5.5, round_over=0.05)
    else:
        brush.fill(
            *brush.capsule((x, 0.36), (x, skirting + 0.02), 0.006, 0.006),
            ink("#3a3430"),
            "furniture",
            5.5,
            round_over=0.006,
        )
        brush.fill(
            *brush.ellipse((x, skirting + 0.024), 0.05, 0.012), ink("#3a3430"), "furniture", 5.5, round_over=0.02
        )
        shade = [(x - 0.045, 0.27), (x + 0.045, 0.27), (x + 0.075, 0.38), (x - 0.075, 0.38)]
        brush.fill(*brush.polygon(shade, 0.004), ink("#ffe6b0") * 1.1, "furniture", 5.5)
