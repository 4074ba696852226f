"""Light and sky: the time of day with its colours, the sun or moon, clouds, stars and aurora."""

from typing import NamedTuple

import numpy as np

from taming_cli.scenes.canvas import Dice, Floats, ink, mix, smoothstep
from taming_cli.scenes.noise import Noise


class Light(NamedTuple):
    """The light of one scene. Colours are linear (3,); angles are tangents as seen by the camera."""

    zenith: Floats
    horizon: Floats
    toward_sun: Floats  # the horizon's colour below the sun
    disc: str  # "sun", "moon" or "" when it stands outside the picture
    disc_u: float
    disc_t: float
    direction: Floats  # unit vector to the sun or moon: right, up, into the picture
    beam: Floats  # what it adds to a surface that faces it
    ambient: Floats
    glow: Floats
    cloud: Floats
    shade: Floats  # the clouds' dark side
    cover: float  # share of the sky in cloud
    haze: float  # aerial perspective: extinction per unit of distance
    stars: float
    aurora: float


# zenith, horizon, horizon below the sun, beam, ambient, glow, cloud, shade
_HOURS: dict[str, tuple[tuple[str, ...], ...]] = {
    "noon": (
        ("#2f74c8", "#b4d8f0", "#cfe6f2", "#fff3dc", "#8fb4dc", "#fff4d8", "#ffffff", "#9db0c6"),
        ("#3a86d0", "#c4e2ee", "#e2eee6", "#ffefd0", "#93b8d4", "#fff0d0", "#fffdf8", "#a9b8c4"),
        ("#2763b4", "#9fcdf0", "#c4e0f0", "#fff6e4", "#86b0e0", "#fff8e4", "#ffffff", "#8ea6c4"),
    ),
    "golden": (
        ("#4d86bd", "#f0d9b0", "#ffd79a", "#ffca80", "#8aa0bc", "#ffcf86", "#fff0d8", "#a396a6"),
        ("#5a8fb8", "#e8d4c0", "#ffcfa0", "#ffc78a", "#8e9cb8", "#ffc890", "#ffe8d4", "#9a93ac"),
    ),
    "sunset": (
        ("#2c3f78", "#e8906a", "#ffb055", "#ff8f4a", "#77709e", "#ff9a3c", "#ffae7a", "#6c4a70"),
        ("#3a3a80", "#e27a86", "#ffa070", "#ff7d58", "#80689c", "#ff8a58", "#ff9a90", "#603f74"),
        ("#25507e", "#f2b27a", "#ffd070", "#ffa45c", "#7f7c98", "#ffbe58", "#ffc890", "#80637c"),
        ("#41305f", "#cc5a5e", "#ff8040", "#ff6a3a", "#745a86", "#ff6f30", "#f07a60", "#54345c"),
    ),
    "night": (
        ("#0b1a3a", "#2c4a74", "#4a6a94", "#7f9cc8", "#33476e", "#8fb0dc", "#54719c", "#1c2e50"),
        ("#120f36", "#3a3a72", "#5a5a94", "#8a92cc", "#3a3c6c", "#9aa4e0", "#5c5e98", "#22204c"),
        ("#061c30", "#1f5064", "#3c7884", "#80b4bc", "#2c5060", "#8cc8cc", "#4c7c88", "#143440"),
    ),
    "overcast": (
        ("#8c9aa8", "#ccd3d6", "#dcdcd6", "#9a9a94", "#b0b8c0", "#d8d8d0", "#dadfe2", "#8a949e"),
        ("#7c8c9c", "#bccad0", "#d0d6d2", "#8c9290", "#a4b2bc", "#ccd2d0", "#ccd6da", "#7a8894"),
    ),
}


