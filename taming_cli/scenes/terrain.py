"""The land: its height over the plane, its materials, and the light that falls on it."""

from typing import NamedTuple

import numpy as np

from taming_cli.scenes.canvas import LABEL, Bytes, Floats, ink, mix, smoothstep
from taming_cli.scenes.noise import Noise
from taming_cli.scenes.sky import Light, air
from taming_cli.scenes.view import Camera, Land


class Range(NamedTuple):
    """One belt of relief around a distance."""

    kind: str  # "hills", "mountains" or "dunes"
    distance: float
    spread: float  # half width of the belt, in ln distance
    rise: float  # height / distance
    grain: float  # size of features / distance
    side: float = 0.0  # -1 only left, +1 only right, 0 everywhere


class Site(NamedTuple):
    """A landscape before it is painted: its land, hour, weather, trees and view."""

    ranges: tuple[Range, ...]
    hour: str
    leaf: Floats
    grass: Floats
    rock: Floats
    sand: Floats = ink("#d9c08c")
    weather: str = "clear"
    ground: str = "grass"  # "grass", "snow", "sand" or "beach"
    flowers: str = ""  # colour of some of the meadow's flowers
    snowline: float = 0.16  # angle (height / distance) above which snow lies; large for none
    water: str = ""  # "", "lake", "river" or "sea"
    shore: float = 8.0  # distance of the near shore
    far_shore: float = 80.0
    woods: float = 0.0  # share of woodland
    canopy: float = 5.0  # height of its trees
    trees: tuple[str, ...] = ()  # their kinds
    horizon: float = 0.5  # of the camera, see `Camera`
    up: float = 1.7


class _Fan(NamedTuple):
    """The points where the land is sampled: u (W,), z (N, 1), x (N, W), and a pixel's width there, (N, 1)."""

    u: Floats
    z: Floats
    x: Floats
    pixel: Floats
    noise: Noise

    def fbm(self, per: float, octaves: int, gain: float = 0.5, shift: float = 0.0, along: float = 1.0) -> Floats:
        """Return noise with `per` features per unit across and `per * along` in depth, centred on 0."""
        x, z = self.x * per + shift, self.z * (per * along)
        return self.noise.fbm(x, z, octaves, self.pixel * per, gain) - np.float32(0.5)

    def slope(self, height: Floats) -> tuple[Floats, Floats]:
        """Return dh/dx and dh/dz."""
        across = np.gradient(height, axis=1) / ((self.u[1] - self.u[0]) * self.z)
        along = np.empty_like(height)
        along[1:-1] = (height[2:] - height[:-2]) / (self.z[2:] - self.z[:-2])
        along[0], along[-1] = along[1], along[-2]
        return across, along - self.u * across


def sample(camera: Camera, place: Site, light: Light, noise: Noise) -> Land:
    """Sample height, material and shaded colour of the land on the camera's fan."""
    u, z = camera.columns(), camera.distances()[:, None]
    fan = _Fan(u, z, u * z, z * camera.pixel, noise)
    height = 0.16 * smoothstep(1.5, 9, z) * (fan.fbm(1 / 7, 3) + 0.15)
    height = height + 0.016 * z * (fan.fbm(1 / 70, 2, shift=9) + 0.08)
    shore = _shore(place, fan)
    if place.water:
        height = np.maximum(height, 0) * smoothstep(0.05, 0.6, shore) + 0.5 * np.tanh(shore * 2.2)
    else:
        height += 0.08
    relief, stone = np.zeros_like(height), np.zeros_like(height)
    for belt in place.ranges:
        rows = slice(*np.searchsorted(z[:, 0], belt.distance * np.exp(np.array([-1.1, 1.1]) * belt.spread)))
        if rows.start == rows.stop:
            continue
        rise = _rise(belt, noise, u, z[rows], camera.pixel)
        if place.water in ("lake", "river"):
            rise = rise * smoothstep(0.0, 0.6, shore[rows])
        relief[rows] += rise
        if belt.kind == "mountains":
            stone[rows] += rise
    height = (height + relief).astype(np.float32)
    depth = np.maximum(-height, 0)
    woods = _woodland(place, fan, height, relief)
    height = np.maximum(height, 0)
    if place.ground == "sand":  # the wind's ripples
        bends = 9 * noise.value(fan.x * 0.35, z * 0.35)
        lines = np.sin(fan.x * 5 + z * 9 + bends + 3 * noise.value(fan.x * 1.2, z * 1.2))
        height += 0.022 * lines * np.clip(1.4 - 3 * z * fan.pixel / camera.up, 0, 1)
    elif place.ground == "snow":  # drifts
        height += 0.3 * (depth == 0) * (fan.fbm(1 / 3, 3, 0.35, along=0.8) + 0.1) * smoothstep(60, 8, z)
    elif place.ground == "grass":  # tufts occlude the ground behind them
        tufts = (fan.fbm(14, 1) + fan.fbm(37, 1)) * smoothstep(30, 8, z)
        height += 0.024 * tufts * smoothstep(0.1, 0.3, height)
    # Beyond the trees that are drawn individually, woodland is a rough canopy.
    crowns = noise.value(fan.x * 0.6, z * 0.6) if place.woods else 0
    height += woods * smoothstep(55, 75, z) * place.canopy * (0.45 + 0.75 * crowns)
    colour, label = _materials(place, fan, height, relief, stone=stone, depth=depth, woods=woods)
    colour *= _shading(light, fan, height)
    clear = np.exp(-light.haze * z)[..., None]
    return Land(z, u, height, mix(veil(light, u), colour, clear), label, depth, woods)


