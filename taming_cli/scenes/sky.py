"""Light and sky: the time of day with its colours, the sun or moon, clouds, stars and aurora."""

from typing import NamedTuple

import numpy as np

from taming_cli.scenes.canvas import Dice, Floats, ink, mix, smoothstep
from taming_cli.scenes.noise import Noise

_RADIUS = 0.032  # of the sun and the moon, as a tangent


class Light(NamedTuple):
    """The light of one scene. Colours are linear (3,); positions are tangents of viewing angles."""

    zenith: Floats
    horizon: Floats
    toward: Floats  # the horizon's colour below the sun
    beam: Floats  # what the sun or moon adds to a surface that faces it
    ambient: Floats
    glow: Floats
    cloud: Floats
    shade: Floats  # the clouds' dark side
    disc: str  # "sun", "moon", or "" outside the picture; stars come with the moon
    shine: float  # strength of the disc's glow: 1 for the sun, 0 without a disc
    disc_u: float
    disc_t: float
    direction: Floats  # unit vector to the sun or moon: right, up, into the picture
    cover: float  # share of the sky in cloud
    haze: float  # aerial perspective: extinction per unit of distance
    aurora: float


class _Hour(NamedTuple):
    """A time of day. Pairs (a, b) are a + b * s for one random s in [0, 1)."""

    disc: str
    height: tuple[float, float]  # of the disc, as a tangent
    right: float  # the light's direction, or its opposite
    up: tuple[float, float]
    ahead: float
    beam: float  # factors on the palette's colours
    ambient: float
    palettes: tuple[tuple[str, ...], ...]  # zenith, horizon, toward, beam, ambient, glow, cloud, shade


_HOURS = {
    "noon": _Hour("", (0.3, 0.08), 0.72, (0.5, 0.2), -0.35, 1.5, 0.55, (
        ("#2f74c8", "#b4d8f0", "#cfe6f2", "#fff3dc", "#8fb4dc", "#fff4d8", "#ffffff", "#9db0c6"),
        ("#3a86d0", "#c4e2ee", "#e2eee6", "#ffefd0", "#93b8d4", "#fff0d0", "#fffdf8", "#a9b8c4"),
        ("#2763b4", "#9fcdf0", "#c4e0f0", "#fff6e4", "#86b0e0", "#fff8e4", "#ffffff", "#8ea6c4"),
    )),
    "golden": _Hour("", (0.5, 0), 0.86, (0.32, 0.12), -0.25, 1.65, 0.5, (
        ("#4d86bd", "#f0d9b0", "#ffd79a", "#ffca80", "#8aa0bc", "#ffcf86", "#fff0d8", "#a396a6"),
        ("#5a8fb8", "#e8d4c0", "#ffcfa0", "#ffc78a", "#8e9cb8", "#ffc890", "#ffe8d4", "#9a93ac"),
    )),
    "sunset": _Hour("sun", (0.02, 0.11), 0.65, (0.14, 0.2), 0.75, 1.5, 0.62, (
        ("#2c3f78", "#e8906a", "#ffb055", "#ff8f4a", "#77709e", "#ff9a3c", "#ffae7a", "#6c4a70"),
        ("#3a3a80", "#e27a86", "#ffa070", "#ff7d58", "#80689c", "#ff8a58", "#ff9a90", "#603f74"),
        ("#25507e", "#f2b27a", "#ffd070", "#ffa45c", "#7f7c98", "#ffbe58", "#ffc890", "#80637c"),
        ("#41305f", "#cc5a5e", "#ff8040", "#ff6a3a", "#745a86", "#ff6f30", "#f07a60", "#54345c"),
    )),
    "night": _Hour("moon", (0.2, 0.17), 0.7, (0.5, 0), 0.25, 0.85, 0.6, (
        ("#0b1a3a", "#2c4a74", "#4a6a94", "#7f9cc8", "#33476e", "#8fb0dc", "#54719c", "#1c2e50"),
        ("#120f36", "#3a3a72", "#5a5a94", "#8a92cc", "#3a3c6c", "#9aa4e0", "#5c5e98", "#22204c"),
        ("#061c30", "#1f5064", "#3c7884", "#80b4bc", "#2c5060", "#8cc8cc", "#4c7c88", "#143440"),
    )),
    "overcast": _Hour("", (0.5, 0), 0.4, (0.9, 0), -0.2, 0.75, 0.85, (
        ("#8c9aa8", "#ccd3d6", "#dcdcd6", "#9a9a94", "#b0b8c0", "#d8d8d0", "#dadfe2", "#8a949e"),
        ("#7c8c9c", "#bccad0", "#d0d6d2", "#8c9290", "#a4b2bc", "#ccd2d0", "#ccd6da", "#7a8894"),
    )),
}  # fmt: skip


