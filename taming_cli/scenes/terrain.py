"""The land: a height over the plane, what grows and lies there, and the light on it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taming_cli.scenes.canvas import LABEL, Bytes, Floats, ink, mix, smoothstep
from taming_cli.scenes.noise import Noise
from taming_cli.scenes.sky import Light, air
from taming_cli.scenes.view import Camera, Land


class Range(NamedTuple):
    """One belt of relief: hills, carved mountains or dunes around a distance."""

    kind: str  # "hills", "carved", "dunes"
    distance: float
    spread: float  # half width of the belt, in ln distance
    rise: float  # height / distance
    grain: float  # size of features / distance
    side: float = 0.0  # -1 only left, +1 only right, 0 everywhere


class Place(NamedTuple):
    """What a landscape is made of."""

    ranges: tuple[Range, ...]
    water: str = ""  # "", "lake", "river" or "sea"
    shore: float = 8.0  # distance of the near shore
    far_shore: float = 80.0
    woods: float = 0.0  # share of woodland
    canopy: float = 5.0  # height of its trees
    ground: str = "grass"  # "grass", "snow", "sand" or "beach"
    snowline: float = 0.16  # angle (height / distance) above which snow lies; large for none
    flowers: str = ""  # colour of some of the meadow's flowers
    leaf: Floats = ink("#2d5a27")
    grass: Floats = ink("#6f9a3e")
    rock: Floats = ink("#8a7f78")
    sand: Floats = ink("#d9c08c")


def _belt(noise: Noise, belt: Range, u: Floats, z: Floats, pixel: float) -> Floats:
    """Height of one belt on rows z (n, 1)."""
    x, footprint, size = u[None, :] * z, z * pixel, belt.grain * belt.distance
    q = np.log(z / belt.distance) / belt.spread
    swell = np.clip(1 - q * q, 0, 1) ** 2 if belt.kind != "dunes" else np.clip(1.1 - np.abs(q), 0, 1)
    px, pz = x / size + 7.7 * belt.distance, z / size + 3.1
    if belt.kind == "hills":
        rise = noise.fbm(px, pz, 5, footprint / size, 0.38) * 1.5 - 0.28
    elif belt.kind == "dunes":
        bent = px + 0.5 * noise.value(px * 0.7, pz * 0.7)
        crest = noise.fbm(bent * 0.55, pz * 1.3, 2, footprint / size, 0.3)
        rise = (1 - np.sqrt((2 * crest - 1) ** 2 + 0.002)) ** 2.2 * 1.1
    else:
        rise = noise.carved(px, pz, 9, footprint / size) * 1.75
    lateral = 0.55 + 0.75 * noise.value(u * 2.1 + belt.distance, np.full_like(u, 0.37 * belt.distance))
    if belt.side:
        lateral = lateral * smoothstep(-0.12, 0.4, u * belt.side)
    return np.asarray(belt.rise * belt.distance * swell * np.maximum(rise, 0) * lateral[None, :], np.float32)


def _shore(place: Place, noise: Noise, x: Floats, z: Floats, u: Floats) -> Floats:
    """Signed distance to the shore in ln z: positive on land."""
    q = np.log(z)
    wobble = (noise.fbm(u[None, :] * 2.3 + 5, q * 1.4, 3, 0.0) - 0.5) * 1.1
    near = np.log(place.shore) - q + wobble
    if place.water == "sea":
        return np.asarray(near, np.float32)
    if place.water == "river":
        bend = (noise.fbm(z / 26 + 3, np.full_like(z, 4.5), 2) - 0.5) * 46 * smoothstep(3, 40, z)
        near = (np.abs(x - bend) - 3.2) / (0.6 * z + 3)
        return np.asarray(near * 1.5, np.float32)
    far = q - np.log(place.far_shore) + 0.9 * wobble
    edge = np.maximum(near, far)
    return np.asarray(edge + 0.02 * np.abs(u)[None, :], np.float32)


def sample(camera: Camera, place: Place, light: Light, noise: Noise) -> Land:
    """Sample height, material and shaded colour of the land on the camera's fan."""
    u, z = camera.columns(), camera.distances()[:, None]
    x = u[None, :] * z
    footprint = z * camera.pixel
    near = smoothstep(1.5, 9, z)
    height = 0.16 * near * (noise.fbm(x / 7, z / 7, 3, footprint / 7) - 0.35) + 0.016 * z * (
        noise.fbm(x / 70 + 9, z / 70, 2, footprint / 70) - 0.42
    )
    if place.water:
        shore = _shore(place, noise, x, z, u)
        height = np.maximum(height, 0) * smoothstep(0.05, 0.6, shore) + 0.5 * np.tanh(shore * 2.2)
    else:
        shore = np.ones_like(x)
        height += 0.08
    relief, stone = np.zeros_like(height), np.zeros_like(height)
    for belt in place.ranges:
        rows = slice(*np.searchsorted(z[:, 0], belt.distance * np.exp(np.array([-1.1, 1.1]) * belt.spread)))
        if rows.start < rows.stop:
            rise = _belt(noise, belt, u, z[rows], camera.pixel)
            if place.water in ("lake", "river"):
                rise = rise * smoothstep(0.0, 0.6, shore[rows])
            relief[rows] += rise
            if belt.kind == "carved":
                stone[rows] += rise
    height = (height + relief).astype(np.float32)
    wet = height < 0
    depth = np.where(wet, -height, 0).astype(np.float32)
    woods = _woodland(place, noise, u, z, height=height, relief=relief, wet=wet)
    height = np.where(wet, 0, height)
    if place.ground == "sand":  # the wind's ripples
        lines = np.sin(x * 5 + z * 9 + 9 * noise.value(x * 0.35, z * 0.35) + 3 * noise.value(x * 1.2, z * 1.2))
        height = height + 0.022 * lines * np.clip(1.4 - 3 * z * footprint / camera.up, 0, 1)
    elif place.ground == "snow":  # drifts
        height = height + ~wet * 0.3 * (noise.fbm(x / 4 + 3, z / 3, 3, footprint / 3, 0.35) - 0.4) * smoothstep(
            60, 8, z
        )
    elif place.ground == "grass":  # tufts stand up before what lies behind them
        near = smoothstep(30, 8, z)
        tufts = noise.detail(x * 14, z * 12, near * np.clip(1.5 - 24 * footprint, 0, 1))
        tufts += noise.detail(x * 37, z * 29, near * np.clip(1.5 - 60 * footprint, 0, 1))
        height = height + 0.024 * tufts * ~wet * smoothstep(0.1, 0.3, height)
    # Beyond the trees that are drawn one by one, woodland is a rough canopy.
    tall = woods * smoothstep(55, 75, z) * place.canopy
    crowns = noise.value(x * 0.6, z * 0.6) if place.woods else np.zeros_like(height)
    height = (height + tall * (0.45 + 0.75 * crowns)).astype(np.float32)
    colour, label = _materials(
        camera, place, noise, u, z, height=height, relief=relief, stone=stone, wet=wet, woods=woods
    )
    colour = colour * _shading(light, u, z, height)
    return Land(z, u, height, _aerial(light, u, z, colour), label, wet, depth, woods)


