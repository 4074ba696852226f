"""Edges: white lines on black, made from a photo by Canny's method, or read as they were drawn."""

import cv2
import numpy as np
from PIL import Image

from taming_cli.data.images import read_rgb

_WEAK, _STRONG = 100, 200  # of the Sobel gradient's |dx| + |dy|: what condition models of edges are commonly made with
RULE = f"canny {_WEAK} {_STRONG}"
"""What made an edge map, as it says."""

_DARK, _BRIGHT = 30, 225
_CLEAR = 0.995  # the share of an edge map's pixels that are dark or bright: smoothed lines and JPEG leave a few others
_LINES = 2 / 3  # edges fill less than this of a picture; a drawing in black on white is brighter


def edges(image: Image.Image) -> Image.Image:
    """RGB -> mode L, 255 on edges and 0 elsewhere (Canny, 1986; 3 x 3 Sobel, thresholds 100 and 200)."""
    assert image.mode == "RGB"
    return Image.fromarray(np.asarray(cv2.Canny(np.asarray(image.convert("L")), _WEAK, _STRONG), np.uint8))


def read_edges(data: bytes, name: str) -> Image.Image:
    """A file's bytes -> mode L, 255 on edges and 0 elsewhere, if it is an edge map; else the photo it is, mode RGB.

    Edges of a photo are to be made after it is cropped and scaled, by `edges`. An edge map is grey, nearly all of it
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
