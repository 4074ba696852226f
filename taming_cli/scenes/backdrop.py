"""Scenes with figures: a landscape, a street or a room, and one or two people in front of it."""

from functools import partial

import numpy as np

from taming_cli.data.conditions.skeletons import Keypoints, paint_skeletons
from taming_cli.scenes import figure, landscape
from taming_cli.scenes.brush import Brush, Point, box, capsule, ellipse, polygon
from taming_cli.scenes.canvas import LABEL, Bytes, Dice, Floats, Layers, blank, ink, mix
from taming_cli.scenes.trees import frond

_NEAR = 3.4  # distance at which figures stand
_FOOT = 0.915  # lowest position of their feet, in picture heights from the top


def paint(seed: int, label: str, width: int, height: int) -> tuple[Layers, Bytes, list[Keypoints]]:
    """Paint one or two people in a pose of class `label`; returns layers, skeletons (H, W, 3) on black, and joints."""
    dice, aspect = Dice(seed, 11), width / height
    place = dice.pick(("day", "day", "coast", "winter", "sunset", "desert", "street", "street", "room", "room"))
    surroundings = {"street": _street, "room": _room}.get(place, partial(_outdoors, place))
    brush = surroundings(seed, width, height)
    pair = dice.chance(0.35) and label != "sitting"
    # A figure stays inside the picture: its height, or in narrow pictures its reach to both sides, limits its size.
    size = min(dice.between(0.62, 0.74), 0.95 * aspect) * (0.86 if label in ("jumping", "cheering", "waving") else 1)
    size *= 0.62 if pair and aspect < 1.2 else 1.0
    room = max(0.0, aspect / 2 - 0.42 * size)
    apart = max(0.52 * room, 0.36 * size if 1.04 * room < 0.7 * size else 0.0)
    joints, sizes = [], []
    for index, spot in enumerate((-apart, apart) if pair else (dice.between(-0.55, 0.55) * room,)):
        tall = size * dice.between(0.93, 1.03)
        foot = (spot + dice.between(-0.03, 0.03) * room, _FOOT - 0.03 * dice.between(0, 1))
        look, pose = figure.look(dice), figure.pose(label, dice)
        if label == "sitting":
            look = look._replace(legs="trousers" if look.legs == "skirt" else look.legs)
            _seat(brush, foot, tall, dice, pose)
        joints.append(figure.paint(brush, look, pose, foot, size=tall, distance=_NEAR + 0.3 * (_FOOT - foot[1]),
                                   first_part=1 + 20 * index))  # fmt: skip
        sizes.append(tall * height)
    return brush.layers, paint_skeletons(joints, width, height, sizes), joints


def _outdoors(label: str, seed: int, width: int, height: int) -> Brush:
    """Paint a landscape whose foreground is level and free."""
    dice = Dice(seed, 12)
    place = landscape.plan(label, dice)
    place = place._replace(
        canopy=9.0, woods=max(place.woods, 0.45) if label == "day" else place.woods,
        shore=18.0, water="sea" if label == "coast" else "", hour="golden" if label == "sunset" else place.hour,
        horizon=dice.between(0.5, 0.6), up=dice.between(1.3, 1.7),
    )  # fmt: skip
    return landscape.paint(seed, place, width, height)


def _seat(brush: Brush, foot: Point, tall: float, dice: Dice, at: figure.Joints) -> None:
    """Paint a crate or bench whose top is where the sitter's thighs rest."""
    top = foot[1] - (float(at["pelvis"][1]) - 0.055) * tall
    middle = foot[0] + float(at["pelvis"][0] + 0.35 * (at["right_knee"][0] + at["left_knee"][0])) * tall * 0.5
    wide, colour = dice.between(0.13, 0.2) * tall, dice.ink("#a8713f", "#7d4f9a", "#c2543f", "#4a7f8a", "#8a5a34")
    brush.shadow((middle, foot[1] - 0.01), wide * 1.7, 0.035, 0.7)
    for x in dice.pick(((0.0,), (-0.8, 0.8))):  # a crate, or the legs of a bench
        wood = box((middle + x * wide, (top + foot[1]) / 2), 0.012 if x else wide, (foot[1] - top) / 2 - 0.006, 0.012)
        brush.fill(wood, colour * np.float32(0.7), "furniture", _NEAR + 0.15, round_over=0.02)
    board = box((middle, top + 0.012), 1.08 * wide, 0.018, 0.012)
    brush.fill(board, colour, "furniture", _NEAR + 0.15, round_over=0.02)


