"""The camera, and what it sees of the land.

The land is sampled on a fan of N distances times W columns. A column's visible part is the running maximum of its
heights as the camera sees them, so each pixel's exact mean colour is a difference of two running integrals: edges are
smooth without supersampling, and far texture cannot alias. The same fan, seen by a camera mirrored in the water's
surface, is the reflection.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taming_cli.scenes.canvas import Bytes, Floats


class Camera(NamedTuple):
    """Stands at (0, up, 0), looks along +z; `focal` in picture heights; `horizon` in picture heights from the top."""

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
        """Tangent u of each column's centre, (W,)."""
        return ((np.arange(self.width) + 0.5 - self.width / 2) * self.pixel).astype(np.float32)

    def rows(self, half: bool = False) -> Floats:
        """Tangent t of each row's centre, (H,), descending; with `half` all edges and centres, (2 H + 1,)."""
        at = np.arange(2 * self.height + 1) / 2 if half else np.arange(self.height) + 0.5
        return ((self.horizon * self.height - at) * self.pixel).astype(np.float32)

    def distances(self) -> Floats:
        """Where to sample the land: a row of flat ground apart when near, a constant ratio apart when far."""
        nearest = 0.5 * self.up / ((1 - self.horizon) / self.focal)
        ratio = min(0.045, 1.25 / self.height**0.78)
        z, found = nearest, []
        while z < 2600:
            found.append(z)
            step = 1.4 if z > 1.8 * nearest else 3.0  # level ground at the first distances is below the picture
            z += min(max(step * z * z * self.pixel / self.up, z * 0.002), z * ratio)
        return np.array(found, dtype=np.float32)


class Land(NamedTuple):
    """The sampled fan: z (N, 1), u (W,), height and colour per sample, label, and where it is water."""

    z: Floats
    u: Floats
    height: Floats
    colour: Floats
    label: Bytes
    wet: NDArray[np.bool_]
    depth: Floats  # of the water, where wet
    woods: Floats  # density of woodland, (N, W)


class View(NamedTuple):
    """What a camera sees of the land: light (H, W, 3) times cover, cover (H, W), wet cover, nearest sample or -1."""

    light: Floats
    cover: Floats
    wet: Floats
    nearest: NDArray[np.intp]


def _across_water(wet: NDArray[np.bool_], z: Floats) -> NDArray[np.bool_]:
    """The land behind each column's longest stretch of water: what that water mirrors."""
    row = np.arange(len(wet))[:, None]
    start = np.maximum(np.maximum.accumulate(np.where(wet, -1, row), axis=0), 0)
    stretch = (1 / z[start, 0] - 1 / z) * wet  # in rows of the picture, not in samples
    return np.asarray((row > np.argmax(stretch, axis=0)) & ~wet)


def see(camera: Camera, land: Land, mirrored: bool = False) -> View:
    """Look at the land; `mirrored` from below the water's surface, upward, with rows still downward from the zenith.

    The mirrored view's row r shows what the water shows at the row as far below the horizon as r is above it.
    """
    n, w = land.height.shape
    if mirrored:
        beyond = _across_water(land.wet, land.z)
        tangent = np.where(beyond, (land.height + camera.up) / land.z, -9.0)
        rows = -camera.rows(half=True)[::-1]
        # The mirrored land begins at its waterline; nearer the horizon lies water that mirrors something farther.
        waterline = np.where(beyond.any(axis=0), camera.up / land.z[np.argmax(beyond, axis=0), 0], 0)
        bottom = waterline.astype(np.float32)
    else:
        tangent = (land.height - camera.up) / land.z
        rows = camera.rows(half=True)
        bottom = np.minimum(rows[-1], tangent[0]) - np.float32(1e-3)
    top = np.maximum.accumulate(tangent, axis=0)
    top = np.concatenate([bottom[None, :], np.maximum(top, bottom)])
    gain = np.diff(top, axis=0)
    paint = np.concatenate([land.colour * ~land.wet[..., None], land.wet[..., None]], axis=2, dtype=np.float32)
    total = np.zeros((n + 1, w, 4), np.float32)
    paint *= gain[..., None]
    for row in range(n):  # a running sum; np.cumsum along the first axis is several times slower
        np.add(total[row], paint[row], out=total[row + 1])
    found = np.empty((len(rows), w), np.intp)
    for column, edge in enumerate(np.ascontiguousarray(top.T)):
        found[:, column] = np.searchsorted(edge, rows, side="left")
    # found = 0: below the first sample; n + 1: above the land.
    edges = np.clip(found[::2], 1, n)
    columns = np.arange(w)[None, :]
    low, high = top[edges - 1, columns], top[edges, columns]
    share = np.where(found[::2] > n, 1, np.clip((rows[::2, None] - low) / np.maximum(high - low, 1e-9), 0, 1))
    before, after = total[edges - 1, columns], total[edges, columns]
    integral = before + (after - before) * share[..., None].astype(np.float32)
    height = (rows[0] - rows[2]) if len(rows) > 2 else np.float32(1)
    area = (integral[:-1] - integral[1:]) / height
    covered = np.clip((top[-1][None, :] - rows[2::2, None]) / height, 0, 1) * (rows[:-2:2, None] > bottom[None, :])
    nearest = np.where(found[1::2] > n, -1, np.maximum(found[1::2], 1) - 1)
    if mirrored:
        nearest = np.where(rows[1::2, None] <= bottom[None, :], -1, nearest)
    return View(area[..., :3], covered.astype(np.float32), area[..., 3], nearest)
