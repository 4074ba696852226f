"""Edges: white lines on black, detected in a picture by Canny's method, or read from an edge map."""

import cv2
import numpy as np
from PIL import Image

from taming_cli.data.images import read_rgb

_WEAK, _STRONG = 100, 200  # of the Sobel gradient's |dx| + |dy|, as is common for models with edges as a condition
RULE = f"canny {_WEAK} {_STRONG}"
"""The method, as recorded in an edge map."""

_DARK, _BRIGHT = 30, 225
_CLEAR = 0.995  # least share of dark or bright pixels in an edge map; smoothed lines and JPEG add a few others
_LINES = 2 / 3  # largest share of bright pixels; a drawing in black on white has more


def edges(image: Image.Image) -> Image.Image:
    """Detect edges, RGB -> mode L: 255 on edges and 0 elsewhere (Canny 1986; 3 x 3 Sobel, thresholds 100 and 200)."""
    assert image.mode == "RGB"
    return Image.fromarray(np.asarray(cv2.Canny(np.asarray(image.convert("L")), _WEAK, _STRONG), np.uint8))


def read_edges(data: bytes, name: str) -> Image.Image:
    """Read an edge map -> mode L, 255 on edges and 0 elsewhere; any other picture -> mode RGB.

    Edges of other pictures are detected after cropping and scaling, by `edges`. An edge map is grey, nearly all of it
    (99.5 %) black or white to within 30, and mostly black. Raises BadImageError as `images.read_rgb` does.
    """
    image = read_rgb(data, name)
    pixels = np.asarray(image)
    if not (pixels == pixels[..., :1]).all():
        return image
    dark, bright = (pixels[..., 0] <= _DARK).mean(), (pixels[..., 0] >= _BRIGHT).mean()
    if dark + bright < _CLEAR or bright > _LINES:
        return image
    return Image.fromarray(np.where(pixels[..., 0] < 128, 0, 255).astype(np.uint8))