def _ground(layers: Layers, first: float, colour: Floats, label: str, *, wall: float, stones: Point) -> None:
    """Paint paved ground from row `first` (picture heights), at distance `wall`, to the bottom.

    `stones` are the stones per unit of length across and along; every other row of them is shifted by half a stone.
    """
    across, along = stones
    height, width = layers.labels.shape
    row = int(np.floor(first * height + 0.5))
    z = wall * 0.12 / ((np.arange(row, height)[:, None] + 0.5) / height - first + 0.12)
    v = z * along
    u = ((np.arange(width) + 0.5 - width / 2) / height) * z * across + np.floor(v) % 2 * 0.5
    lines = np.zeros_like(u)  # joints are 6 % of a stone wide, or a pixel wide and lighter
    for at, pixel in ((u, z * across / height), (v, np.abs(np.gradient(v, axis=0)) + 1e-6)):
        far = 0.5 - np.abs(at - np.floor(at) - 0.5)
        joint = np.clip((0.03 - far) / np.maximum(pixel, 0.012) + 0.5, 0, np.minimum(0.12 / pixel, 1))
        lines = np.maximum(lines, joint)
    tone = 0.9 + 0.2 * np.modf(np.abs(np.sin(np.floor(u) * 12.99 + np.floor(v) * 78.2) * 437.5))[0]
    layers.picture[row:] = colour * (tone * (1 - 0.4 * lines))[..., None]
    layers.labels[row:], layers.distance[row:] = LABEL[label], z


def _street(seed: int, width: int, height: int) -> Brush:
    """Paint house fronts behind a pavement, with trees and sky."""
    dice = Dice(seed, 13)
    hour, horizon = dice.pick(("noon", "golden", "overcast", "golden")), dice.between(0.52, 0.6)
    place = landscape.plan("day", dice)._replace(water="", canopy=7.0, woods=0.7, hour=hour, horizon=horizon, up=1.6)
    brush = landscape.paint(seed, place, width, height)
    kerb, end = horizon + dice.between(0.13, 0.17), max(1.6, width / height) / 2 + 0.3
    x = -end
    while x < end:
        wide, tall = dice.between(0.24, 0.42), dice.between(0.36, 0.62)
        if not dice.chance(0.18):  # some gaps show the landscape
            _house(brush, dice, x, kerb - tall, wide, kerb)
        x += wide
    tone = np.float32(0.81 + 0.18 * dice.between(0, 1))
    _ground(brush.layers, kerb, ink("#a79d90") * brush.flat * tone, "path", wall=7.0, stones=(0.9, 1.6))
    brush.block((0, kerb), end, 0.009, ink("#7e766c"), label="path", distance=7.0)
    return brush


def _house(brush: Brush, dice: Dice, x0: float, top: float, wide: float, foot: float) -> None:
    """Paint one house front: wall, cornice, windows and a door."""
    storeys, bays = max(1, int((foot - top) / 0.15)), dice.pick((2, 3))
    wall = dice.ink("#c4694f", "#d9b48a", "#a9b7b0", "#cf9a52", "#8d9db8", "#e0d2bd", "#b98a8a")
    trim, glass = dice.ink("#f0eadc", "#5a4a40", "#dcd4c4"), dice.ink("#5b7f99", "#35516b", "#8fb0bf")
    wood, bay, storey = dice.ink("#7a2f2f", "#2f5a4a", "#34466f", "#6b4a2a"), wide / bays, (foot - top - 0.03) / storeys
    block = partial(brush.block, label="building", distance=7.5)
    block((x0 + wide / 2, (top + foot) / 2), wide / 2, (foot - top) / 2, wall)
    block((x0 + wide / 2, top), wide / 2 + 0.006, 0.012, trim)
    rx, ry = min(0.036, bay * 0.3), storey * 0.31
    for number in range(storeys * bays):
        x, y = x0 + (number % bays + 0.5) * bay, top + 0.03 + number // bays * storey + ry
        if number == storeys * bays - (bays + 1) // 2:
            block((x, foot - 0.059), 0.036, 0.059, trim)
            block((x, foot - 0.055), 0.028, 0.055, wood)
            continue
        block((x, y), rx + 0.006, ry + 0.007, trim)
        block((x, y), rx, ry, 0.7 * glass)
        block((x, y - ry / 2), rx, ry / 2, glass)  # panes mirror the sky, lighter above
        block((x, y), 0.003, ry, trim)


