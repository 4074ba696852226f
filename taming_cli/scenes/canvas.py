"""The elements of a scene: maps, labels, classes, random numbers and colours.

Pictures are painted in linear light, float32, and converted to sRGB bytes once, in `to_bytes`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from taming_cli.data.conditions.skeletons import Keypoints

Floats = NDArray[Any]  # float32; numpy's stubs lose the precision in arithmetic with Python's numbers
Bytes = NDArray[np.uint8]
T = TypeVar("T")

# One entry per label: its name and its colour in PALETTE.
_LEGEND = {
    "sky": "#8fc7ee", "sun": "#ffd54a", "moon": "#e8e6d0", "mountain": "#7d6f86", "snow": "#f2f6fb", "hill": "#5d9a58",
    "grass": "#8cc152", "woods": "#1f5d36", "sand": "#e6cf93", "rock": "#8a8078", "water": "#2f6fb5", "path": "#b9a184",
    "building": "#b5533f", "wall": "#d9c2d6", "floor": "#9a6b43", "furniture": "#5b4b8a", "skin": "#f0a27e",
    "hair": "#3a2a22", "top": "#e2446b", "bottom": "#274b9f", "shoes": "#101820",
}  # fmt: skip
LABELS: tuple[str, ...] = tuple(_LEGEND)
LABEL = {name: index for index, name in enumerate(LABELS)}
PALETTE: Bytes = np.array([list(bytes.fromhex(colour[1:])) for colour in _LEGEND.values()], np.uint8)

LANDSCAPES: tuple[str, ...] = ("day", "sunset", "night", "winter", "forest", "lake", "coast", "desert")
FIGURES: tuple[str, ...] = ("walking", "running", "jumping", "dancing", "waving", "sitting", "cheering", "stretching")
CLASSES: tuple[str, ...] = LANDSCAPES + FIGURES


class Scene(NamedTuple):
    """A picture and its maps.

    image: uint8 (H, W, 3), sRGB. segmentation: uint8 (H, W), indices into LABELS. depth: float32 (H, W), 0 near the
    camera to 1 at the sky. pose: uint8 (H, W, 3), limbs in OpenPose colours on black. keypoints: per figure 17 joints
    (x, y, v) in COCO's order, pixels from the top left corner, v = 2 visible, 1 hidden, 0 (with x = y = 0) outside
    the picture. label: one of CLASSES.
    """

    image: Bytes
    segmentation: Bytes
    depth: NDArray[np.float32]
    pose: Bytes
    keypoints: list[Keypoints]
    label: str


class Layers(NamedTuple):
    """Maps during painting: picture (H, W, 3) in linear light, labels (H, W), distance (H, W), infinite in the sky.

    The picture of a sprite has a fourth channel, alpha, by which the other three are multiplied.
    """

    picture: Floats
    labels: Bytes
    distance: Floats


def blank(width: int, height: int, channels: int = 3) -> Layers:
    """Return layers of a black picture, all of it sky at infinite distance."""
    picture = np.zeros((height, width, channels), np.float32)
    return Layers(picture, np.zeros((height, width), np.uint8), np.full((height, width), np.inf, np.float32))


class Dice:
    """Random numbers as a pure function of (seed, stream): uniform doubles of a Philox counter."""

    def __init__(self, seed: int, stream: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=(seed << 64) | stream))

    def many(self, *shape: int) -> Floats:
        """Return uniform numbers in [0, 1) of this shape."""
        return self._generator.random(shape).astype(np.float32)

    def between(self, low: float, high: float) -> float:
        """Return one uniform number in [low, high)."""
        return low + (high - low) * float(self._generator.random())

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of the choices, all equally likely."""
        return choices[int(self._generator.random() * len(choices))]

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return float(self._generator.random()) < probability

    def ink(self, *colours: str) -> Floats:
        """Return one of the colours '#rrggbb' in linear light, (3,)."""
        return ink(self.pick(colours))


def ink(colour: str) -> Floats:
    """Convert '#rrggbb' in sRGB to linear light, (3,)."""
    srgb = np.array(list(bytes.fromhex(colour[1:])), np.float32) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def to_bytes(light: Floats) -> Bytes:
    """Convert linear light of any shape to sRGB bytes; values above 0.7 are compressed, so that suns do not clip."""
    x = np.clip(light, 0, 4)
    x = np.where(x > 0.7, 1 - 0.3 * np.exp((0.7 - x) / 0.3), x)
    srgb = np.where(x <= 0.0031308, x * 12.92, 1.055 * x ** (1 / 2.4) - 0.055)
    return (srgb * 255 + 0.5).astype(np.uint8)


def smoothstep(low: Any, high: Any, x: Floats) -> Floats:
    """Return 0 below low, 1 above high, 3s^2 - 2s^3 between."""
    s = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(s * s * (3 - 2 * s), dtype=np.float32)


def mix(a: Any, b: Any, share: Any) -> Floats:
    """Return a where share is 0, b where it is 1, and their blend between."""
    return np.asarray(a + (b - a) * share, dtype=np.float32)