def light(dice: Dice, hour: str, *, aspect: float, weather: str = "clear") -> Light:
    """Draw the light of an hour: noon, golden, sunset, night or overcast. `aspect` is the picture's width / height."""
    zenith, horizon, toward, beam, ambient, glow, cloud, shade = (ink(c) for c in dice.pick(_HOURS[hour]))
    side = -1.0 if dice.chance(0.5) else 1.0
    across, lift = dice.between(0.05, 0.36), dice.between(0, 1)
    disc, disc_t = "", 0.5
    if hour == "sunset":
        disc, disc_t = "sun", 0.02 + 0.11 * lift
        direction = np.array([side * (0.45 + across), 0.14 + 0.2 * lift, 0.75])
        beam, ambient = beam * 1.5, ambient * 0.62
    elif hour == "night":
        disc, disc_t = "moon", 0.2 + 0.17 * lift
        direction = np.array([side * 0.7, 0.5, 0.25])
        beam, ambient = beam * 0.85, ambient * 0.6
    elif hour == "golden":
        direction = np.array([side * 0.86, 0.32 + 0.12 * lift, -0.25])
        beam, ambient = beam * 1.65, ambient * 0.5
    elif hour == "overcast":
        direction = np.array([side * 0.4, 0.9, -0.2])
        beam, ambient = beam * 0.75, ambient * 0.85
    else:
        if dice.chance(0.3):
            disc, disc_t = "sun", 0.3 + 0.08 * lift
        direction = np.array([side * 0.72, 0.5 + 0.2 * lift, -0.35 if not disc else 0.15])
        beam, ambient = beam * 1.5, ambient * 0.55
    clear = {"clear": dice.between(0.1, 0.62), "haze": dice.between(0, 0.4), "rain": 0.92, "snow": 0.85}[weather]
    return Light(
        zenith=zenith,
        horizon=horizon,
        toward_sun=toward,
        disc=disc,
        disc_u=side * across * aspect,
        disc_t=disc_t,
        direction=(direction / np.linalg.norm(direction)).astype(np.float32),
        beam=beam,
        ambient=ambient,
        glow=glow,
        cloud=cloud,
        shade=shade,
        cover=max(clear, 0.75) if hour == "overcast" else clear,
        haze={"clear": 0.0005, "haze": 0.006, "rain": 0.003, "snow": 0.003}[weather] * dice.between(0.7, 1.3),
        stars=1.0 if hour == "night" else 0.0,
        aurora=dice.between(0.5, 1.0) if hour == "night" and dice.chance(0.3) else 0.0,
    )


def air(light: Light, u: Floats, t: Floats) -> Floats:
    """The cloudless sky's colour in directions (u, t), which broadcast to (...); returns (..., 3)."""
    u, t = np.broadcast_arrays(u, t)
    up = np.exp(-np.maximum(t, 0) * 4.6)[..., None]
    near = np.exp(-np.abs(u - light.disc_u) * 1.7)[..., None] if light.disc else np.zeros_like(up)
    if light.disc != "sun" or light.stars:
        near = near * 0.5
    low = light.horizon + (light.toward_sun - light.horizon) * near
    sky = light.zenith + (low - light.zenith) * up
    if light.disc:
        far = (u - light.disc_u) ** 2 + (t - light.disc_t) ** 2
        halo = (0.5 / (1 + 130 * far) + 0.28 * np.exp(-5 * far)) * (0.4 if light.disc == "moon" else 0.75)
        sky = sky + light.glow * halo[..., None]
    return np.asarray(sky, np.float32)


def _clouds(light: Light, noise: Noise, dice: Dice, sky: Floats, *, u: Floats, t: Floats) -> None:
    """Lay clouds of a flat sheet, seen in perspective, over `sky` (rows, W, 3) in place."""
    scale, stretch = dice.between(0.9, 1.6), dice.between(0.7, 1.0)
    puffy = dice.between(0.06, 0.3)
    sheet = 1 / (t[:, None] + 0.16)
    x, y = u[None, :] * sheet * scale * stretch + 40, sheet * scale * 1.5 + 11
    footprint = (u[1] - u[0]) * sheet * scale * 1.4
    # The sun's side of a cloud is thinner toward the sun: compare two looks at the same sheet.
    dx, dy = light.direction[0], light.direction[2]
    if light.disc:
        dx, dy = light.disc_u - u[None, :], np.float32(0.25)
    n = noise.fbm(x, y, 6, footprint)
    shifted = noise.fbm(x + 0.22 * dx, y + 0.22 * dy, 3, footprint)
    lift = 0.68 - 0.42 * light.cover
    body = smoothstep(lift, lift + puffy, n)
    lit = np.clip(0.62 + (shifted - n) * -3.2 + (lift + 0.12 - n) * 1.1, 0, 1)
    body = body * smoothstep(0.0, 0.07, t)[:, None] * 0.94
    colour = light.shade + (light.cloud - light.shade) * lit[..., None]
    if light.disc:  # thin edges before the sun are bright
        far = (u[None, :] - light.disc_u) ** 2 + (t[:, None] - light.disc_t) ** 2
        rim = np.exp(-7 * far) * (1 - body) * (0.9 if light.disc == "sun" else 0.35)
        colour = colour + light.glow * rim[..., None]
    haze = np.exp(-t * 6)[:, None, None] * 0.55
    colour = colour + (sky - colour) * haze
    sky += (colour - sky) * body[..., None]


