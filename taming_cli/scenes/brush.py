"""Shapes with smooth edges and round shading, painted over the layers of a picture.

Lengths are picture heights; x runs from the picture's middle to the right, y from its top down. A shape is a signed
distance field, negative inside: it yields coverage at subpixel precision, and its slope tilts the surface to the light.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from taming_cli.scenes.canvas import LABEL, Bytes, Floats, Layers
from taming_cli.scenes.sky import Light

Point = tuple[float, float]
Field = Callable[[Floats, Floats], Floats]
"""A function of coordinates x (1, w) and y (h, 1)."""


class Shape(NamedTuple):
    """A signed distance field and its bounding box (left, top, right, bottom)."""

    box: tuple[float, float, float, float]
    field: Field


def capsule(a: Point, b: Point, ra: float, rb: float) -> Shape:
    """A limb from a to b with radii ra and rb."""
    dx, dy = b[0] - a[0], b[1] - a[1]

    def field(x: Floats, y: Floats) -> Floats:
        along = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
        return np.hypot(x - a[0] - along * dx, y - a[1] - along * dy) - (ra + (rb - ra) * along)

    return Shape(_around([a, b], 1.3 * max(ra, rb)), field)


def ellipse(centre: Point, rx: float, ry: float) -> Shape:
    """An upright ellipse; its field is exact at the edge and close to it."""

    def field(x: Floats, y: Floats) -> Floats:
        x, y = (x - centre[0]) / rx, (y - centre[1]) / ry
        k = np.sqrt(x * x + y * y)
        return np.asarray(k * (k - 1) / np.maximum(np.sqrt((x / rx) ** 2 + (y / ry) ** 2), 1e-6))

    x, y = centre
    return Shape((x - 1.3 * rx, y - 1.3 * ry, x + 1.3 * rx, y + 1.3 * ry), field)


def polygon(points: list[Point], rounding: float = 0.0) -> Shape:
    """A simple polygon, grown by `rounding` on all sides. Field after I. Quilez, "2D distance functions"."""

    def field(x: Floats, y: Floats) -> Floats:
        x, y = np.broadcast_arrays(x, y)
        far, inside = np.full(x.shape, 1e9), np.zeros(x.shape, bool)
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            ex, ey, px, py = x1 - x0, y1 - y0, x - x0, y - y0
            s = np.clip((px * ex + py * ey) / max(ex * ex + ey * ey, 1e-12), 0, 1)
            far = np.minimum(far, (px - ex * s) ** 2 + (py - ey * s) ** 2)
            if y0 != y1:
                inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
        return np.asarray(np.where(inside, -1, 1) * np.sqrt(far) - rounding)

    return Shape(_around(points, 1.3 * rounding), field)


def box(centre: Point, rx: float, ry: float, rounding: float = 0.0) -> Shape:
    """An upright box with half sides rx and ry and rounded corners."""

    def field(x: Floats, y: Floats) -> Floats:
        dx, dy = np.abs(x - centre[0]) - rx + rounding, np.abs(y - centre[1]) - ry + rounding
        return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - rounding

    return Shape((centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry), field)


def _around(points: list[Point], margin: float) -> tuple[float, float, float, float]:
    xs, ys = zip(*points, strict=True)
    return min(xs) - margin, min(ys) - margin, max(xs) + margin, max(ys) + margin


class Brush:
    """Paints shapes on `layers`, lit by `light`."""

    def __init__(self, layers: Layers, light: Light) -> None:
        self.layers, self.light = layers, light
        self.height, self.width = layers.labels.shape
        self.pixel = 1.0 / self.height
        self._x = ((np.arange(self.width) + 0.5 - self.width / 2) / self.height).astype(np.float32)[None, :]
        self._y = ((np.arange(self.height) + 0.5) / self.height).astype(np.float32)[:, None]
        right, up, ahead = (float(v) for v in light.direction)
        sun = np.array([right, up + 0.2, max(0.35, -ahead)])
        self._sun = sun / np.linalg.norm(sun)
        self.flat: Floats = light.ambient * 0.8 + light.beam * np.float32(max(0.15, self._sun[2]))
        """Light on a wall that faces the camera, (3,)."""
        self.parts: Bytes = np.zeros(layers.labels.shape, np.uint8)
        """The topmost part of a figure at each pixel, 0 for none."""

    def fill(
        self,
        shape: Shape,
        colour: Floats | Field,
        label: str = "",
        distance: float | None = None,
        *,
        round_over: float = 0.0,
        outline: float = 0.0,
        soft: float = 0.0,
        opacity: float = 1.0,
        part: int = 0,
    ) -> None:
        """Fill where the shape's field is negative.

        `colour` is (3,), (h, w, 3) or a function that returns either. `round_over` is the width over which the edge
        curves away from the light; at 0 `colour` is painted without shading. `outline` is the width around the shape in
        which other parts of a figure darken. `soft` is the width of the edge. `label`, `distance` and `part`, if given,
        are written where the shape covers the pixel's centre.
        """
        at, x, y = self.window(shape.box)
        if x.size < 2 or y.size < 2:
            return
        field = shape.field(x, y).astype(np.float32, copy=False)
        picture, parts = self.layers.picture[at], self.parts[at]
        if outline:
            near = np.clip(1 - field / outline, 0, 1) * ((parts > 0) & (parts != part))
            picture *= (1 - 0.3 * near * near)[..., None].astype(np.float32)
        cover = np.clip(0.5 - field / max(self.pixel, soft), 0, 1) * np.float32(opacity)
        if callable(colour):
            colour = colour(x, y)
        if round_over:
            colour = colour * self._shade(field, round_over)
        picture[..., :3] += (colour - picture[..., :3]) * cover[..., None]
        if picture.shape[2] == 4:
            picture[..., 3] += (1 - picture[..., 3]) * cover
        inside = field < 0
        if label:
            self.layers.labels[at][inside] = LABEL[label]
        if distance is not None:
            self.layers.distance[at][inside] = distance
        if part:
            parts[inside] = part

    def window(self, area: tuple[float, float, float, float]) -> tuple[tuple[slice, slice], Floats, Floats]:
        """Return the pixels of a box and a margin: their slices, x (1, w) and y (h, 1)."""
        left, top, right, foot = (int(side * self.height) for side in area)
        middle = self.width // 2
        rows = slice(max(top - 2, 0), max(min(foot + 3, self.height), 0))
        columns = slice(max(left + middle - 3, 0), max(min(right + middle + 4, self.width), 0))
        return (rows, columns), self._x[:, columns], self._y[rows]

    def _shade(self, field: Floats, round_over: float) -> Floats:
        """Return the light on a rounded shape, (h, w, 3)."""
        round_over = max(min(round_over, -float(field.min())), self.pixel)  # no crease along the middle
        dy, dx = np.gradient(field, self.pixel)
        tilt = np.clip(1 + field / round_over, 0, 0.96)
        facing = self._sun[0] * dx * tilt - self._sun[1] * dy * tilt + self._sun[2] * np.sqrt(1 - tilt * tilt)
        sky = 0.75 - 0.25 * dy * tilt
        lit = np.clip(facing, 0, 1)[..., None] * self.light.beam + sky[..., None] * self.light.ambient
        return np.asarray(lit, np.float32)

    def block(
        self, centre: Point, rx: float, ry: float, colour: Floats, *, label: str = "wall", distance: float = 6.0
    ) -> None:
        """Fill a box that faces the camera."""
        self.fill(box(centre, rx, ry), colour * self.flat, label, distance)

    def shadow(self, centre: Point, rx: float, ry: float, strength: float) -> None:
        """Darken the ground in a soft ellipse; labels and distance do not change."""
        self.fill(ellipse(centre, 0.6 * rx, 0.6 * ry), np.zeros(3, np.float32), soft=ry, opacity=0.84 * strength)
