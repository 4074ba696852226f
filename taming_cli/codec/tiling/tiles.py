"""Encodes and decodes pictures of any size in bounded memory: small ones whole, large ones in tiles.

A picture that fits the memory budget is coded whole, exactly as `VQGAN` does. The result of decoding depends on that
budget: callers pass a share of the free memory (see `runtime.memory`) and record whether the result was `exact`.

Tiles with statistics and attention of their own get different tints, and blending them only spreads the steps. Here
all tiles of a picture share statistics and attention and include the margin that their borders depend on, and each
pixel is written once, by the tile that contains it. Decoding estimates the statistics on patches (see `decoding`).
Encoding, which is sensitive to them, takes them over all pixels (see `encoding`).

Measured with `tiny`, f8, on two busy cores: decoding 8192 x 8192 pixels takes 6 minutes, and 2.8 GiB beside the model,
the picture included. A 4096 x 3072 mosaic of photographs differs by 0.8 grey levels, 4 at most, from the same decoded
with exact statistics. The difference depends on the number of patches, and so on the budget: at 1024 x 768 and an
eighth of the memory it can be 20 or more, as a tint of the whole picture, with a codec of little training. There are no
seams at any budget.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from taming_cli.codec.tiling import encoding
from taming_cli.codec.tiling.boxes import Box, Stage, divided, memory
from taming_cli.codec.tiling.decoding import LocalDecoder, stages
from taming_cli.codec.tiling.global_layers import FULL_CELLS, global_layers
from taming_cli.codec.vqgan import VQGAN
from taming_cli.data.images import to_float, to_uint8
from taming_cli.runtime.allocator import returning_freed_memory
from taming_cli.runtime.fp32 import ieee
from taming_cli.runtime.memory import GIB, USUAL

_log = logging.getLogger(__name__)
BUDGET = USUAL.encode
"""Default bytes for the activations of an encode or decode, in fp32, beside the model and the picture."""
PATCH = 32
"""Side in pixels of the patches of a large picture on which statistics are taken: many places matter more than many
pixels. At least 4 cells, so that patches at the border include what the border changes."""
MEMORY = 2**28
"""Bytes of finished pictures in memory at once, where that is more than one picture."""


def at_once(codec: VQGAN, height: int, width: int, most: int) -> int:
    """Number of finished pictures of height x width codes to hold at once, 1 to `most`."""
    return max(1, min(most, MEMORY // (3 * height * width * codec.config.downsample_factor**2)))


def exact(codec: VQGAN, height: int, width: int, budget: int = BUDGET) -> bool:
    """Whether pictures of height x width codes are decoded in `budget` bytes with the statistics of all their pixels,
    as by `VQGAN.decode`, rather than with those of patches."""
    run = stages(codec)
    return DecodePlan.of(run, height, width, budget).exact or not any(global_layers(run))


def pictures(
    codec: VQGAN,
    codes: Tensor,
    *,
    batch_size: int | None = None,
    budget: int = BUDGET,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Codes (B, h, w) in [0, K) -> pictures uint8 (B, out_ch, f h, f w) on the CPU; see `decode`."""
    return decode(codec, codes, finish=_finished, batch_size=batch_size, budget=budget, on_progress=on_progress)


