"""The camera and its view of the land.

The land is sampled on a fan of N distances times W columns. A column's visible part is the running maximum of its
heights as the camera sees them, so that each pixel's exact mean colour is a difference of two running integrals: edges
are smooth without supersampling, and far texture cannot alias.

Directions are tangents of viewing angles, `u` to the right and `t` upward, so that a composition is the same at every
size.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taming_cli.scenes.canvas import Bytes, Floats


class Camera(NamedTuple):
    """A camera at (0, up, 0) that looks along +z; `focal` and `horizon` (from the top) in picture heights."""

    width: int
    height: int
    focal: float
    horizon: float
    up: float

    @property
    def pixel(self) -> float:
        """A pixel's side as a tangent."""
        return 1 / (self.focal * self.height)

    def columns(self) -> Floats:
        """Return the tangent u of each column's centre, (W,)."""
        return ((np.arange(self.width) + 0.5 - self.width / 2) * self.pixel).astype(np.float32)

    def column(self, u: float) -> int:
        """Return the column nearest to tangent u."""
        return int(np.clip(u / self.pixel + self.width / 2, 0, self.width - 1))

    def rows(self) -> Floats:
        """Return the tangent t of each row's centre, (H,), descending."""
        return ((self.horizon * self.height - np.arange(self.height) - 0.5) * self.pixel).astype(np.float32)

    def distances(self) -> Floats:
        """Return the distances of samples, (N,): near ones a row of flat ground apart, far ones by a constant ratio."""
        nearest = 0.8 * self.up * self.focal / (1 - self.horizon)
        ratio, row = min(0.045, 1.25 / self.height**0.78), 1.4 * self.pixel / self.up  # a row is a step in 1 / z
        near = 1 / np.arange(1 / nearest, row / ratio, -row)
        far = ratio / row * (1 + ratio) ** np.arange(np.log(2600 * row / ratio) / np.log1p(ratio))
        return np.concatenate([near, far]).astype(np.float32)


class Land(NamedTuple):
    """The sampled fan: per sample (N, W) its height, colour, label, depth of water (0 where dry), and woodland."""

    z: Floats  # (N, 1)
    u: Floats  # (W,)
    height: Floats
    colour: Floats  # (N, W, 3)
    label: Bytes
    depth: Floats
    woods: Floats  # density, 0 to 1


class View(NamedTuple):
    """The land in a camera: light (H, W, 3) times cover, cover (H, W), wet cover, and the nearest sample or -1."""

    light: Floats
    cover: Floats
    wet: Floats
    nearest: NDArray[np.intp]


def see(camera: Camera, land: Land) -> View:
    """Project the land into the camera. Water is black in `light`."""
    n, w = land.height.shape
    rows = (camera.horizon * camera.height - np.arange(2 * camera.height + 1) / 2) * camera.pixel  # edges and centres
    rows = rows.astype(np.float32)
    tangent = (land.height - camera.up) / land.z
    bottom = np.minimum(rows[-1], tangent[:1]) - np.float32(1e-3)
    top = np.maximum.accumulate(np.concatenate([bottom, tangent]), axis=0)
    wet = land.depth > 0
    paint = np.concatenate([land.colour * ~wet[..., None], wet[..., None]], axis=2, dtype=np.float32)
    paint *= np.diff(top, axis=0)[..., None]
    total = np.zeros((n + 1, w, 4), np.float32)
    for row in range(n):  # a running sum; np.cumsum along the first axis is several times slower
        np.add(total[row], paint[row], out=total[row + 1])
    hits = np.stack([np.searchsorted(edge, rows) for edge in np.ascontiguousarray(top.T)], axis=1)
    # hits = 0: below the first sample; n + 1: above the land.
    edges, columns = np.clip(hits[::2], 1, n), np.arange(w)
    low, high = top[edges - 1, columns], top[edges, columns]
    share = np.where(hits[::2] > n, 1, np.clip((rows[::2, None] - low) / np.maximum(high - low, 1e-9), 0, 1))
    before, after = total[edges - 1, columns], total[edges, columns]
    integral = before + (after - before) * share[..., None].astype(np.float32)
    height = np.float32(camera.pixel)
    area = (integral[:-1] - integral[1:]) / height
    cover = np.clip((top[-1] - rows[2::2, None]) / height, 0, 1)
    nearest = np.where(hits[1::2] > n, -1, np.maximum(hits[1::2], 1) - 1)
    return View(area[..., :3], cover.astype(np.float32), area[..., 3], nearest)
