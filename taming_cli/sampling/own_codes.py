"""The codes of a sample, in a text chunk of its PNG: `taming sample --redraw` keeps them exactly."""

import base64
import binascii
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from taming_cli.config.parsing import parse_json
from taming_cli.config.size import Frame, Size
from taming_cli.data.images import png_text
from taming_cli.errors import UsageError

CHUNK = "taming-codes"
"""The key of the text chunk. Codes are little-endian 32-bit numbers, row by row, in base64."""


class OwnCodes(NamedTuple):
    """Codes (h, w) int64 of a picture, its frame on their grid, and the hash of the codec whose codes they are."""

    codes: Tensor
    frame: Frame
    codec_sha256: str


def codes_text(own: OwnCodes) -> str:
    """The text chunk."""
    height, width = own.codes.shape
    values = {"codec_sha256": own.codec_sha256, "grid": f"{width}x{height}", "f": own.frame.f, **own.frame.to_values()}
    data = own.codes.cpu().numpy().astype("<u4").tobytes()
    return json.dumps({**values, "codes": base64.b64encode(data).decode("ascii")})


def read_own_codes(picture: Path) -> OwnCodes:
    """The codes of a sample. UsageError for another picture."""
    text = png_text(picture, CHUNK)
    try:
        values = parse_json(text or "")
        grid, f = Size.parse(values["grid"]), int(values["f"])
        data = np.frombuffer(base64.b64decode(values["codes"], validate=True), "<u4")
        codes = torch.from_numpy(data.astype(np.int64)).view(grid.height, grid.width)
        return OwnCodes(codes, Frame.from_values(values, f, grid), str(values["codec_sha256"]))
    except (KeyError, TypeError, ValueError, RuntimeError, binascii.Error, UsageError):
        raise UsageError(
            f"{picture} does not hold its codes: --redraw takes a PNG as taming sample wrote it; for another picture, "
            "use --mask"
        ) from None