@ieee()
def decode(
    codec: VQGAN,
    codes: Tensor,
    *,
    finish: Callable[[Tensor], Tensor],
    batch_size: int | None = None,
    budget: int = BUDGET,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Codes (B, h, w) in [0, K) -> `finish` of the pictures, (B, C, f h, f w), in about `budget` bytes beside that.

    `finish` maps (b, out_ch, H, W) fp32, about [-1, 1], of any sides to what is kept, (b, C, H, W), such as uint8 on
    the CPU or the index of the largest channel. It must treat all pixels alike. The result has its dtype and device.

    Pictures of up to 128 x 128 codes that fit the budget are decoded exactly as by `VQGAN.decode`, as many at a time as
    BUDGET and `batch_size` allow. Others are decoded one after another, in tiles that fit. `on_progress` receives
    (cells decoded, total cells).
    """
    f = codec.config.downsample_factor
    batch, height, width = codes.shape
    result, done = None, 0
    for piece in _pieces(codec, codes, budget, batch_size or max(1, batch)):
        part = finish(piece.x)
        if result is None:
            result = part.new_empty(batch, part.shape[1], f * height, f * width)
        count, tall, wide = part.shape[0], part.shape[2], part.shape[3]
        place = result[piece.first : piece.first + count, :, piece.top : piece.top + tall]
        place[..., piece.left : piece.left + wide] = part
        done += count * tall * wide // f**2
        if on_progress is not None:
            on_progress(done, codes.numel())
    assert result is not None, "no codes"
    return result


@torch.no_grad()
def encode(codec: VQGAN, pictures: Tensor, *, to_input: encoding.ToInput = to_float, budget: int = BUDGET) -> Tensor:
    """Pictures or maps (B, c, f h, f w), uint8 or what `to_input` takes -> codes (B, h, w) int64 on its device.

    `to_input` maps any part of them to a codec's input, and must treat all pixels alike. Pictures that fit the budget
    are encoded exactly as by `VQGAN.encode`, as many at a time as fit. Others are encoded one after another, in tiles
    that fit, with the statistics of the whole picture.
    """
    f = codec.config.downsample_factor
    size = (pictures.shape[2] // f, pictures.shape[3] // f)
    each = memory(encoding.toward_end(encoding.stages(codec, to_input)), size, size)
    if each > budget:
        with returning_freed_memory():
            return torch.cat([encoding.encode(codec, one, to_input, budget) for one in torch.split(pictures, 1)])

    def encode_whole(batch: Tensor) -> Tensor:
        x = to_input(batch.to(codec.device))
        return codec.encode(x.contiguous(memory_format=torch.channels_last))

    return torch.cat([encode_whole(batch) for batch in torch.split(pictures, max(1, min(budget, BUDGET) // each))])


def _finished(x: Tensor) -> Tensor:
    return to_uint8(x).cpu()


class _Piece(NamedTuple):
    """A part of the pictures: the index of the first one, the upper left pixel, and `x` (b, out_ch, H, W) fp32."""

    first: int
    top: int
    left: int
    x: Tensor


def _pieces(codec: VQGAN, codes: Tensor, budget: int, batch_size: int) -> Iterator[_Piece]:
    f = codec.config.downsample_factor
    run = stages(codec)
    plan = DecodePlan.of(run, codes.shape[1], codes.shape[2], budget)
    if plan.exact:
        at_once = min(plan.at_once, batch_size)
        for number, batch in enumerate(torch.split(codes, at_once)):
            yield _Piece(number * at_once, 0, 0, codec.decode(batch))
        return
    size = (codes.shape[1], codes.shape[2])
    if size[0] * size[1] <= FULL_CELLS and any(global_layers(run)):
        needed = memory(run, size, size)
        _log.warning(
            "a picture of %d x %d codes takes %.1f GiB to decode, more than the limit of %.1f GiB: its statistics "
            "are estimated; --memory %.0f decodes it exactly",
            *(codes.shape[2], codes.shape[1], needed / GIB, budget / GIB, math.ceil(needed / GIB)),
        )
    with returning_freed_memory():
        for first, one in enumerate(codes):
            local = LocalDecoder(codec, one, whole=plan.whole, patches=plan.patches, shares=plan.shares)
            for tile in plan.tiles:
                yield _Piece(first, f * tile.top, f * tile.left, local(tile).float())


@dataclass(frozen=True)
class DecodePlan:
    """How pictures of one size are decoded: exactly, `at_once` at a time, or by a `LocalDecoder`, tile by tile."""

    exact: bool
    at_once: int
    whole: int
    patches: tuple[Box, ...]
    shares: tuple[float, ...]
    tiles: tuple[Box, ...]

    @classmethod
    def of(cls, run: Sequence[Stage], height: int, width: int, budget: int) -> "DecodePlan":
        """The plan for a latent of height x width cells through these stages."""
        size = (height, width)
        each = memory(run, size, size)
        if height * width <= FULL_CELLS and each <= budget:
            return cls(True, max(1, min(budget, BUDGET) // each), len(run), (), (), ())
        whole, kept = 0, 0
        for stage in run:
            if memory([stage], size, size) > budget or stage.result(size) > budget // 2:
                break
            whole, kept = whole + 1, stage.result(size)
        rest, left = run[whole:], budget - kept
        if not rest:
            return cls(False, 1, whole, (), (), (Box(0, 0, *size),))
        patches, shares = zip(*_patches(rest, size, left), strict=True)
        return cls(False, 1, whole, patches, shares, tuple(divided(rest, size, left)))


def _patches(run: Sequence[Stage], size: tuple[int, int], budget: int) -> Iterator[tuple[Box, float]]:
    """Patches of one size, as many as fit the budget together or cover the picture, each with the number of cells that
    it represents."""
    side = max(4, PATCH // run[-1].after)
    rows, columns = min(side, size[0]), min(side, size[1])
    most = max(1, budget // memory(run, size, (rows, columns)))
    down, across = math.ceil(size[0] / rows), math.ceil(size[1] / columns)
    while down * across > most:
        if across == 1 or (down > 1 and down * size[1] >= across * size[0]):
            down -= 1
        else:
            across -= 1
    for top, tall in _spread(down, rows, size[0]):
        for left, wide in _spread(across, columns, size[1]):
            yield Box(top, left, rows, columns), tall * wide


def _spread(count: int, length: int, end: int) -> Iterator[tuple[int, float]]:
    """Starts of `count` intervals of `length` within 0 to `end`, and the length that each represents.

    The borders of a picture differ from the rest, since convolutions read zeros beyond them, and could dominate a
    variance. So the outer two intervals lie at the ends and represent only themselves. The others represent the rest in
    equal shares.
    """
    if count < 3 or count * length >= end:
        for part in range(count):
            yield min(max((2 * part + 1) * end // (2 * count) - length // 2, 0), end - length), end / count
        return
    inner = end - 2 * length
    yield 0, length
    for part in range(count - 2):
        middle = length + (2 * part + 1) * inner // (2 * (count - 2))
        yield min(max(middle - length // 2, length), end - 2 * length), inner / (count - 2)
    yield end - length, length
