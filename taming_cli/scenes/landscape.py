"""Landscapes: a place and an hour for each class, composed of sky, land, water, trees and weather."""

import numpy as np

from taming_cli.scenes import sky, terrain, trees
from taming_cli.scenes.brush import Brush, capsule
from taming_cli.scenes.canvas import LABEL, Dice, Layers, ink, mix, smoothstep
from taming_cli.scenes.noise import Noise
from taming_cli.scenes.sky import Light
from taming_cli.scenes.terrain import Range, Site
from taming_cli.scenes.view import Camera, Land, View, see

_SPRITES = 6  # different trees per scene


def _mountains(dice: Dice) -> tuple[Range, ...]:
    """Return hills in front of two chains of mountains, the farther one higher."""
    side, between = dice.pick((-1.0, 0.0, 0.0, 1.0)), dice.between
    return (
        Range("hills", between(60, 90), 0.5, between(0.03, 0.07), 0.7),
        Range("mountains", between(240, 340), 0.55, between(0.12, 0.26), between(0.7, 1.1), side),
        Range("mountains", between(900, 1300), 0.6, between(0.2, 0.34), between(0.7, 1.1)),
    )


def _hills(dice: Dice) -> tuple[Range, ...]:
    between = dice.between
    return (
        Range("hills", between(45, 70), 0.6, between(0.05, 0.1), between(0.6, 0.9)),
        Range("hills", between(160, 240), 0.6, between(0.08, 0.14), between(0.5, 0.8)),
        Range("hills", between(700, 1000), 0.6, between(0.1, 0.17), between(0.5, 0.8)),
    )


def plan(label: str, dice: Dice) -> Site:
    """Pick a place of class `label`, one of LANDSCAPES."""
    pick, between, chance = dice.pick, dice.between, dice.chance
    grass = dice.ink("#6f9a3e", "#7fa045", "#5f9040", "#93a04a")
    autumn, green = ("#a8642a", "#b88a2e", "#8f4a2a", "#7a7a30"), ("#2f5f2a", "#3a6a2e", "#27552f", "#47702a")
    leaf, rock = dice.ink(*(autumn if chance(0.22) else green)), dice.ink("#8a7f78", "#7b7c86", "#96826e", "#80766f")
    ranges, woods, flowers = _mountains(dice), between(0.15, 0.75), pick(("", "#f2f0f4", "#d8486a", "#9a6ad0"))
    kinds = pick((("spruce", "broadleaf"), ("broadleaf", "birch"), ("spruce", "pine"), ("broadleaf", "poplar")))
    place = Site(ranges, label, leaf, grass, rock, flowers=flowers, woods=woods, trees=kinds,
                  horizon=between(0.42, 0.6), up=between(1.3, 2.4))  # fmt: skip
    if label == "day":
        ranges = ranges if chance(0.65) else _hills(dice)
        return place._replace(
            ranges=ranges, water=pick(("", "", "river")), hour=pick(("noon", "noon", "noon", "golden"))
        )
    if label == "sunset":
        ranges, water = ranges if chance(0.6) else _hills(dice), pick(("", "lake", "lake", "river"))
        return place._replace(ranges=ranges, water=water, shore=between(4, 8), far_shore=between(50, 120))
    if label == "night":
        return place._replace(water=pick(("", "lake", "lake")), shore=between(4, 9), far_shore=between(40, 90))
    if label == "winter":
        woods, water = between(0.4, 0.95), pick(("", "", "lake"))
        ranges = ranges if chance(0.7) else _hills(dice)
        hour, weather = pick((("noon", "clear"), ("overcast", "snow")))
        winter_trees = pick((("spruce",), ("spruce", "bare"), ("spruce", "pine"), ("bare", "spruce")))
        return place._replace(
            ranges=ranges, hour=hour, weather=weather, ground="snow", grass=ink("#59604f"), leaf=ink("#2c4a38"),
            woods=woods, trees=winter_trees, water=water, shore=9.0, snowline=0.3,
        )  # fmt: skip
    if label == "forest":
        place = place._replace(woods=between(1.0, 1.15), canopy=between(6.5, 8.5), water=pick(("", "", "river")))
        hour = pick(("noon", "golden", "overcast"))
        return place._replace(hour=hour, weather="haze" if hour == "overcast" or chance(0.4) else "clear")
    if label == "lake":
        place = place._replace(water="lake", shore=between(3.5, 9), far_shore=between(45, 150))
        hour = pick(("noon", "noon", "golden", "overcast"))
        return place._replace(hour=hour, weather=pick(("haze", "rain")) if hour == "overcast" else "clear")
    if label == "coast":
        side = pick((-1.0, 1.0))
        ranges = (
            Range("mountains", between(30, 60), 0.35, between(0.15, 0.28), 0.7, side),
            Range("mountains", between(150, 420), 0.5, between(0.06, 0.12), 0.6, pick((-side, side))),
        )
        return place._replace(
            ranges=ranges, shore=between(5, 9), hour=pick(("noon", "noon", "golden", "sunset")), ground="beach",
            water="sea", far_shore=3000.0, snowline=9.0, leaf=ink("#3f7a34"), woods=0.22, trees=("palm",),
        )  # fmt: skip
    dunes = ((26, 40, 0.13, 0.22, 0.9), (90, 130, 0.12, 0.2, 0.7), (330, 420, 0.1, 0.16, 0.6))
    ranges = (*(Range("dunes", between(a, b), 0.8, between(c, d), grain) for a, b, c, d, grain in dunes),
              Range("mountains", between(1000, 1400), 0.4, between(0.06, 0.2), 0.5))  # fmt: skip
    return place._replace(
        ranges=ranges, sand=dice.ink("#dba866", "#e0b880", "#cf8f55", "#d8a05a"), rock=ink("#9a6248"), ground="sand",
        hour=pick(("noon", "golden", "golden")), up=between(5, 7), snowline=9.0, woods=0.0,
    )  # fmt: skip


