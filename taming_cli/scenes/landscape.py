"""Landscapes: a place and an hour for each class, put together from sky, land, water, trees and weather."""

from typing import NamedTuple

import numpy as np

from taming_cli.scenes import sky, terrain, trees
from taming_cli.scenes.canvas import LABEL, Dice, Floats, Layers, ink, mix, smoothstep
from taming_cli.scenes.noise import Noise
from taming_cli.scenes.sky import Light
from taming_cli.scenes.terrain import Place, Range
from taming_cli.scenes.view import Camera, Land, View, see


class Plan(NamedTuple):
    """What a landscape shall be, before any pixel: its place, hour, weather, trees and view."""

    place: Place
    hour: str
    weather: str
    kinds: tuple[str, ...]
    horizon: float
    up: float


_SPRITES = 6  # different trees per scene
_LEAVES = ("#2f5f2a", "#3a6a2e", "#27552f", "#47702a")
_EVERGREEN = ink("#2b5034")
_AUTUMN = ("#a8642a", "#b88a2e", "#8f4a2a", "#7a7a30")


def _mountains(dice: Dice, rise: float = 1.0) -> tuple[Range, ...]:
    """Hills in front, then one or two chains of mountains, the farther ones higher."""
    side = dice.pick((-1.0, 0.0, 0.0, 1.0))
    return (
        Range("hills", dice.between(60, 90), 0.5, dice.between(0.03, 0.07), 0.7),
        Range("carved", dice.between(240, 340), 0.55, rise * dice.between(0.12, 0.26), dice.between(0.7, 1.1), side),
        Range("carved", dice.between(900, 1300), 0.6, rise * dice.between(0.2, 0.34), dice.between(0.7, 1.1)),
    )


def _hills(dice: Dice) -> tuple[Range, ...]:
    return (
        Range("hills", dice.between(45, 70), 0.6, dice.between(0.05, 0.1), dice.between(0.6, 0.9)),
        Range("hills", dice.between(160, 240), 0.6, dice.between(0.08, 0.14), dice.between(0.5, 0.8)),
        Range("hills", dice.between(700, 1000), 0.6, dice.between(0.1, 0.17), dice.between(0.5, 0.8)),
    )