def _shore(place: Site, fan: _Fan) -> Floats:
    """Return the signed distance to the shore in ln z, positive on land."""
    q = np.log(fan.z)
    wobble = (fan.noise.fbm(fan.u[None, :] * 2.3 + 5, q * 1.4, 3) - 0.5) * 1.1
    if place.water == "river":
        bend = (fan.noise.fbm(fan.z / 26 + 3, np.full_like(fan.z, 4.5), 2) - 0.5) * 46 * smoothstep(3, 40, fan.z)
        return np.asarray((np.abs(fan.x - bend) - 3.2) / (0.6 * fan.z + 3) * 1.5)
    near = np.log(place.shore) - q + wobble
    far = q - np.log(place.far_shore) + 0.9 * wobble
    return np.asarray(near if place.water == "sea" else np.maximum(near, far))


def _rise(belt: Range, noise: Noise, u: Floats, z: Floats, pixel: float) -> Floats:
    """Return the height of one belt on rows z (n, 1)."""
    size = belt.grain * belt.distance
    x, y, footprint = u * z / size + 7.7 * belt.distance, z / size + 3.1, z * pixel / size
    q = np.log(z / belt.distance) / belt.spread
    swell = np.clip(1 - q * q, 0, 1) ** 2
    if belt.kind == "hills":
        rise = noise.fbm(x, y, 5, footprint, 0.38) * 1.5 - 0.28
    elif belt.kind == "dunes":
        swell = np.clip(1.1 - np.abs(q), 0, 1)
        crest = noise.fbm((x + 0.5 * noise.value(x * 0.7, y * 0.7)) * 0.55, y * 1.3, 2, footprint, 0.3)
        rise = (1 - np.sqrt((2 * crest - 1) ** 2 + 0.002)) ** 2.2 * 1.1
    else:
        rise = noise.ridged(x, y, 9, footprint) * 1.25 - 0.05
    lateral = 0.55 + 0.75 * noise.value(u * 2.1 + belt.distance, np.full_like(u, 0.37 * belt.distance))
    if belt.side:
        lateral = lateral * smoothstep(-0.12, 0.4, u * belt.side)
    return np.asarray(belt.rise * belt.distance * swell * np.maximum(rise, 0) * lateral, np.float32)


def _woodland(place: Site, fan: _Fan, height: Floats, relief: Floats) -> Floats:
    """Return the density of woodland, 0 to 1."""
    if not place.woods:
        return np.zeros_like(height)
    patch = (fan.noise.fbm(fan.x / 34 + 2, fan.z / 34, 3)) * 0.65 + fan.noise.value(fan.x / 190, fan.z / 190) * 0.35
    density = smoothstep(0.78 - 0.6 * place.woods, 0.86 - 0.6 * place.woods, patch)
    begins = smoothstep(3, 6, fan.z) if place.woods > 0.95 else smoothstep(6, 14, fan.z)
    dry = smoothstep(0.12, 0.3, height) if place.water else height >= 0
    treeline = smoothstep(0.8, 0.55, relief / np.maximum(place.snowline * fan.z, 1e-3) * 0.9)
    return np.asarray(density * treeline * dry * begins)


