"""One scene from its number."""

from typing import Literal

import numpy as np

from taming_cli.errors import UsageError
from taming_cli.scenes import backdrop, landscape
from taming_cli.scenes.canvas import CLASSES, FIGURES, LANDSCAPES, Dice, Scene, to_bytes

Kind = Literal["landscape", "figure"]
_SMALLEST = 16
_HALFWAY = 14.0  # the distance, in eye heights, of depth 0.5


def scene(seed: int, width: int, height: int, *, kind: Kind | None = None) -> Scene:
    """Draw scene number `seed` at `width` x `height` pixels; a pure function of its arguments.

    Classes alternate with the seed, so that any stretch of seeds holds all of them equally often. At another size
    the same seed is the same composition; a wider picture shows more to the sides. Depth is z / (z + 14) for a
    distance of z eye heights, and 1 in the sky.

    Raises UsageError when a side is below 16 pixels, the seed is not in 0 .. 2^63 - 1, or the kind is unknown.
    """
    check(seed, width, height, kind)
    label = label_of(seed, kind)
    if label in FIGURES:
        layers, pose, joints = backdrop.paint(seed, label, width, height)
    else:
        layers = landscape.paint(seed, landscape.plan(label, Dice(seed, 1)), width, height).layers
        pose, joints = np.zeros((height, width, 3), np.uint8), []
    z = layers.distance
    depth = np.divide(z, z + _HALFWAY, out=np.ones_like(z), where=np.isfinite(z))
    return Scene(to_bytes(layers.picture), layers.labels, depth, pose, joints, label)


def check(seed: int, width: int, height: int, kind: str | None) -> None:
    """Raise UsageError for arguments that `scene` rejects."""
    if min(width, height) < _SMALLEST:
        raise UsageError(f"scene size {width}x{height} is too small: use at least {_SMALLEST} pixels per side")
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed {seed} is out of range: use 0 to 2^63 - 1")
    if kind not in (None, "landscape", "figure"):
        raise UsageError(f"kind '{kind}' is unknown: use landscape or figure")


def label_of(seed: int, kind: Kind | None) -> str:
    """Return the class of scene number `seed`."""
    names = {"landscape": LANDSCAPES, "figure": FIGURES, None: CLASSES}[kind]
    return names[seed % len(names)]
