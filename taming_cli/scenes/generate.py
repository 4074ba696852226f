"""One scene from its number."""

from typing import Literal

import numpy as np

from taming_cli.data.conditions.pose import Keypoints
from taming_cli.errors import UsageError
from taming_cli.scenes import backdrop, landscape
from taming_cli.scenes.canvas import CLASSES, FIGURES, LANDSCAPES, Bytes, Dice, Layers, Scene, to_bytes

Kind = Literal["landscape", "figure"]
_SMALLEST = 16
_HALFWAY = 14.0  # the distance, in eye heights, that gets depth 0.5


def scene(seed: int, width: int, height: int, *, kind: Kind | None = None) -> Scene:
    """Draw scene number `seed`, `width` x `height` pixels; a pure function of its arguments.

    Classes take turns with the seed, so that any stretch of seeds holds all of them equally often. At another size
    the same seed is the same composition; a wider picture shows more to the sides. Depth is z / (z + 14) for a
    distance of z eye heights, and 1 in the sky.

    Raises UsageError when a side is below 16 pixels, the seed is not in 0 .. 2^63 - 1, or the kind is unknown.
    """
    check(seed, width, height, kind)
    label = label_of(seed, kind)
    if label in LANDSCAPES:
        layers = landscape.paint(seed, landscape.plan(label, Dice(seed, 1)), width, height).layers
        return _finish(layers, np.zeros((height, width, 3), np.uint8), [], label)
    peopled = backdrop.paint(seed, label, width, height)
    return _finish(peopled.layers, peopled.pose, peopled.keypoints, label)


def check(seed: int, width: int, height: int, kind: str | None) -> None:
    """Refuse what `scene` cannot draw, with UsageError."""
    if min(width, height) < _SMALLEST:
        raise UsageError(f"scene size {width}x{height} is too small: use at least {_SMALLEST} pixels per side")
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed {seed} is out of range: use 0 to 2^63 - 1")
    if kind not in (None, "landscape", "figure"):
        raise UsageError(f"kind '{kind}' is unknown: use landscape or figure")


def label_of(seed: int, kind: Kind | None) -> str:
    """The class of scene number `seed`."""
    names = {"landscape": LANDSCAPES, "figure": FIGURES, None: CLASSES}[kind]
    return names[seed % len(names)]


def _finish(layers: Layers, pose: Bytes, keypoints: list[Keypoints], label: str) -> Scene:
    far = np.isinf(layers.distance)
    z = np.where(far, 0, layers.distance)
    depth = np.where(far, 1, z / (z + _HALFWAY)).astype(np.float32)
    return Scene(to_bytes(layers.light), layers.labels, depth, pose, keypoints, label)