def paint(seed: int, place: Site, width: int, height: int) -> Brush:
    """Paint a place, and return the brush with its layers; `seed` sets everything that the plan leaves open."""
    noise = Noise(Dice(seed, 2))
    light = sky.light(Dice(seed, 7), place.hour, aspect=width / height, weather=place.weather)
    camera = Camera(width, height, 1.05, place.horizon, place.up)
    land = terrain.sample(camera, place, light, noise)
    seen = see(camera, land)
    layers = _compose(camera, land, seen, light, noise, Dice(seed, 3))
    planted = trees.plant(place, camera, land, Dice(seed, 5), _SPRITES)
    sprites: list[trees.Sprite] = []
    for number in range(_SPRITES):
        # A sprite is drawn at the size of its nearest copy.
        tallest = max((tree.size / (tree.z * camera.pixel) for tree in planted if tree.sprite == number), default=0.0)
        size = int(np.clip(tallest, 64, 640))
        sprites.append(trees.draw(place, number, Dice(seed, 100 + number), noise, light, size) if tallest > 1.2 else [])
    if land.depth.any():
        # Water mirrors only trees beyond it.
        shores = np.where(land.depth.any(axis=0), land.z[np.argmax(land.depth > 0, axis=0), 0], np.inf)
        beyond = [tree for tree in planted if tree.z > shores[camera.column(tree.x / tree.z)]]
        mirror = Layers(*(layer.copy() for layer in layers))
        trees.stand(mirror, camera, light, sprites, beyond)
        _fill_water(layers, mirror, camera, land, seen, light, noise, foam=place.water == "sea")
    trees.stand(layers, camera, light, sprites, planted)
    brush = Brush(layers, light)
    if place.weather in ("rain", "snow"):
        _fall(brush, place.weather, Dice(seed, 6))
    return brush


def _compose(camera: Camera, land: Land, seen: View, light: Light, noise: Noise, dice: Dice) -> Layers:
    """Paint the sky and the land in front of it; water is black."""
    u, t = camera.columns(), camera.rows()
    picture = sky.paint(light, noise, dice, u, t) * (1 - seen.cover[..., None]) + seen.light
    above = seen.nearest < 0
    labels = np.where(above, LABEL["sky"], land.label[seen.nearest, np.arange(camera.width)]).astype(np.uint8)
    if light.disc:
        labels[above & (sky.disc(light, u, t[:, None]) >= 0)] = LABEL[light.disc]
    distance = np.where(above, np.inf, land.z[seen.nearest, 0]).astype(np.float32)
    return Layers(picture.astype(np.float32), labels, distance)