def _woodland(
    place: Place, noise: Noise, u: Floats, z: Floats, *, height: Floats, relief: Floats, wet: NDArray[np.bool_]
) -> Floats:
    """Density of woodland, 0 to 1."""
    if not place.woods:
        return np.zeros_like(height)
    x = u[None, :] * z
    patch = noise.fbm(x / 34 + 2, z / 34, 3) * 0.65 + noise.value(x / 190, z / 190) * 0.35
    density = smoothstep(0.78 - 0.6 * place.woods, 0.86 - 0.6 * place.woods, patch)
    begins = smoothstep(3, 6, z) if place.woods > 0.95 else smoothstep(6, 14, z)
    dry = smoothstep(0.12, 0.3, height) if place.water else np.float32(1)
    treeline = 1 - smoothstep(0.55, 0.8, relief / np.maximum(place.snowline * z, 1e-3) * 0.9)
    return np.asarray(density * treeline * ~wet * dry * begins, np.float32)


def _materials(
    camera: Camera,
    place: Place,
    noise: Noise,
    u: Floats,
    z: Floats,
    *,
    height: Floats,
    relief: Floats,
    stone: Floats,
    wet: NDArray[np.bool_],
    woods: Floats,
) -> tuple[Floats, Bytes]:
    """Albedo (N, W, 3) and label of each sample."""
    x, footprint = u[None, :] * z, z * camera.pixel
    mottle = noise.fbm(x * 0.35, z * 0.35, 4, footprint * 0.35) - 0.5
    fine = noise.detail(x * 9, z * 6, np.clip(1.5 - 14 * footprint, 0, 1))
    slope = np.hypot(*_gradient(z, u, height))
    colour = place.grass * (1 + 0.75 * mottle + 0.5 * fine)[..., None]
    if place.ground == "grass":  # drier patches keep a meadow from being one green
        colour = mix(colour, ink("#b5a24e") * 0.9, (np.clip(mottle * 1.6 + 0.05, 0, 0.45))[..., None])
        if place.flowers:
            fade = np.clip(1.4 - 14 * footprint, 0, 1) * (z < 40)
            bloom = smoothstep(0.3, 0.36, noise.detail(x * 13, z * 13, fade)) * smoothstep(
                -0.05, 0.2, noise.detail(x / 5, z / 5, fade)
            )
            petals = np.where((noise.detail(x / 3, z / 3, fade) > 0)[..., None], ink("#f4e04d"), ink(place.flowers))
            colour = mix(colour, petals, 0.9 * bloom[..., None])
    label = np.full(height.shape, LABEL["grass"], np.uint8)
    label[relief > 0.02 * z] = LABEL["hill"]
    if place.ground in ("sand", "beach"):
        grains = noise.detail(x * 21, z * 21, np.clip(1.3 - 30 * footprint, 0, 1))
        sand = place.sand * (1 + 0.3 * mottle + 0.16 * grains)[..., None]
        open_sand = np.ones_like(z) if place.ground == "sand" else smoothstep(0.02, 0.006, relief / z)
        colour = mix(colour, sand, open_sand[..., None] * np.ones_like(colour[..., :1]))
        label[(open_sand > 0.5) & (height > -9)] = LABEL["sand"]
    ratio = relief / z
    if stone.any():
        bare = smoothstep(0.34, 0.6, slope + 1.6 * ratio - 0.12 + 0.5 * mottle) * smoothstep(0.02, 0.06, stone / z)
        strata = 1 + 0.32 * (noise.value(height / 9 + mottle * 3, np.float32(0.5) + 0 * height) - 0.5)
        colour = mix(colour, place.rock * (strata + 0.4 * mottle)[..., None], bare[..., None])
        label[bare > 0.5] = LABEL["mountain"]
        label[(bare > 0.5) & (z < 140)] = LABEL["rock"]  # cliffs
    if place.woods:
        canopy = place.leaf * (1 + 0.9 * mottle)[..., None]
        colour = mix(colour, canopy, woods[..., None])
        label[(woods > 0.5) & (z > 20)] = LABEL["woods"]
    if place.ground == "snow":
        snow = smoothstep(0.95, 0.55, slope + 0.35 * mottle)
        snow = snow * (1 - woods * smoothstep(12, 25, z) * (0.62 - 1.2 * mottle))
    else:
        snow = smoothstep(0.0, 0.05, ratio - place.snowline - 0.06 * mottle) * smoothstep(1.5, 0.9, slope)
    if place.ground != "sand":
        colour = mix(colour, ink("#d3dbe6") * (1 + 0.08 * mottle)[..., None], snow[..., None])
        label[snow > 0.5] = LABEL["snow"]
    if place.water:
        beach = smoothstep(0.3, 0.12, height + 0.12 * mottle) * smoothstep(400, 150, z)
        dry = ink("#cfd8e2") if place.ground == "snow" else place.sand * (1 + 0.3 * mottle + 0.2 * fine)[..., None]
        damp = smoothstep(0.1, 0.02, height)[..., None]
        colour = mix(colour, dry * (1 - 0.4 * damp), beach[..., None])
        label[beach > 0.5] = LABEL["snow" if place.ground == "snow" else "sand"]
    label[wet] = LABEL["water"]
    return np.maximum(colour, 0), label