def plan(label: str, dice: Dice) -> Plan:
    """Draw a plan for one of LANDSCAPES."""
    grass = ink(dice.pick(("#6f9a3e", "#7fa045", "#5f9040", "#93a04a")))
    leaf = ink(dice.pick(_AUTUMN if dice.chance(0.22) else _LEAVES))
    rock = ink(dice.pick(("#8a7f78", "#7b7c86", "#96826e", "#80766f")))
    base = Place(_mountains(dice), grass=grass, leaf=leaf, rock=rock, woods=dice.between(0.15, 0.75))
    base = base._replace(flowers=dice.pick(("", "#f2f0f4", "#d8486a", "#9a6ad0")))
    green: tuple[str, ...] = dice.pick(
        (("spruce", "broadleaf"), ("broadleaf", "birch"), ("spruce", "pine"), ("broadleaf", "poplar"))
    )
    horizon, up = dice.between(0.42, 0.6), dice.between(1.3, 2.4)
    weather = "clear"
    if label == "day":
        place = base._replace(
            ranges=base.ranges if dice.chance(0.65) else _hills(dice),
            water=dice.pick(("", "", "river")),
        )
        hour = dice.pick(("noon", "noon", "noon", "golden"))
    elif label == "sunset":
        place = base._replace(
            ranges=base.ranges if dice.chance(0.6) else _hills(dice),
            water=dice.pick(("", "lake", "lake", "river")),
            shore=dice.between(4, 8),
            far_shore=dice.between(50, 120),
        )
        hour = "sunset"
    elif label == "night":
        place = base._replace(
            water=dice.pick(("", "lake", "lake")), shore=dice.between(4, 9), far_shore=dice.between(40, 90)
        )
        hour = "night"
    elif label == "winter":
        place = base._replace(
            ground="snow", grass=ink("#59604f"), flowers="",
            woods=dice.between(0.4, 0.95), water=dice.pick(("", "", "lake")), shore=9.0, snowline=0.3,
            leaf=ink("#2c4a38"),
            ranges=base.ranges if dice.chance(0.7) else _hills(dice),
        )  # fmt: skip
        hour = dice.pick(("noon", "noon", "overcast", "overcast"))
        weather = "snow" if hour == "overcast" else "clear"
        green = dice.pick((("spruce",), ("spruce", "bare"), ("spruce", "pine"), ("bare", "spruce")))
    elif label == "forest":
        place = base._replace(
            woods=dice.between(1.0, 1.15), canopy=dice.between(6.5, 8.5), water=dice.pick(("", "", "river"))
        )
        hour = dice.pick(("noon", "golden", "overcast"))
        weather = "haze" if dice.chance(0.4) or hour == "overcast" else "clear"
    elif label == "lake":
        place = base._replace(water="lake", shore=dice.between(3.5, 9), far_shore=dice.between(45, 150))
        hour = dice.pick(("noon", "noon", "golden", "overcast"))
        weather = dice.pick(("haze", "rain")) if hour == "overcast" else "clear"
    elif label == "coast":
        side = -1.0 if dice.chance(0.5) else 1.0
        place = base._replace(
            ranges=(
                Range("carved", dice.between(30, 60), 0.35, dice.between(0.15, 0.28), 0.7, side),
                Range("carved", dice.between(150, 420), 0.5, dice.between(0.06, 0.12), 0.6, dice.pick((-side, side))),
            ),
            leaf=ink("#3f7a34"), water="sea", shore=dice.between(5, 9), far_shore=3000.0, snowline=9.0,
            woods=0.22, ground="beach",
        )  # fmt: skip
        hour, green = dice.pick(("noon", "noon", "golden", "sunset")), ("palm",)
    else:
        place = base._replace(
            ranges=(
                Range("dunes", dice.between(26, 40), 0.8, dice.between(0.13, 0.22), 0.9),
                Range("dunes", dice.between(90, 130), 0.8, dice.between(0.12, 0.2), 0.7),
                Range("dunes", dice.between(330, 420), 0.8, dice.between(0.1, 0.16), 0.6),
                Range("carved", dice.between(1000, 1400), 0.4, dice.between(0.06, 0.2), 0.5),
            ),
            ground="sand", snowline=9.0, woods=0.0, sand=ink(dice.pick(("#dba866", "#e0b880", "#cf8f55", "#d8a05a"))),
            rock=ink("#9a6248"),
        )  # fmt: skip
        hour = dice.pick(("noon", "golden", "golden"))
        up = dice.between(5, 7)
    return Plan(place, hour, weather, green, horizon, up)


class Painted(NamedTuple):
    """A landscape and the light it was painted in."""

    layers: Layers
    light: Light


def paint(seed: int, wanted: Plan, width: int, height: int) -> Painted:
    """Paint what is planned. Everything that the plan leaves open is drawn from `seed`."""
    noise = Noise(Dice(seed, 2))
    aspect = width / height
    light = sky.light(Dice(seed, 7), wanted.hour, aspect=aspect, weather=wanted.weather)
    camera = Camera(width, height, 1.05, wanted.horizon, wanted.up)
    land = terrain.sample(camera, wanted.place, light, noise)
    seen = see(camera, land)
    layers = _compose(
        camera, land, seen, light, sky.paint(light, noise, Dice(seed, 3), camera.columns(), camera.rows())
    )
    planted = trees.plant(wanted.place, camera, land, Dice(seed, 5), _SPRITES)
    sprites = _sprites(wanted, light, noise, seed, camera=camera, planted=planted)
    if seen.wet.any():
        mirrored = _mirror(camera, land, light, noise, seed)
        trees.stand(mirrored, camera, light, sprites, planted, mirrored=True)
        _fill_water(layers, mirrored, camera, land, seen, light=light, noise=noise, sea=wanted.place.water == "sea")
    trees.stand(layers, camera, light, sprites, planted, mirrored=False)
    if wanted.weather in ("rain", "snow"):
        _fall(layers.light, wanted.weather, Dice(seed, 6))
    return Painted(layers, light)