def _fill_water(
    layers: Layers, mirror: Layers, camera: Camera, land: Land, seen: View, light: Light, noise: Noise, *, foam: bool
) -> None:
    """Paint water: its own colour, the reflection of `mirror` distorted by ripples, and glints below the sun."""
    u, columns = camera.columns(), np.arange(camera.width)
    first = int(np.argmax(seen.wet.max(axis=1) > 0))  # the first row with water
    wet = seen.wet[first:, :, None]
    below = np.maximum(-camera.rows()[first:], camera.pixel * 0.5)[:, None]
    z = camera.up / below
    foot, depth = z * camera.pixel, land.depth[np.maximum(seen.nearest[first:], 0), columns]
    calm = 1 - 0.75 * smoothstep(0.35, 0.6, noise.fbm(u * z / 30 + 4, z / 45, 2))
    waves = noise.fbm(u * z * 0.9, z * 2.6, 4, np.maximum(foot * 0.9, foot * foot * 1.2)) - 0.5
    own = mix(ink("#4fb0a5"), ink("#14496b"), smoothstep(0.05, 0.5, depth)[..., None])
    surface = own * (light.ambient * 0.9 + light.beam * 0.35)
    mirror.picture[first:] += surface * wet
    # A point at distance z and tangent t is mirrored at tangent 2 * up / z - t: search for its z, from the bank on.
    dry = np.where(seen.wet > 0.5, 0, np.arange(camera.height)[:, None])
    source = bank = np.maximum.accumulate(dry, axis=0)[first:]
    far = mirror.distance[bank, columns]
    for _ in range(10):
        row = camera.horizon * camera.height - 0.5 - (below - 2 * camera.up / far) / camera.pixel
        source = np.abs(np.minimum(row, bank))
        there = mirror.distance[(source + 0.5).astype(np.intp), columns]
        far = np.clip(there, far, 1.25 * far)
    sway = (waves * calm * np.minimum(below * 0.9, 0.09) / camera.pixel).astype(np.float32)
    source = np.abs(np.minimum(source + 0.8 * sway, bank))
    upper = source.astype(np.intp)
    across = np.clip(columns + (0.25 * sway + 0.5).astype(np.intp), 0, camera.width - 1)
    share = (source - upper)[..., None].astype(np.float32)
    reflected = mix(mirror.picture[upper, across], mirror.picture[np.minimum(upper + 1, bank), across], share)
    grazing = np.clip(1 - below / np.sqrt(1 + below * below), 0, 1) ** 3.2
    surface = mix(surface, reflected, (0.12 + 0.83 * grazing)[..., None])
    surface *= (1 + 0.5 * waves * calm * np.clip(below * 6, 0, 1))[..., None]
    if light.shine:
        lane = np.exp(-(((u - light.disc_u) / (0.035 + 0.3 * below)) ** 2))
        sparkle = smoothstep(0.02, 0.22, waves + 0.1 * (lane - 0.5))
        surface += light.glow * (lane * (0.12 + 1.5 * sparkle) * (0.8 * light.shine))[..., None]
    if foam:
        swash = np.sin(depth * 26 - waves * 7) - 1.7 * depth - 0.1
        white = smoothstep(0.25, 0.8, swash) * smoothstep(0.42, 0.1, depth) * (depth > 0)
        white = white * np.clip(1.4 - foot * 3, 0, 1)
        surface = mix(surface, light.ambient * 0.9 + light.beam * 0.5, (0.75 * white * (0.9 + waves))[..., None])
    clear = np.exp(-light.haze * z)[..., None]
    layers.picture[first:] += mix(terrain.veil(light, u), surface, clear) * wet


def _fall(brush: Brush, weather: str, dice: Dice) -> None:
    """Paint rain as slanted streaks or snow as soft flakes, thinner with distance; labels and distance stay."""
    slant, rain = dice.between(-0.25, 0.25), weather == "rain"
    for across, y, near in dice.many(420 if rain else 520, 3).astype(float):
        x = 3.2 * (across - 0.5)  # to both sides, for any aspect
        radius, length = (0.0006 + 0.0012 * near**3, 0.02 + 0.06 * near**2) if rain else (0.0012 + 0.007 * near**6, 0.0)
        drawn = max(radius, 0.4 * brush.pixel)
        drop = capsule((x, y), (x + slant * length, y + length), drawn, drawn)
        opacity = (0.3 if rain else 0.9 - 0.45 * near) * radius / drawn
        brush.fill(drop, np.full(3, 0.85, np.float32), soft=max(0.8 * brush.pixel, 0.9 * drawn), opacity=opacity)