def _gradient(z: Floats, u: Floats, height: Floats) -> tuple[Floats, Floats]:
    """dh/dx and dh/dz of the fan's heights."""
    across = np.gradient(height, axis=1) / ((u[1] - u[0]) * z)
    along = np.empty_like(height)
    along[1:-1] = (height[2:] - height[:-2]) / (z[2:] - z[:-2])
    along[0], along[-1] = along[1], along[-2]
    return across, along - u[None, :] * across


def _shading(light: Light, u: Floats, z: Floats, height: Floats) -> Floats:
    """Light that reaches each sample, (N, W, 3): the beam by Lambert's law with cast shadows, and the sky's."""
    dx, dz = _gradient(z, u, height)
    right, up, ahead = light.direction
    size = np.sqrt(1 + dx * dx + dz * dz)
    facing = np.clip((up - right * dx - ahead * dz) / size, 0, 1)
    # Shadows fall along the row: a sample lies in shadow below the running maximum of sun rays from the side.
    pitch = up / max(abs(right), 0.2)
    ray = height - pitch * u[None, :] * z * np.sign(right)
    order = slice(None, None, -1) if right > 0 else slice(None)
    over = np.maximum.accumulate(ray[:, order], axis=1)[:, order] - ray
    shadow = 1 - 0.85 * smoothstep(0.0, 0.02, over / z)
    sky = 0.55 + 0.45 / size
    return np.asarray((facing * shadow)[..., None] * light.beam + sky[..., None] * light.ambient, np.float32)


def _aerial(light: Light, u: Floats, z: Floats, colour: Floats) -> Floats:
    """Fade colours (N, W, 3) at distances z (N, 1) into the air before them."""
    clear = np.exp(-light.haze * z)[..., None]
    return np.asarray(colour * clear + veil(light, u)[None] * (1 - clear), np.float32)


def veil(light: Light, u: Floats) -> Floats:
    """Colour of the air before what is far, toward columns u (W,): (W, 3)."""
    return air(light, u, np.full_like(u, 0.03))