def _sprites(
    wanted: Plan, light: Light, noise: Noise, seed: int, *, camera: Camera, planted: list[trees.Tree]
) -> list[trees.Sprite | None]:
    """The scene's trees, each drawn as tall as its nearest copy; None for those that stand nowhere."""
    snow = 0.9 if wanted.place.ground == "snow" else 0.0
    drawn: list[trees.Sprite | None] = []
    for number in range(_SPRITES):
        tallest = max((t.size / (t.z * camera.pixel) for t in planted if t.sprite == number), default=0.0)
        dice = Dice(seed, 100 + number)
        size = int(np.clip(tallest, 20, 640))
        kind = wanted.kinds[number % len(wanted.kinds)]
        leaf = (_EVERGREEN if kind in ("spruce", "pine") else wanted.place.leaf) * dice.between(0.8, 1.25)
        drawn.append(trees.draw(kind, dice, noise, light, leaf=leaf, size=size, snow=snow) if tallest > 1.2 else None)
    return drawn


def _compose(camera: Camera, land: Land, seen: View, light: Light, air: Floats) -> Layers:
    """Sky behind, land before it; water is left black for `_fill_water`."""
    picture = air * (1 - seen.cover[..., None]) + seen.light
    columns = np.arange(camera.width)[None, :]
    above = seen.nearest < 0
    labels = np.where(above, LABEL["sky"], land.label[seen.nearest, columns]).astype(np.uint8)
    distance = np.where(above, np.inf, land.z[seen.nearest, 0]).astype(np.float32)
    if light.disc:
        _, solid = sky.disc(light, camera.columns(), camera.rows())
        labels[above & (solid > 0)] = LABEL[light.disc]
    return Layers(picture.astype(np.float32), labels, distance)


def _mirror(camera: Camera, land: Land, light: Light, noise: Noise, seed: int) -> Layers:
    """What the camera would see from below the water's surface, looking up; rows as in `view.see`."""
    rows = np.ascontiguousarray(-camera.rows()[::-1])
    above = sky.paint(light, noise, Dice(seed, 3), camera.columns(), rows)
    return _compose(camera, land, see(camera, land, mirrored=True), light, above)


def _fill_water(
    layers: Layers,
    reflected: Layers,
    camera: Camera,
    land: Land,
    seen: View,
    *,
    light: Light,
    noise: Noise,
    sea: bool,
) -> None:
    """Give water what it mirrors, moved by ripples, over its own colour; glints below the sun; foam at a beach."""
    u, t = camera.columns(), camera.rows()
    first = int(np.argmax(seen.wet.max(axis=1) > 0))  # rows above hold no water
    rows = np.arange(first, camera.height)
    below = np.maximum(-t[rows], camera.pixel * 0.5)[:, None]
    z = camera.up / below
    x = u[None, :] * z
    foot = z * camera.pixel
    calm = 1 - 0.75 * smoothstep(0.35, 0.6, noise.fbm(x / 30 + 4, z / 45, 2))
    waves = noise.fbm(x * 0.9, z * 2.6, 4, np.maximum(foot * 0.9, foot * foot * 1.2)) - 0.5
    sway = (waves * 0.5 * calm * np.minimum(below * 0.9, 0.09) / camera.pixel).astype(np.float32)
    source = np.clip((camera.height - 1 - rows)[:, None] + sway * 1.6, 0, camera.height - 1.001 - first)
    across = np.clip(np.arange(camera.width)[None, :] + np.floor(sway * 0.5 + 0.5).astype(np.intp), 0, camera.width - 1)
    upper = np.floor(source).astype(np.intp)
    share = (source - upper)[..., None].astype(np.float32)
    mirrored = mix(reflected.light[upper, across], reflected.light[upper + 1, across], share)
    grazing = np.clip(1 - below / np.sqrt(1 + below * below), 0, 1) ** 3.2
    body = _water_colour(land, seen.nearest[first:], light, z)
    surface = mix(body, mirrored, (0.12 + 0.83 * grazing)[..., None])
    surface = surface * (1 + 0.5 * waves * calm * np.clip(below * 6, 0, 1))[..., None]
    if light.disc:
        lane = np.exp(-(((u - light.disc_u)[None, :] / (0.035 + 0.3 * below)) ** 2))
        sparkle = smoothstep(0.02, 0.22, waves + 0.1 * (lane - 0.5))
        surface = (
            surface + light.glow * (lane * (0.12 + 1.5 * sparkle) * (0.8 if light.disc == "sun" else 0.4))[..., None]
        )
    depth = land.depth[np.maximum(seen.nearest[first:], 0), np.arange(camera.width)[None, :]]
    if sea:
        swash = np.sin(depth * 26 - waves * 7) - 1.7 * depth - 0.1
        foam = smoothstep(0.25, 0.8, swash) * smoothstep(0.42, 0.1, depth) * (depth > 0) * np.clip(1.4 - foot * 3, 0, 1)
        surface = mix(surface, light.ambient * 0.9 + light.beam * 0.5, (0.75 * foam * (0.4 + waves + 0.5))[..., None])
    clear = np.exp(-light.haze * z)[..., None]
    surface = surface * clear + terrain.veil(light, u)[None] * (1 - clear)
    layers.light[first:] += surface * seen.wet[first:, :, None]