def _stars(dice: Dice, sky: Floats, u: Floats, t: Floats) -> None:
    """Points of light, each spread over the pixels around it so that none is lost between them."""
    count = 420
    draws = dice.many(count, 4)
    pixel = float(u[1] - u[0])
    x = (draws[:, 0] - 0.5) * max(2.2, 2.2 * float(u[-1]))
    y = draws[:, 1] * 0.75
    # Few are bright. A star is a dot of fixed angle, or one pixel with its share of the light.
    strength = 0.06 + 1.2 * draws[:, 2] ** 7
    radius = max(0.0011, pixel * 0.6)
    strength = strength * min(1.0, (0.0022 / radius)) * 1.6
    column, row = (x - u[0]) / pixel, (t[0] - y) / pixel
    reach = int(np.ceil(2 * radius / pixel))
    for dj in range(-reach, reach + 1):
        for di in range(-reach, reach + 1):
            i, j = np.floor(column + 0.5).astype(int) + di, np.floor(row + 0.5).astype(int) + dj
            inside = (i >= 0) & (i < sky.shape[1]) & (j >= 0) & (j < sky.shape[0])
            far = ((i - column) ** 2 + (j - row) ** 2) * (pixel / radius) ** 2
            value = strength * np.exp(-far * 1.2) * smoothstep(0.0, 0.12, y)
            tint = mix(ink("#ffe0c0"), ink("#cfe0ff"), draws[:, 3:])
            np.add.at(sky, (j[inside], i[inside]), (value[:, None] * tint)[inside])


def _aurora(light: Light, noise: Noise, sky: Floats, u: Floats, t: Floats) -> None:
    """Curtains of green light with a violet hem above, hanging along a wandering line."""
    line = 0.1 + 0.26 * noise.fbm(u * 1.6 + 3, np.full_like(u, 7.5), 3)
    rays = 0.35 + 0.65 * noise.fbm(u * 26 + 9, np.full_like(u, 2.5), 3, float(u[1] - u[0]) * 26)
    height = (t[:, None] - line[None, :]) / 0.2
    veil = smoothstep(-0.12, 0.1, height) * np.exp(-np.maximum(height, 0) * 1.5) * rays[None, :]
    hue = mix(ink("#3cf0a0"), ink("#9a5ae8"), smoothstep(0.1, 1.5, height)[..., None])
    sky += hue * veil[..., None] * (0.55 * light.aurora)


def paint(light: Light, noise: Noise, dice: Dice, u: Floats, t: Floats) -> Floats:
    """The whole sky for columns u (W,) and rows t (rows,), descending: linear light (rows, W, 3)."""
    sky = air(light, u[None, :], t[:, None])
    above = int(np.count_nonzero(t > 0))
    if light.stars:
        _stars(dice, sky, u, t)
    if light.aurora:
        _aurora(light, noise, sky, u, t)
    if light.disc:
        radius = 0.03 if light.disc == "sun" else 0.034
        shine, _ = disc(light, u, t, radius)
        face = light.glow * 1.3 + 0.7 if light.disc == "sun" else ink("#f4f0dc") * _craters(light, noise, u, t)
        sky += (face - sky) * shine[..., None]
    if above > 1:
        _clouds(light, noise, dice, sky[:above], u=u, t=t[:above])
    return sky


def _craters(light: Light, noise: Noise, u: Floats, t: Floats) -> Floats:
    """The moon's seas, as a factor (rows, W, 1)."""
    seas = noise.fbm((u[None, :] - light.disc_u) * 60, (t[:, None] - light.disc_t) * 60, 3)
    return (1.06 - 0.42 * smoothstep(0.42, 0.62, seas))[..., None]


def disc(light: Light, u: Floats, t: Floats, radius: float | None = None) -> tuple[Floats, Floats]:
    """Coverage of the sun or moon with a soft edge, and its coverage by pixel centres (0 or 1), both (rows, W)."""
    radius = radius or (0.03 if light.disc == "sun" else 0.034)
    pixel = float(u[1] - u[0])
    far = np.sqrt((u[None, :] - light.disc_u) ** 2 + (t[:, None] - light.disc_t) ** 2)
    soft = np.clip((radius - far) / pixel + 0.5, 0, 1)
    return soft.astype(np.float32), (far <= radius).astype(np.float32)