def _room(seed: int, width: int, height: int) -> Brush:
    """Paint a wall with a window onto a landscape, a floor and some furniture."""
    dice = Dice(seed, 14)
    place = landscape.plan(dice.pick(("day", "lake", "winter", "sunset", "coast")), dice)
    view = landscape.paint(seed, place, width, height)
    ambient, beam = mix(view.light.ambient, ink("#c8c0b8"), 0.6) * 0.75, mix(view.light.beam, ink("#fff0d8"), 0.5) * 0.8
    brush = Brush(blank(width, height), view.light._replace(ambient=ambient, beam=beam))
    layers, lit, white = brush.layers, brush.flat, ink("#f7f3ea")
    wall = dice.ink("#e6d5b8", "#b9cdd0", "#d8b9b0", "#b8c4a4", "#c9bfd6", "#e8e0d4", "#8fa9b5")
    floor, side = dice.between(0.72, 0.77), dice.pick((-1.0, 1.0))
    x = side * dice.between(0.12, 0.3)
    at, u, v = brush.window((-9, 0, 9, 1))
    layers.picture[at] = wall * lit * (0.72 + 0.32 * np.exp(-((u - x) ** 2 + (v - 0.35) ** 2) * 1.2))[..., None]
    layers.labels[at], layers.distance[at] = LABEL["wall"], 6.0
    if dice.chance(0.5):  # panelling
        brush.block((0, floor - 0.08), 2.5, 0.08, white * 0.85)
    wood = dice.ink("#a5713f", "#7d5230", "#c29a66", "#8a6a50") * 0.85
    _ground(layers, floor, wood * lit, "floor", wall=6.0, stones=(2.2, 0.4))
    brush.block((0, floor - 0.015), 2.5, 0.015, white * 0.9)
    rx, top, sill = dice.between(0.17, 0.23), dice.between(0.09, 0.14), dice.between(0.5, 0.56)
    y, ry = (top + sill) / 2, (sill - top) / 2
    brush.block((x, y), rx + 0.02, ry + 0.02, white)
    pane = box((x, y), rx, ry)
    at, u, v = brush.window(pane.box)
    glass = pane.field(u, v) < 0
    brush.fill(pane, view.layers.picture[at])  # the landscape keeps its labels and distance
    layers.labels[at][glass] = view.layers.labels[at][glass]
    layers.distance[at][glass] = np.maximum(view.layers.distance[at][glass], 8.0)
    brush.block((x, y), 0.006, ry, white)
    brush.block((x, y), rx, 0.006, white)
    brush.block((x, sill + 0.022), rx + 0.035, 0.01, white)
    _furnish(brush, dice, -side, floor + 0.03)
    return brush


def _furnish(brush: Brush, dice: Dice, side: float, foot: float) -> None:
    """Paint a picture on the wall, a rug, and a plant or a lamp that stands at `foot`."""
    lit, x = brush.flat, side * dice.between(0.26, 0.34)
    art = [dice.ink("#d9603b", "#e8b04a", "#3f7f8c", "#2f4858", "#f0e6d2", "#8c4a5e") for _ in range(3)]
    frame = (0.28, 0.095, 0.12, ink("#4a3a2c"))
    for y, rx, ry, colour in (frame, (0.28, 0.083, 0.108, art[0]), (0.349, 0.083, 0.039, art[1])):
        brush.block((x, y), rx, ry, colour, distance=5.95)
    brush.fill(ellipse((x + 0.02, 0.27), 0.036, 0.036), art[2] * lit, "wall", 5.95)
    rug = dice.ink("#b5483f", "#3f5f8a", "#d0a85a", "#5f7f6a")
    for grow, colour in ((1.0, rug), (0.86, ink("#efe4cc")), (0.8, rug * 0.85)):
        brush.fill(ellipse((0.0, 0.9), 0.46 * grow, 0.075 * grow), colour * lit * 0.85, "floor")
    x = side * dice.between(0.42, 0.52)
    brush.shadow((x, foot), 0.1, 0.022, 0.6)
    if dice.chance(0.5):
        green = dice.ink("#3f7d45", "#5a8f3c", "#2f6b52")
        for turn in np.linspace(-1.2, 1.2, 13):
            reach, tone = dice.between(0.13, 0.24), np.float32(dice.between(0.7, 1.2))
            across, rise = float(np.sin(turn)) * reach * 0.8, float(np.cos(turn)) * reach + 0.05
            frond(brush, (x, foot - 0.11), across, rise, 0.05, 0.02, green * tone, "furniture", 5.5)
        pot = polygon([(x - 0.05, foot - 0.11), (x + 0.05, foot - 0.11), (x + 0.036, foot), (x - 0.036, foot)], 0.006)
        brush.fill(pot, ink("#c46a45"), "furniture", 5.5, round_over=0.05)
    else:
        for part in (capsule((x, 0.36), (x, foot - 0.01), 0.006, 0.006), ellipse((x, foot - 0.006), 0.05, 0.012)):
            brush.fill(part, ink("#3a3430"), "furniture", 5.5, round_over=0.01)
        shade = polygon([(x - 0.045, 0.27), (x + 0.045, 0.27), (x + 0.075, 0.38), (x - 0.075, 0.38)], 0.004)
        brush.fill(shade, ink("#ffe6b0") * 1.1, "furniture", 5.5)
