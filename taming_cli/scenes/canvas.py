"""What a scene is made of: the record of its maps, its labels and classes, its random numbers and its colours.

Pictures are painted in linear light, float32, and become sRGB bytes once, in `to_bytes`. Positions are measured from
the camera, not in pixels: `u` to the right and `t` upward are tangents of viewing angles, so that one composition holds
at every size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from taming_cli.data.conditions.pose import Keypoints

Floats = NDArray[Any]  # float32; numpy's stubs lose the precision in arithmetic with Python's numbers
Bytes = NDArray[np.uint8]
T = TypeVar("T")

# One row per label: its name and its colour in PALETTE.
_LEGEND: tuple[tuple[str, str], ...] = (
    ("sky", "#8fc7ee"),
    ("sun", "#ffd54a"),
    ("moon", "#e8e6d0"),
    ("mountain", "#7d6f86"),
    ("snow", "#f2f6fb"),
    ("hill", "#5d9a58"),
    ("grass", "#8cc152"),
    ("woods", "#1f5d36"),
    ("sand", "#e6cf93"),
    ("rock", "#8a8078"),
    ("water", "#2f6fb5"),
    ("path", "#b9a184"),
    ("building", "#b5533f"),
    ("wall", "#d9c2d6"),
    ("floor", "#9a6b43"),
    ("furniture", "#5b4b8a"),
    ("skin", "#f0a27e"),
    ("hair", "#3a2a22"),
    ("top", "#e2446b"),
    ("bottom", "#274b9f"),
    ("shoes", "#101820"),
)
LABELS: tuple[str, ...] = tuple(name for name, _ in _LEGEND)
PALETTE: Bytes = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for _, c in _LEGEND], dtype=np.uint8)
LABEL = {name: index for index, name in enumerate(LABELS)}
FIGURE_LABELS = ("skin", "hair", "top", "bottom", "shoes")

LANDSCAPES: tuple[str, ...] = ("day", "sunset", "night", "winter", "forest", "lake", "coast", "desert")
FIGURES: tuple[str, ...] = ("walking", "running", "jumping", "dancing", "waving", "sitting", "cheering", "stretching")
CLASSES: tuple[str, ...] = LANDSCAPES + FIGURES


class Scene(NamedTuple):
    """A picture and everything known about it.

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
    """The maps while they are painted: light (H, W, 3) linear, labels (H, W), distance (H, W), infinite in the sky."""

    light: Floats
    labels: Bytes
    distance: Floats


class Dice:
    """Random numbers that are a pure function of (seed, stream): uniform doubles of a Philox counter, nothing else."""

    def __init__(self, seed: int, stream: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=(seed << 64) | stream))

    def many(self, *shape: int) -> Floats:
        """Uniform numbers in [0, 1) of this shape."""
        return self._generator.random(shape).astype(np.float32)

    def between(self, low: float, high: float) -> float:
        """One uniform number in [low, high)."""
        return low + (high - low) * float(self._generator.random())

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices, all equally likely."""
        return choices[int(self._generator.random() * len(choices))]

    def chance(self, probability: float) -> bool:
        """True this often."""
        return float(self._generator.random()) < probability


def ink(colour: str) -> Floats:
    """'#rrggbb' in sRGB to linear light, (3,)."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float32) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _transfer_table(size: int = 4096, top: float = 4.0) -> Bytes:
    """Byte of each linear value: a soft shoulder above 0.7, so that suns glow instead of clipping, then sRGB."""
    root = np.linspace(0, np.sqrt(top), size)
    x = root * root
    knee = 0.7
    x = np.where(x > knee, knee + (1 - knee) * (1 - np.exp(-(x - knee) / (1 - knee))), x)
    srgb = np.where(x <= 0.0031308, x * 12.92, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.asarray(np.floor(srgb * 255 + 0.5).clip(0, 255), np.uint8)


_TRANSFER = _transfer_table()


def to_bytes(light: Floats) -> Bytes:
    """Linear light of any shape to sRGB bytes. The table is indexed by the square root, where steps are even."""
    index = np.sqrt(np.clip(light, 0, 4.0)) * ((len(_TRANSFER) - 1) / 2.0) + 0.5
    return np.asarray(_TRANSFER[index.astype(np.int32)], np.uint8)


def smoothstep(low: Any, high: Any, x: Floats) -> Floats:
    """0 below low, 1 above high, 3s^2 - 2s^3 between."""
    s = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(s * s * (3 - 2 * s), dtype=np.float32)


def mix(a: Any, b: Any, share: Any) -> Floats:
    """a where share is 0, b where it is 1."""
    return np.asarray(a + (b - a) * share, dtype=np.float32)
