"""Trees: a few are drawn anew for each scene, then planted over the land, each at its own size, turn and tint."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taming_cli.scenes.canvas import LABEL, Dice, Floats, Layers, ink, mix, smoothstep
from taming_cli.scenes.noise import Noise
from taming_cli.scenes.sky import Light
from taming_cli.scenes.terrain import Place, veil
from taming_cli.scenes.view import Camera, Land

# Kinds of trees, with the width of their pictures in tree heights.
_WIDTHS = {"spruce": 0.5, "pine": 0.62, "broadleaf": 0.95, "poplar": 0.36, "birch": 0.6, "palm": 0.9, "bare": 0.9}


class Sprite(NamedTuple):
    """One drawn tree as a pyramid: levels (h, w, 4), each half the one before: linear light times alpha, alpha."""

    levels: list[Floats]
    width: float  # of the picture, in tree heights


class Tree(NamedTuple):
    """One planted tree: where, how tall, which sprite (negative width: turned around), and its tint."""

    x: float
    z: float
    base: float
    size: float
    sprite: int
    flip: bool
    tint: Floats


def _pyramid(rgb: Floats, alpha: Floats, width: float) -> Sprite:
    level = np.concatenate([rgb * alpha[..., None], alpha[..., None]], axis=2, dtype=np.float32)
    levels = [level]
    while min(level.shape[:2]) > 3:
        level = level[: level.shape[0] // 2 * 2, : level.shape[1] // 2 * 2]
        level = (level[::2, ::2] + level[1::2, ::2] + level[::2, 1::2] + level[1::2, 1::2]) * np.float32(0.25)
        levels.append(level)
    return Sprite(levels, width)


def draw(kind: str, dice: Dice, noise: Noise, light: Light, *, leaf: Floats, size: int, snow: float) -> Sprite:
    """Draw one tree `size` pixels tall, lit by `light`; `snow` in 0..1 lies on its upper sides."""
    width = _WIDTHS[kind]
    rows, columns = size, max(8, int(size * width) // 2 * 2)
    y = ((np.arange(rows) + 0.5) / rows)[:, None].astype(np.float32)  # 0 top, 1 foot
    x = ((np.arange(columns) + 0.5 - columns / 2) / rows)[None, :].astype(np.float32)
    blank = np.zeros((rows, columns, 4), np.float32)
    canvas = _Canvas(x, y, blank[..., :3], blank[..., 3], light, noise, leaf, snow)
    if kind == "spruce":
        _spruce(canvas, dice)
    elif kind == "palm":
        _palm(canvas, dice)
    else:
        _crowned(canvas, kind, dice)
    return _pyramid(canvas.rgb, canvas.alpha, columns / rows)


class _Canvas(NamedTuple):
    """Where a sprite is painted: coordinates in tree heights, x (1, w) from the stem, y (h, 1) from the top."""

    x: Floats
    y: Floats
    rgb: Floats
    alpha: Floats
    light: Light
    noise: Noise
    leaf: Floats
    snow: float

    def window(self, x0: float, x1: float, y0: float, y1: float) -> tuple[slice, slice]:
        rows = np.searchsorted(self.y[:, 0], [y0, y1])
        columns = np.searchsorted(self.x[0], [x0, x1])
        return slice(*rows), slice(*columns)

    def lay(self, at: tuple[slice, slice], cover: Floats, colour: Floats) -> None:
        rgb, alpha = self.rgb[at], self.alpha[at]
        rgb += (colour - rgb) * cover[..., None]
        alpha += (1 - alpha) * cover

    def limb(self, a: tuple[float, float], b: tuple[float, float], *, radii: tuple[float, float], bark: Floats) -> None:
        """A tapering stem from a to b, round in the light."""
        ra, rb = radii
        r = max(ra, rb) + 2 / len(self.y)
        at = self.window(min(a[0], b[0]) - r, max(a[0], b[0]) + r, min(a[1], b[1]) - r, max(a[1], b[1]) + r)
        x, y = self.x[:, at[1]], self.y[at[0]]
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = max(dx * dx + dy * dy, 1e-9)
        along = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / length, 0, 1)
        radius = ra + (rb - ra) * along
        across = ((x - a[0]) * -dy + (y - a[1]) * dx) / np.sqrt(length)
        far = np.sqrt((x - a[0] - along * dx) ** 2 + (y - a[1] - along * dy) ** 2)
        pixel = 1 / len(self.y)
        thin = np.clip(radius / (0.5 * pixel), 0, 1)  # a limb under a pixel wide keeps its share of light
        cover = np.clip((radius - far) / pixel + 0.5, 0, 1) * thin
        side = np.clip(across / np.maximum(radius, pixel), -1, 1) * (-1 if dy > 0 else 1)
        lit = np.clip(0.55 + 0.45 * side * np.sign(self.light.direction[0]), 0.1, 1)
        self.lay(at, cover.astype(np.float32), bark * (self.light.ambient + self.light.beam * lit[..., None] * 0.6))


def _spruce(c: _Canvas, dice: Dice) -> None:
    """Tiers of drooping branches around a straight stem."""
    light, noise = c.light, c.noise
    c.limb((0, 0.2), (0, 1.0), radii=(0.008, 0.02), bark=ink("#5a4636"))
    tiers, spread, droop = dice.between(8, 13), dice.between(0.17, 0.24), dice.between(0.1, 0.3)
    shift = dice.between(0, 9)
    y = c.y + 0 * c.x
    sag = y - droop * np.abs(c.x) * 1.2
    phase = (
        (np.maximum(sag, 0) / 0.95) ** 0.9 * tiers
        + 0.25 * np.clip(c.x * 16, -1, 1)
        + 0.5 * noise.value(c.x * 5 + shift, y * 8)
    )
    tier = phase - np.floor(phase)
    ragged = noise.value(c.x * 34 + shift, y * 34) * 0.5 + noise.value(c.x * 80, y * 80 + shift) * 0.3
    reach = spread * np.clip(sag * 1.08, 0, 1) ** 0.85 * (0.5 + 0.55 * tier) * (0.72 + 0.5 * ragged) + 0.004
    pixel = 1 / len(c.y)
    inside = (reach - np.abs(c.x)) / pixel * 0.8
    cover = np.clip(inside + 0.5, 0, 1) * np.clip((0.965 - 0.06 * ragged - y) / pixel + 0.5, 0, 1)
    side = np.clip(c.x / np.maximum(reach, 1e-3), -1, 1)
    lit = np.clip(0.5 + 0.5 * side * light.direction[0] * 1.4, 0, 1) * (0.35 + 0.65 * tier) * (0.55 + 0.9 * ragged)
    shade = 0.45 + 0.55 * tier * (0.5 + ragged)
    albedo = mix(c.leaf * 0.85, ink("#f2f6fb"), (c.snow * smoothstep(0.55, 0.2, tier + 0.5 * ragged - 0.1))[..., None])
    c.lay((slice(None), slice(None)), cover, albedo * (light.ambient * shade[..., None] + light.beam * lit[..., None]))


def _crowned(c: _Canvas, kind: str, dice: Dice) -> None:
    """A stem, branches that fork, and clumps of leaves, the far ones first."""
    bark = ink("#e4dfd4") if kind == "birch" else ink("#8a5a3c" if kind == "pine" else "#6a5442")
    foot = {"pine": 0.021, "broadleaf": 0.032, "poplar": 0.016, "birch": 0.013, "bare": 0.026}[kind]
    fork = {"pine": 0.42, "broadleaf": 0.62, "poplar": 0.8, "birch": 0.6, "bare": 0.66}[kind]
    lean = dice.between(-0.04, 0.04)
    c.limb((lean, fork), (0, 1.0), radii=(foot * 0.7, foot), bark=bark)
    tips = list(_branches(c, dice, bark, kind, (lean, fork, foot * 0.7)))
    if kind == "bare":
        if c.snow:
            _frost(c)
        return
    middle, half_x, half_y, size, count = {
        "pine": (0.24, 0.24, 0.2, 0.085, 20),
        "broadleaf": (0.36, 0.35, 0.3, 0.12, 34),
        "poplar": (0.46, 0.1, 0.42, 0.07, 34),
        "birch": (0.38, 0.2, 0.33, 0.075, 34),
    }[kind]
    turn = dice.many(count) * 2 * np.pi
    out = dice.many(count) ** 0.5
    extra = dice.many(count, 3)
    x = lean + np.cos(turn) * out * half_x * (1 - size * 2)
    y = middle + np.sin(turn) * out * (half_y - size * 0.7)
    clumps = [
        (float(x[i]), float(y[i]), size * (0.65 + 0.6 * float(extra[i, 0])), float(extra[i, 1])) for i in range(count)
    ]
    clumps += [(tx, ty, size * 0.7, 0.3) for tx, ty in tips if kind in ("broadleaf", "birch")]
    clumps.sort(key=lambda clump: clump[3])
    flat = 0.62 if kind == "pine" else 0.9
    for cx, cy, r, near in clumps:
        _clump(c, (cx, min(max(cy, r * 0.9), 0.9), r, near, flat, middle, half_y))


def _clump(c: _Canvas, clump: tuple[float, float, float, float, float, float, float]) -> None:
    """One clump of leaves: a ragged ball, bright to the light, dark below and inside the crown."""
    light, noise = c.light, c.noise
    cx, cy, r, near, flat, middle, half_y = clump
    at = c.window(cx - 1.25 * r, cx + 1.25 * r, cy - 1.25 * r, cy + 1.25 * r)
    dx, dy = (c.x[:, at[1]] - cx) / r, (c.y[at[0]] - cy) / (r * flat)
    if dx.size == 0 or dy.size == 0:
        return
    x, y = np.broadcast_arrays(c.x[:, at[1]], c.y[at[0]])
    ragged = noise.value(x * 30 + cx * 90, y * 30) * 0.6 + noise.value(x * 75, y * 75 + cy * 50) * 0.45
    far = np.sqrt(dx * dx + dy * dy) + (ragged - 0.5) * 0.75
    cover = np.clip((1 - far) * r * len(c.y) * 0.7 + 0.5, 0, 1)
    depth = np.sqrt(np.clip(1 - 0.8 * (dx * dx + dy * dy), 0, 1))
    facing = dx * light.direction[0] - dy * light.direction[1] * 1.1 + depth * max(0.15, -float(light.direction[2]))
    crown = np.clip(0.75 - 0.45 * (cy - middle) / half_y + 0.15 * near, 0.25, 1.1)
    lit = np.clip(0.3 + 0.75 * facing, 0, 1.1) * (0.4 + 0.95 * ragged) * crown
    shade = (0.5 + 0.3 * ragged - 0.22 * dy) * crown
    albedo = c.leaf * (0.85 + 0.3 * near)
    if c.snow:
        albedo = mix(albedo, ink("#f2f6fb"), (c.snow * smoothstep(0.1, -0.5, dy + 0.5 * (ragged - 0.5)))[..., None])
    c.lay(at, cover.astype(np.float32), albedo * (light.ambient * shade[..., None] + light.beam * lit[..., None]))


def _frost(c: _Canvas) -> None:
    """White on the upper edges of what is drawn."""
    above = np.zeros_like(c.alpha)
    step = max(1, len(c.y) // 90)
    above[step:] = c.alpha[:-step]
    rim = np.clip(c.alpha - above, 0, 1)[..., None] * c.snow * 0.8
    c.rgb[:] = mix(c.rgb, ink("#f2f6fb") * c.rgb.max(initial=0.3) * 2.2, rim)


def _branches(
    c: _Canvas, dice: Dice, bark: Floats, kind: str, start: tuple[float, float, float]
) -> Iterator[tuple[float, float]]:
    """Fork from `start`, (x, y, radius); yields the tips."""
    depth = 4 if kind == "bare" else 2
    length = {"pine": 0.17, "broadleaf": 0.2, "poplar": 0.2, "birch": 0.2, "bare": 0.21}[kind]
    spread = {"pine": 0.7, "broadleaf": 0.75, "poplar": 0.14, "birch": 0.35, "bare": 0.5}[kind]
    todo = [(start[0], start[1], 0.0, length, start[2], depth)]
    while todo:
        x, y, angle, reach, r, left = todo.pop()
        for way in (-1.0, 0.15, 1.0) if left > 2 or kind != "bare" else (-1.0, 1.0):
            turn = angle + way * spread * dice.between(0.55, 1.25)
            far = reach * dice.between(0.75, 1.1)
            tip = (x + float(np.sin(turn)) * far, y - float(np.cos(turn)) * far)
            c.limb((x, y), tip, radii=(r, r * 0.6), bark=bark)
            if left > 1:
                todo.append((*tip, turn, reach * 0.72, r * 0.62, left - 1))
            else:
                yield tip


def _palm(c: _Canvas, dice: Dice) -> None:
    """A bent stem and a head of hanging fronds."""
    bend = dice.between(-0.22, 0.22)
    path = [(bend * s * s, 1 - 0.68 * s) for s in np.linspace(0, 1, 8)]
    for a, b in pairwise(path):
        c.limb(b, a, radii=(0.014, 0.018), bark=ink("#8f7656"))
    x0, y0 = path[-1]
    fronds = 11
    for i in range(fronds):
        turn = (i + 0.5 * dice.between(-1, 1)) / fronds * 2 * np.pi
        reach, droop = 0.2 + 0.13 * abs(np.cos(turn)), dice.between(0.15, 0.32)
        points = [
            (x0 + np.cos(turn) * reach * s, y0 - np.sin(turn) * reach * 0.55 * s + droop * s * s)
            for s in np.linspace(0, 1, 9)
        ]
        bright = 0.75 + 0.5 * np.sin(turn) * 0.5 + 0.2 * np.cos(turn) * np.sign(c.light.direction[0])
        for k, (a, b) in enumerate(pairwise(points)):
            thick = 0.02 * (1 - (k / 8) ** 2) + 0.003
            c.limb(a, b, radii=(thick, thick * 0.8), bark=c.leaf * 1.25 * bright)


def plant(place: Place, camera: Camera, land: Land, dice: Dice, kinds: int) -> list[Tree]:
    """Where trees stand, far ones first: rows across the view, denser where the land is wooded."""
    trees: list[Tree] = []
    if place.woods <= 0:
        return trees
    dense = place.woods > 0.95
    z, rows = (5.0 if dense else 9.0), 0
    lots = dice.many(64, 128, 6)
    while z < 78 and rows < 64:
        gap = place.canopy * 0.42 + 0.004 * z
        reach = int(np.ceil(camera.width * camera.pixel / 2 * z / gap)) + 1
        at = np.arange(-min(reach, 63), min(reach, 63) + 1)
        lot = lots[rows, at & 127]
        zs = z * (1 + 0.05 * (lot[:, 1] - 0.5))
        xs = (at + 0.9 * lot[:, 0]) * gap
        row = np.clip(np.searchsorted(land.z[:, 0], zs), 0, len(land.z) - 1)
        column = np.floor((xs / zs - land.u[0]) / camera.pixel + 0.5).astype(int)
        ends = np.clip(column, 0, len(land.u) - 1)
        density = land.woods[row, ends]
        # A few trees stand alone in the open.
        open_ground = (land.height[row, ends] > 0.02) & ~land.wet[row, ends] & (z > 14)
        wanted = (lot[:, 2] < density * 0.85) | (open_ground & (lot[:, 2] > 1 - 0.02 * min(1, place.woods * 3)))
        if z < 9:  # the nearest trees of a forest frame the view, and leave its middle free
            wanted &= (abs(xs / zs) > 0.25) & (lot[:, 2] < 0.55)
        for k in np.flatnonzero(wanted & (abs(xs / zs) < camera.width * camera.pixel / 2 + 0.3)):
            tone = 0.75 + 0.5 * float(lot[k, 4])
            warm = 1 + 0.25 * (float(lot[k, 5]) - 0.5)
            trees.append(
                Tree(
                    float(xs[k]),
                    float(zs[k]),
                    float(land.height[row[k], ends[k]]) - 0.05,
                    place.canopy * (0.62 + 0.65 * float(lot[k, 3])),
                    int(lot[k, 5] * 997) % kinds,
                    bool(lot[k, 4] > 0.5),
                    np.array([tone * warm, tone, tone / warm], np.float32),
                )
            )
        z *= 1.0 + 0.085
        rows += 1
    return sorted(trees, key=lambda tree: -tree.z)


def stand(
    layers: Layers, camera: Camera, light: Light, sprites: list[Sprite | None], trees: list[Tree], *, mirrored: bool
) -> None:
    """Paint trees into the layers where nothing nearer hides them; `mirrored` as in `view.see`."""
    height, width = layers.labels.shape
    up = -camera.up if mirrored else camera.up
    horizon = (1 - camera.horizon if mirrored else camera.horizon) * height
    veils = veil(light, camera.columns())
    for tree in trees:
        scale = 1 / (tree.z * camera.pixel)  # pixels per unit of height there
        size = tree.size * scale
        sprite = sprites[tree.sprite]
        if sprite is None or size < 1.2:
            continue
        foot = horizon + (up - tree.base) * scale
        middle = width / 2 + tree.x * scale
        half = size * sprite.width / 2
        r0, r1 = max(0, int(foot - size)), min(height, int(np.ceil(foot)) + 1)
        c0, c1 = max(0, int(middle - half)), min(width, int(np.ceil(middle + half)) + 1)
        if r0 >= r1 or c0 >= c1:
            continue
        here = layers.distance[r0:r1, c0:c1] >= tree.z * 0.97
        if not here.any():
            continue
        picture = _resample(sprite, size, (middle, foot), (r0, r1), (c0, c1), flip=tree.flip)
        clear = float(np.exp(-light.haze * tree.z))
        mist = veils[min(max(int(middle), 0), width - 1)] * (1 - clear)
        alpha = picture[..., 3:] * here[..., None]
        light_there = layers.light[r0:r1, c0:c1]
        light_there *= 1 - alpha
        light_there += picture[..., :3] * here[..., None] * (tree.tint * np.float32(clear)) + mist * alpha
        solid = alpha[..., 0] > 0.5
        layers.labels[r0:r1, c0:c1][solid] = LABEL["woods"]
        layers.distance[r0:r1, c0:c1][solid] = tree.z


def _resample(
    sprite: Sprite, size: float, at: tuple[float, float], rows: tuple[int, int], columns: tuple[int, int], *, flip: bool
) -> Floats:
    """The sprite's pixels at these rows and columns, `size` pixels tall with its foot at `at`."""
    middle, foot = at
    level = 0
    while level + 1 < len(sprite.levels) and sprite.levels[level + 1].shape[0] >= size * 0.9:
        level += 1
    source = sprite.levels[level]
    h, w = source.shape[:2]
    y = (np.arange(*rows) + 0.5 - (foot - size)) / size * h - 0.5
    x = (np.arange(*columns) + 0.5 - middle) / (size * sprite.width) * w
    x = (-x if flip else x) + w / 2 - 0.5
    y0, y1, fy = _lerp(y, h)
    x0, x1, fx = _lerp(x, w)
    top = source[y0] * (1 - fy)[:, None, None] + source[y1] * fy[:, None, None]
    picture = top[:, x0] * (1 - fx)[None, :, None] + top[:, x1] * fx[None, :, None]
    picture[(y < -0.5) | (y > h - 0.5)] = 0
    picture[:, (x < -0.5) | (x > w - 0.5)] = 0
    return np.asarray(picture, np.float32)


def _lerp(at: NDArray[np.floating], size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    low = np.clip(np.floor(at).astype(np.intp), 0, size - 1)
    return low, np.minimum(low + 1, size - 1), np.clip(at - low, 0, 1).astype(np.float32)