def _water_colour(land: Land, index: np.ndarray[tuple[int, ...], np.dtype[np.intp]], light: Light, z: Floats) -> Floats:
    """Light from within the water: turquoise where shallow, deep blue beyond."""
    depth = land.depth[np.maximum(index, 0), np.arange(index.shape[1])[None, :]]
    shallow, deep = ink("#4fb0a5"), ink("#14496b")
    own = mix(shallow, deep, smoothstep(0.05, 0.5, depth)[..., None])
    return np.asarray(own * (light.ambient * 0.9 + light.beam * 0.35), np.float32)


def _fall(picture: Floats, weather: str, dice: Dice) -> None:
    """Rain as slanted streaks, snow as soft flakes; both thin out with distance. Not part of the other maps."""
    height, width = picture.shape[:2]
    slant = dice.between(-0.25, 0.25)
    count = 420 if weather == "rain" else 520
    drops = dice.many(count, 3)
    reach = 1.6  # picture heights to each side that are filled, whatever the aspect
    for x, y, near in drops:
        column, row = ((x - 0.5) * 2 * reach + width / height / 2) * height, y * height
        if weather == "rain":
            radius, length = max(0.35, (0.0006 + 0.0012 * near**3) * height), (0.02 + 0.06 * near * near) * height
            strength = 0.3 * min(1.0, (0.0006 + 0.0012 * near**3) * height / 0.35)
        else:
            radius, length = max(0.45, (0.0012 + 0.007 * near**6) * height), 0.0
            strength = (0.9 - 0.45 * near) * min(1.0, (0.0012 + 0.007 * near**6) * height / 0.45)
        r0, r1 = int(max(0, row - radius - 1)), int(min(height, row + length + radius + 2))
        c0 = int(max(0, column - radius - 2 - abs(slant) * length))
        c1 = int(min(width, column + radius + 2 + abs(slant) * length))
        if r0 >= r1 or c0 >= c1:
            continue
        dy = (np.arange(r0, r1) + 0.5 - row)[:, None]
        dx = (np.arange(c0, c1) + 0.5 - column)[None, :]
        along = np.clip(dy, 0, length)
        far = np.sqrt((dx - slant * along) ** 2 + (dy - along) ** 2)
        soft = max(0.8, radius * 0.9)
        cover = np.clip((radius - far) / soft + 0.5, 0, 1) * strength
        picture[r0:r1, c0:c1] += ((0.85 - picture[r0:r1, c0:c1]) * cover[..., None]).astype(np.float32)
