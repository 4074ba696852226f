"""Trees: a few are drawn for each scene, and copies of different size, side and tint are planted over the land."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from taming_cli.scenes.brush import Brush, Point, Shape, capsule, ellipse, polygon
from taming_cli.scenes.canvas import LABEL, Dice, Floats, Layers, blank, ink, mix, smoothstep
from taming_cli.scenes.noise import Noise
from taming_cli.scenes.sky import Light
from taming_cli.scenes.terrain import Site, veil
from taming_cli.scenes.view import Camera, Land

_SNOW, _EVERGREEN = ink("#f2f6fb"), ink("#2b5034")


class _Kind(NamedTuple):
    """A kind of tree. Lengths are tree heights; positions are measured from the top."""

    width: float  # of its picture
    bark: str
    foot: float  # radius of the stem at the ground
    fork: float  # where the stem ends
    branch: float = 0.0  # length of the first branches
    spread: float = 0.0  # angle between branches, in radians
    forks: int = 2
    middle: float = 0.0  # centre of the crown
    crown: Point = (0.0, 0.0)  # its half width and half height
    clump: float = 0.0  # radius of a clump of leaves
    clumps: int = 0
    flat: float = 0.9  # height / width of a clump


_KINDS = {
    "spruce": _Kind(0.5, "#5a4636", 0.02, 0.2),
    "palm": _Kind(0.9, "#8f7656", 0.018, 0.32),
    "pine": _Kind(0.62, "#8a5a3c", 0.021, 0.42, 0.17, 0.7, 2, 0.24, (0.24, 0.2), 0.085, 16, 0.62),
    "broadleaf": _Kind(0.95, "#6a5442", 0.032, 0.62, 0.2, 0.75, 2, 0.36, (0.35, 0.3), 0.12, 30),
    "poplar": _Kind(0.36, "#6a5442", 0.016, 0.8, 0.2, 0.14, 2, 0.46, (0.1, 0.42), 0.07, 28),
    "birch": _Kind(0.6, "#e4dfd4", 0.013, 0.6, 0.2, 0.35, 2, 0.38, (0.2, 0.33), 0.075, 28),
    "bare": _Kind(0.9, "#6a5442", 0.026, 0.66, 0.21, 0.5, 4),
}


Sprite = list[Floats]
"""A drawn tree: pictures (h, w, 4) as in `Layers`, each half the size of the one before."""


class Tree(NamedTuple):
    """One planted tree: its foot at (x, base, z), its height `size`, the number of its sprite, and its tint, (3,)."""

    x: float
    z: float
    base: float
    size: float
    sprite: int
    mirrored: bool
    tint: Floats


def draw(place: Site, number: int, dice: Dice, noise: Noise, light: Light, size: int) -> Sprite:
    """Draw a tree `size` pixels tall, of the kind that is number `number` in the place's cycle of kinds."""
    name = place.trees[number % len(place.trees)]
    leaf = (_EVERGREEN if name in ("spruce", "pine") else place.leaf) * np.float32(dice.between(0.8, 1.25))
    kind = _KINDS[name]
    layers = blank(max(8, int(size * kind.width)), size, 4)
    brush = Brush(layers, light)
    _, x, y = brush.window((-1, 0, 1, 1))
    bumps = noise.value(36 * x + dice.between(0, 99), 36 * y) - np.float32(0.5)
    pen = _Pen(kind, brush, dice, bumps, leaf, 0.9 if place.ground == "snow" else 0.0)
    {"spruce": _spruce, "palm": _palm}.get(name, _crowned)(pen)
    sprite = [layers.picture]
    while min(sprite[-1].shape[:2]) > 3:
        sprite.append(cv2.resize(sprite[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return sprite


class _Pen(NamedTuple):
    """Draws the parts of one tree."""

    kind: _Kind
    brush: Brush
    dice: Dice
    bumps: Floats  # noise over the picture, -0.5 to 0.5
    leaf: Floats
    snow: float

    def limb(self, a: Point, b: Point, ra: float, rb: float) -> None:
        bark = mix(ink(self.kind.bark), _SNOW, 0.1 * self.snow)
        self.brush.fill(capsule(a, b, ra, rb), bark, round_over=2 * max(ra, rb))

    def leaves(self, shape: Shape, size: float, tone: float, snowline: float = 0.45) -> None:
        """Fill a shape with leaves of `size`; snow lies above `snowline`, a share of the shape's height."""
        colour, (_, top, _, foot) = self.leaf * np.float32(tone), shape.box
        bumps = self.bumps[self.brush.window(shape.box)[0]] * np.float32(0.35 * size)

        def ragged(x: Floats, y: Floats) -> Floats:
            return shape.field(x, y) + bumps

        def snowy(x: Floats, y: Floats) -> Floats:
            high = smoothstep(snowline, snowline - 0.35, (y - top) / (foot - top))
            return mix(colour, _SNOW, self.snow * high[..., None])

        self.brush.fill(Shape(shape.box, ragged), snowy if self.snow else colour, round_over=size)


def _spruce(pen: _Pen) -> None:
    """Draw tiers of drooping branches around a straight stem, the lowest first."""
    between = pen.dice.between
    pen.limb((0, pen.kind.fork), (0, 1), 0.008, pen.kind.foot)
    tiers, spread, droop = int(between(8, 13)), between(0.17, 0.24), between(0.1, 0.3)
    for tier in range(tiers)[::-1]:
        y = (0.95 * tier + between(0.9, 1.3)) / tiers * 0.95
        half = spread * y**0.85 * between(0.85, 1.15)
        skirt = polygon([(0, max(y - 2.2 / tiers, 0)), (half, y), (0, y - droop * half), (-half, y)])
        pen.leaves(skirt, 0.07, between(0.85, 1.1), 0.75)


def _palm(pen: _Pen) -> None:
    """Draw a bent stem and a head of hanging fronds."""
    kind, bend = pen.kind, pen.dice.between(-0.22, 0.22)
    for a, b in pairwise([(bend * s * s, 1 - (1 - kind.fork) * s) for s in np.linspace(0, 1, 8)]):
        pen.limb(a, b, kind.foot, 0.8 * kind.foot)
    for k in range(11):
        turn = k / 11 * 2 * np.pi + 0.3 * pen.dice.between(-1, 1)
        reach = 0.2 + 0.13 * abs(np.cos(turn))
        across, rise = float(np.cos(turn)) * reach, float(np.sin(turn)) * reach * 0.55
        frond(pen.brush, (bend, kind.fork), across, rise, pen.dice.between(0.15, 0.32), 0.023, pen.leaf * 1.25)


def frond(
    brush: Brush, root: Point, across: float, rise: float, droop: float, thick: float, colour: Floats, label: str = "",
    distance: float | None = None,
) -> None:  # fmt: skip
    """Draw one long leaf that grows `across` and `rise` from its root and hangs by `droop` at its tip."""
    places = [(root[0] + across * s, root[1] - rise * s + droop * s * s) for s in np.linspace(0, 1, 7)]
    for k, (a, b) in enumerate(pairwise(places)):
        radius = thick * (1.05 - (k / 6) ** 2)
        brush.fill(capsule(a, b, radius, 0.8 * radius), colour, label, distance, round_over=2 * radius)


def _crowned(pen: _Pen) -> None:
    """Draw a stem, branches that fork, and clumps of leaves, the far ones first."""
    kind, lean, many = pen.kind, pen.dice.between(-0.04, 0.04), pen.dice.many
    pen.limb((0, 1), (lean, kind.fork), kind.foot, 0.7 * kind.foot)
    tips = list(_branches(pen, (lean, kind.fork), 0.0, kind.branch, 0.7 * kind.foot, kind.forks))
    turn, out, size, near = many(kind.clumps) * 2 * np.pi, many(kind.clumps) ** 0.5, *many(kind.clumps, 2).T
    half_x, half_y = kind.crown
    x = lean + np.cos(turn) * out * half_x * (1 - kind.clump * 2)
    y = kind.middle + np.sin(turn) * out * (half_y - kind.clump * 0.7)
    clumps = list(zip(near, x, y, kind.clump * (0.65 + 0.6 * size), strict=True))
    clumps += [(0.3, *tip, 0.7 * kind.clump) for tip in tips if kind.clumps]
    for front, cx, cy, r in sorted(tuple(map(float, clump)) for clump in clumps):
        centre = (cx, min(max(cy, 0.9 * r), 0.9))
        depth = min(max(0.75 - 0.45 * (cy - kind.middle) / half_y + 0.15 * front, 0.25), 1.1)  # dark below and inside
        pen.leaves(ellipse(centre, r, kind.flat * r), kind.flat * r, (0.85 + 0.3 * front) * depth)


def _branches(pen: _Pen, start: Point, angle: float, length: float, radius: float, left: int) -> Iterator[Point]:
    """Fork from `start`, `left` times; yields the tips."""
    for way in (-1.0, 0.15, 1.0) if left > 2 or pen.kind.clumps else (-1.0, 1.0):
        turn = angle + way * pen.kind.spread * pen.dice.between(0.55, 1.25)
        reach = length * pen.dice.between(0.75, 1.1)
        tip = (start[0] + float(np.sin(turn)) * reach, start[1] - float(np.cos(turn)) * reach)
        pen.limb(start, tip, radius, 0.6 * radius)
        if left > 1:
            yield from _branches(pen, tip, turn, 0.72 * length, 0.62 * radius, left - 1)
        else:
            yield tip


def plant(place: Site, camera: Camera, land: Land, dice: Dice, kinds: int) -> list[Tree]:
    """Return the trees, far ones first: in rows across the view, denser where the land is wooded."""
    # The first row is nearer in a forest, whose nearest trees frame the view and leave its middle free.
    z = np.cumprod([5.0 if place.woods > 0.95 else 9.0] + 34 * [1.085])
    z = z[z < 78][:, None]
    at, gap, edge = np.arange(-63, 64), place.canopy * 0.42 + 0.004 * z, camera.width * camera.pixel / 2
    shift, depth, luck, tall, tone, tint = np.moveaxis(dice.many(64, 128, 6)[: len(z), at & 127], 2, 0)
    zs, xs = z.astype(np.float32) * (1 + 0.05 * (depth - 0.5)), (at + 0.9 * shift) * gap
    u = xs / zs
    near = np.clip(np.searchsorted(land.z[:, 0], zs), 0, len(land.z) - 1)
    column = np.clip(np.floor((u - land.u[0]) / camera.pixel + 0.5).astype(int), 0, len(land.u) - 1)
    base = land.height[near, column]
    alone = (luck > 1 - 0.02 * min(1, place.woods * 3)) & (base > 0.02) & (land.depth[near, column] == 0) & (z > 14)
    stands = (luck < 0.85 * land.woods[near, column]) | alone
    stands &= (abs(at) <= np.ceil(edge * z / gap) + 1) & (abs(u) < edge + 0.3)
    stands &= (z >= 9) | ((abs(u) > 0.25) & (luck < 0.55))
    trees = []
    for k in zip(*np.nonzero(stands), strict=True):
        grey, warm = 0.75 + 0.5 * float(tone[k]), 1 + 0.25 * (float(tint[k]) - 0.5)
        size, sprite = place.canopy * (0.62 + 0.65 * float(tall[k])), int(tint[k] * 997) % kinds
        colour = np.array([grey * warm, grey, grey / warm], np.float32)
        trees.append(Tree(float(xs[k]), float(zs[k]), float(base[k]) - 0.05, size, sprite, tone[k] > 0.5, colour))
    return sorted(trees, key=lambda tree: -tree.z)


def stand(layers: Layers, camera: Camera, light: Light, sprites: list[Sprite], trees: list[Tree]) -> None:
    """Paint trees into the layers where no nearer object hides them."""
    height, width = layers.labels.shape
    veils = veil(light, camera.columns())
    for tree in trees:
        scale = 1 / (tree.z * camera.pixel)  # pixels per unit of height there
        size, sprite = tree.size * scale, sprites[tree.sprite]
        if size < 1.2:
            continue
        middle, foot = width / 2 + tree.x * scale, camera.horizon * height + (camera.up - tree.base) * scale
        half = size * sprite[0].shape[1] / len(sprite[0]) / 2
        rows = slice(max(0, int(foot - size)), min(height, int(np.ceil(foot)) + 1))
        columns = slice(max(0, int(middle - half)), min(width, int(np.ceil(middle + half)) + 1))
        here = layers.distance[rows, columns] >= tree.z * 0.97
        if not here.any():
            continue
        source = next((level for level in reversed(sprite) if len(level) >= size * 0.9), sprite[0])
        zoom, side = len(source) / size, -1 if tree.mirrored else 1
        # The affine map from pixels of the window to pixels of the sprite.
        across = (side * zoom, 0, side * zoom * (columns.start + 0.5 - middle) + source.shape[1] / 2 - 0.5)
        down = (0, zoom, zoom * (rows.start + 0.5 - foot + size) - 0.5)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        drawn = cv2.warpAffine(source, np.array([across, down]), here.shape[::-1], flags=flags) * here[..., None]
        alpha, clear = drawn[..., 3:], np.float32(np.exp(-light.haze * tree.z))
        mist = veils[min(max(int(middle), 0), width - 1)] * (1 - clear)
        picture = layers.picture[rows, columns]
        picture *= 1 - alpha
        picture += drawn[..., :3] * (tree.tint * clear) + mist * alpha
        solid = alpha[..., 0] > 0.5
        layers.labels[rows, columns][solid] = LABEL["woods"]
        layers.distance[rows, columns][solid] = tree.z