def light(dice: Dice, hour: str, *, aspect: float, weather: str = "clear") -> Light:
    """Pick the light of an hour: noon, golden, sunset, night or overcast. `aspect` is the picture's width / height."""
    at = _HOURS[hour]
    zenith, horizon, toward, beam, ambient, glow, cloud, shade = (ink(colour) for colour in dice.pick(at.palettes))
    side, across, lift = dice.pick((-1.0, 1.0)), dice.between(0.05, 0.36), dice.between(0, 1)
    if hour == "noon" and dice.chance(0.3):
        at = at._replace(disc="sun", ahead=0.15)
    direction = np.array([side * at.right, at.up[0] + at.up[1] * lift, at.ahead])
    cover = {"clear": dice.between(0.1, 0.62), "haze": dice.between(0, 0.4), "rain": 0.92, "snow": 0.85}[weather]
    return Light(
        zenith, horizon, toward, beam * at.beam, ambient * at.ambient, glow, cloud, shade,
        disc=at.disc,
        shine={"sun": 1.0, "moon": 0.5, "": 0.0}[at.disc],
        disc_u=side * across * aspect,
        disc_t=at.height[0] + at.height[1] * lift,
        direction=(direction / np.linalg.norm(direction)).astype(np.float32),
        cover=max(cover, 0.75) if hour == "overcast" else cover,
        haze={"clear": 0.0005, "haze": 0.006, "rain": 0.003, "snow": 0.003}[weather] * dice.between(0.7, 1.3),
        aurora=dice.between(0.5, 1.0) if hour == "night" and dice.chance(0.3) else 0.0,
    )  # fmt: skip


def air(light: Light, u: Floats, t: Floats) -> Floats:
    """Return the cloudless sky's colour in directions (u, t), which broadcast to (...): (..., 3)."""
    up = np.exp(-np.maximum(t, 0) * 4.6)[..., None]
    near = light.shine * np.exp(-np.abs(u - light.disc_u) * 1.7)[..., None]
    sky = light.zenith + (mix(light.horizon, light.toward, near) - light.zenith) * up
    if light.shine:
        far = (u - light.disc_u) ** 2 + (t - light.disc_t) ** 2
        sky += light.glow * (light.shine * (0.37 / (1 + 130 * far) + 0.21 * np.exp(-5 * far)))[..., None]
    return np.asarray(sky, np.float32)


def paint(light: Light, noise: Noise, dice: Dice, u: Floats, t: Floats) -> Floats:
    """Paint the sky for columns u (W,) and rows t (H,), descending: linear light (H, W, 3)."""
    above = int(np.count_nonzero(t > 0))
    u, t = u[None, :], t[:, None]
    sky = air(light, u, t)
    if light.disc == "moon":
        peaks = smoothstep(0.95, 1.0, noise.value(u * 110, t * 110)) * noise.value(u * 23, t * 23) ** 2
        sky += ink("#e8f0ff") * (2 * peaks * smoothstep(0.0, 0.12, t))[..., None]
    if light.aurora:
        _aurora(light, noise, sky, u, t)
    if light.disc:
        seas = smoothstep(0.42, 0.62, noise.fbm((u - light.disc_u) * 60, (t - light.disc_t) * 60, 3))[..., None]
        face = light.glow * 1.3 + 0.7 if light.disc == "sun" else ink("#f4f0dc") * (1.06 - 0.42 * seas)
        pixel = float(u[0, 1] - u[0, 0])
        sky += (face - sky) * np.clip(disc(light, u, t) / pixel + 0.5, 0, 1)[..., None]
    if above:
        _clouds(light, noise, dice, sky[:above], u, t[:above])
    return sky


def disc(light: Light, u: Floats, t: Floats) -> Floats:
    """Return the distance of directions (u, t) from the edge of the sun or moon, positive inside."""
    return np.asarray(_RADIUS - np.hypot(u - light.disc_u, t - light.disc_t))


def _aurora(light: Light, noise: Noise, sky: Floats, u: Floats, t: Floats) -> None:
    """Add curtains of green light with a violet upper hem along a wavy line."""
    line = 0.1 + 0.26 * noise.fbm(u * 1.6 + 3, np.full_like(u, 7.5), 3)
    rays = 0.35 + 0.65 * noise.fbm(u * 26 + 9, np.full_like(u, 2.5), 3, float(u[0, 1] - u[0, 0]) * 26)
    height = (t - line) / 0.2
    veil = smoothstep(-0.12, 0.1, height) * np.exp(-np.maximum(height, 0) * 1.5) * rays
    hue = mix(ink("#3cf0a0"), ink("#9a5ae8"), smoothstep(0.1, 1.5, height)[..., None])
    sky += hue * veil[..., None] * (0.55 * light.aurora)


def _clouds(light: Light, noise: Noise, dice: Dice, sky: Floats, u: Floats, t: Floats) -> None:
    """Add clouds: a flat sheet in perspective."""
    scale, stretch, soft = dice.between(0.9, 1.6), dice.between(0.7, 1.0), dice.between(0.06, 0.3)
    sheet = scale / (t + 0.16)
    x, y, footprint = u * sheet * stretch + 40, sheet * 1.5 + 11, (u[0, 1] - u[0, 0]) * sheet * 1.4
    # On its lit side a cloud becomes thinner toward the light: compare two samples of the sheet.
    dx, dy = (light.disc_u - u, 0.25) if light.disc else (light.direction[0], light.direction[2])
    n = noise.fbm(x, y, 6, footprint)
    shifted = noise.fbm(x + 0.22 * dx, y + np.float32(0.22 * dy), 3, footprint)
    lift = 0.68 - 0.42 * light.cover
    body = smoothstep(lift, lift + soft, n) * smoothstep(0.0, 0.07, t) * 0.94
    lit = np.clip(0.62 + (shifted - n) * -3.2 + (lift + 0.12 - n) * 1.1, 0, 1)
    colour = mix(light.shade, light.cloud, lit[..., None])
    if light.shine:  # thin edges in front of the sun are bright
        far = (u - light.disc_u) ** 2 + (t - light.disc_t) ** 2
        colour += light.glow * (np.exp(-7 * far) * (1 - body) * (0.9 * light.shine))[..., None]
    colour = mix(colour, sky, np.exp(-t * 6)[..., None] * 0.55)
    sky += (colour - sky) * body[..., None]