def _materials(
    place: Site, fan: _Fan, height: Floats, relief: Floats, *, stone: Floats, depth: Floats, woods: Floats
) -> tuple[Floats, Bytes]:
    """Return albedo (N, W, 3) and label (N, W), in layers: meadow, sand, rock, woods, snow, beach, water."""
    z, noise = fan.z, fan.noise
    mottle, fine, ratio = fan.fbm(0.35, 4), fan.fbm(9, 1, along=0.7), relief / z
    slope = np.hypot(*fan.slope(height))
    colour = place.grass * (1 + 0.75 * mottle + 0.5 * fine)[..., None]
    label = np.where(relief > 0.02 * z, LABEL["hill"], LABEL["grass"]).astype(np.uint8)

    def lay(paint: Floats, share: Floats, name: str, where: Floats | bool = True) -> None:
        nonlocal colour
        colour = mix(colour, paint, share[..., None])
        if name:
            label[(share > 0.5) & where] = LABEL[name]

    if place.ground == "grass":  # drier patches keep a meadow from being one green
        lay(ink("#b5a24e") * 0.9, np.clip(mottle * 1.6 + 0.05, 0, 0.45), "")
        if place.flowers:
            bloom = smoothstep(0.3, 0.36, fan.fbm(13, 1)) * smoothstep(-0.05, 0.2, fan.fbm(0.2, 1)) * (z < 40)
            petals = np.where((fan.fbm(0.33, 1) > 0)[..., None], ink("#f4e04d"), ink(place.flowers))
            lay(petals, 0.9 * bloom, "")
    sand = place.sand * (1 + 0.3 * mottle + 0.2 * fine)[..., None]
    if place.ground in ("sand", "beach"):
        lay(sand, np.ones_like(height) if place.ground == "sand" else smoothstep(0.02, 0.006, ratio), "sand")
    if stone.any():
        bare = smoothstep(0.34, 0.6, slope + 1.6 * ratio - 0.12 + 0.5 * mottle) * smoothstep(0.02, 0.06, stone / z)
        strata = 0.84 + 0.32 * noise.value(height / 9 + mottle * 3, np.array(0.5, np.float32)) + 0.4 * mottle
        lay(place.rock * strata[..., None], bare, "mountain")
        label[(bare > 0.5) & (z < 140)] = LABEL["rock"]  # cliffs
    if place.woods:
        lay(place.leaf * (1 + 0.9 * mottle)[..., None], woods, "woods", z > 20)
    if place.ground == "snow":
        branches = woods * smoothstep(12, 25, z) * (0.62 - 1.2 * mottle)  # branches without snow
        snow = smoothstep(0.95, 0.55, slope + 0.35 * mottle) * (1 - branches)
    else:
        snow = smoothstep(0.0, 0.05, ratio - place.snowline - 0.06 * mottle) * smoothstep(1.5, 0.9, slope)
    if place.ground != "sand":
        lay(ink("#d3dbe6") * (1 + 0.08 * mottle)[..., None], snow, "snow")
    if place.water:
        beach = smoothstep(0.3, 0.12, height + 0.12 * mottle) * smoothstep(400, 150, z)
        dry, name = (ink("#cfd8e2"), "snow") if place.ground == "snow" else (sand, "sand")
        lay(dry * (1 - 0.4 * smoothstep(0.1, 0.02, height))[..., None], beach, name)
    label[depth > 0] = LABEL["water"]
    return np.maximum(colour, 0), label


def _shading(light: Light, fan: _Fan, height: Floats) -> Floats:
    """Return the light at each sample, (N, W, 3): the beam by Lambert's law, with cast shadows, and sky light."""
    dx, dz = fan.slope(height)
    right, up, ahead = light.direction
    size = np.sqrt(1 + dx * dx + dz * dz)
    facing = np.clip((up - right * dx - ahead * dz) / size, 0, 1)
    # Shadows fall along the row: a sample below the running maximum of the rays from its lit side is in shadow.
    ray = height - up / max(abs(right), 0.2) * fan.x * np.sign(right)
    order = slice(None, None, -1) if right > 0 else slice(None)
    over = np.maximum.accumulate(ray[:, order], axis=1)[:, order] - ray
    shadow = 1 - 0.85 * smoothstep(0.0, 0.02, over / fan.z)
    return np.asarray((facing * shadow)[..., None] * light.beam + (0.55 + 0.45 / size)[..., None] * light.ambient)


def veil(light: Light, u: Floats) -> Floats:
    """Return the colour that haze gives to distant objects in columns u (W,): (W, 3)."""
    return air(light, u, np.full_like(u, 0.03))
