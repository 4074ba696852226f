"""Shapes with smooth edges and round shading, painted over the layers of a picture.

Lengths are picture heights; x runs from the picture's middle to the right, y from its top down. A shape is its signed
distance field, negative inside: coverage is exact to a pixel, and the field's slope is the surface's tilt to the light.
"""

from typing import NamedTuple

import numpy as np

from taming_cli.scenes.canvas import LABEL, Bytes, Floats, Layers, mix, smoothstep
from taming_cli.scenes.sky import Light

Point = tuple[float, float]


class Patch(NamedTuple):
    """A window of the picture: its slices and the coordinates of its pixels, x (1, w), y (h, 1)."""

    at: tuple[slice, slice]
    x: Floats
    y: Floats


class Brush:
    """Paints on `layers`. Every shape also writes its label and its distance where it covers the pixel's centre."""

    def __init__(self, layers: Layers, light: Light) -> None:
        self.layers = layers
        self.height, self.width = layers.labels.shape
        self.light = light
        toward = np.array([light.direction[0], light.direction[1] + 0.2, max(0.35, -float(light.direction[2]))])
        self._sun = toward / np.linalg.norm(toward)
        self.parts: Bytes = np.zeros(layers.labels.shape, np.uint8)  # which part of a figure lies on top

    @property
    def pixel(self) -> float:
        """A pixel's side in picture heights."""
        return 1.0 / float(self.height)

    def window(self, x0: float, y0: float, x1: float, y1: float) -> Patch | None:
        """The pixels that a box and a pixel around it touch; None where that is outside the picture."""
        half = self.width / 2
        c0, c1 = max(0, int(x0 * self.height + half) - 2), min(self.width, int(x1 * self.height + half) + 3)
        r0, r1 = max(0, int(y0 * self.height) - 2), min(self.height, int(y1 * self.height) + 3)
        if c1 - c0 < 2 or r1 - r0 < 2:
            return None
        x = ((np.arange(c0, c1) + 0.5 - half) / self.height)[None, :].astype(np.float32)
        y = ((np.arange(r0, r1) + 0.5) / self.height)[:, None].astype(np.float32)
        return Patch((slice(r0, r1), slice(c0, c1)), x, y)

    def fill(
        self,
        patch: Patch | None,
        field: Floats,
        colour: Floats,
        label: str,
        distance: float | None,
        *,
        round_over: float = 0.0,
        outline: float = 0.0,
        part: int = 0,
    ) -> None:
        """Fill where `field` < 0. `round_over`: width over which the edge curves away; 0 paints `colour` as it is.

        `outline` darkens what lies around the shape, over that width, where another part of a figure is. `distance`
        None keeps what is there, for what lies flat on the ground.
        """
        if patch is None:
            return
        picture = self.layers.light[patch.at]
        if outline:
            near = np.clip(1 - field / outline, 0, 1) * ((self.parts[patch.at] > 0) & (self.parts[patch.at] != part))
            picture *= (1 - 0.3 * near * near)[..., None].astype(np.float32)
        cover = np.clip(0.5 - field / self.pixel, 0, 1).astype(np.float32)
        if round_over:
            colour = colour * self.shade(field, round_over)
        picture += (colour - picture) * cover[..., None]
        inside = field < 0
        self.layers.labels[patch.at][inside] = LABEL[label]
        if distance is not None:
            self.layers.distance[patch.at][inside] = distance
        if part:
            self.parts[patch.at][inside] = part

    def shade(self, field: Floats, round_over: float) -> Floats:
        """Light on a rounded shape, (h, w, 3)."""
        round_over = max(min(round_over, -float(field.min())), self.pixel)  # no crease along the middle
        dy, dx = np.gradient(field, self.pixel)
        tilt = np.clip(1 + field / round_over, 0, 0.96)
        facing = self._sun[0] * dx * tilt - self._sun[1] * dy * tilt + self._sun[2] * np.sqrt(1 - tilt * tilt)
        sky = 0.75 - 0.25 * dy * tilt
        lit = np.clip(facing, 0, 1)[..., None] * self.light.beam + sky[..., None] * self.light.ambient
        return np.asarray(lit, np.float32)

    def flat(self) -> Floats:
        """Light on a wall that faces the camera, (3,)."""
        return np.asarray(self.light.ambient * 0.8 + self.light.beam * max(0.15, self._sun[2]), np.float32)

    def capsule(self, a: Point, b: Point, ra: float, rb: float) -> tuple[Patch | None, Floats]:
        """A limb from a to b with radii ra and rb."""
        r = max(ra, rb) * 1.3
        patch = self.window(min(a[0], b[0]) - r, min(a[1], b[1]) - r, max(a[0], b[0]) + r, max(a[1], b[1]) + r)
        if patch is None:
            return None, np.zeros((0, 0), np.float32)
        dx, dy = b[0] - a[0], b[1] - a[1]
        along = np.clip(((patch.x - a[0]) * dx + (patch.y - a[1]) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
        far = np.sqrt((patch.x - a[0] - along * dx) ** 2 + (patch.y - a[1] - along * dy) ** 2)
        return patch, np.asarray(far - (ra + (rb - ra) * along), np.float32)

    def ellipse(self, centre: Point, rx: float, ry: float) -> tuple[Patch | None, Floats]:
        """An upright ellipse; its field is exact at the edge and close to it."""
        patch = self.window(centre[0] - 1.3 * rx, centre[1] - 1.3 * ry, centre[0] + 1.3 * rx, centre[1] + 1.3 * ry)
        if patch is None:
            return None, np.zeros((0, 0), np.float32)
        x, y = (patch.x - centre[0]) / rx, (patch.y - centre[1]) / ry
        k = np.sqrt(x * x + y * y)
        slope = np.sqrt((x / rx) ** 2 + (y / ry) ** 2)
        return patch, np.asarray(k * (k - 1) / np.maximum(slope, 1e-6), np.float32)

    def polygon(self, points: list[Point], rounding: float = 0.0) -> tuple[Patch | None, Floats]:
        """A simple polygon, grown by `rounding` on all sides. Field after I. Quilez, "2D distance functions"."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        r = rounding * 1.3
        patch = self.window(min(xs) - r, min(ys) - r, max(xs) + r, max(ys) + r)
        if patch is None:
            return None, np.zeros((0, 0), np.float32)
        x, y = np.broadcast_arrays(patch.x, patch.y)
        far, inside = np.full(x.shape, 1e9), np.zeros(x.shape, bool)
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            ex, ey, px, py = x1 - x0, y1 - y0, x - x0, y - y0
            s = np.clip((px * ex + py * ey) / max(ex * ex + ey * ey, 1e-12), 0, 1)
            far = np.minimum(far, (px - ex * s) ** 2 + (py - ey * s) ** 2)
            if y0 != y1:
                inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
        return patch, np.asarray(np.where(inside, -1, 1) * np.sqrt(far) - rounding, np.float32)

    def box(self, x0: float, y0: float, x1: float, y1: float, rounding: float = 0.0) -> tuple[Patch | None, Floats]:
        """An upright box with rounded corners."""
        patch = self.window(x0, y0, x1, y1)
        if patch is None:
            return None, np.zeros((0, 0), np.float32)
        dx = np.abs(patch.x - (x0 + x1) / 2) - (x1 - x0) / 2 + rounding
        dy = np.abs(patch.y - (y0 + y1) / 2) - (y1 - y0) / 2 + rounding
        outside = np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2)
        return patch, np.asarray(outside + np.minimum(np.maximum(dx, dy), 0) - rounding, np.float32)

    def shadow(self, centre: Point, rx: float, ry: float, strength: float) -> None:
        """Darken the ground softly in an ellipse; changes light alone."""
        patch = self.window(centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry)
        if patch is None:
            return
        far = np.sqrt(((patch.x - centre[0]) / rx) ** 2 + ((patch.y - centre[1]) / ry) ** 2)
        dark = strength * smoothstep(1.0, 0.2, far)
        picture = self.layers.light[patch.at]
        picture[:] = mix(picture, picture * np.array([0.16, 0.18, 0.26], np.float32), dark[..., None])
