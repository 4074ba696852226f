"""Codes of any size to pictures in bounded memory: small ones whole, large ones in tiles without seams.

Tiles that take statistics and attention on their own come out in different tints, and blending them only spreads the
steps. Here all tiles of a picture share them (see `local`), have the margin that their borders depend on, and every
pixel is written once, by the one tile that it lies in.

Measured with `tiny`, f8, on two busy cores: 8192 x 8192 in 6 minutes, 2.8 GiB beside the model and with the picture. A
4096 x 3072 mosaic of photographs comes 0.8 grey levels, 4 at most, from the same with every statistic taken whole; how
near depends on the number of patches, and so on the budget: at 1024 x 768 and an eighth of the memory it can be 20 or
more, as one tone over the whole picture, with a codec of little training. Seams there are none at any budget.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from taming_cli.codec.local import ALL, Box, LocalDecoder, Stage, stages
from taming_cli.codec.vqgan import VQGAN
from taming_cli.data.images import to_uint8

BUDGET = 3 * 2**30
"""Bytes for the activations of a decode, in fp32, beside the model and the finished picture."""
PATCH = 32
"""Pixels a side of each patch of a large picture that statistics are taken on: many places count more than many pixels.
At least 4 cells, so that those at the borders hold what the borders change."""

_LIVE = 5.5
"""Tensors of the widest level that are in memory at once: 5.2 to 5.4 measured (torch 2.15, CPU, channels last)."""


MEMORY = 2**28
"""Bytes of finished pictures that are held at once, if it is more than one."""


def at_once(codec: VQGAN, height: int, width: int, most: int) -> int:
    """How many finished pictures of height x width codes are to be held at once, 1 to `most`."""
    return max(1, min(most, MEMORY // (3 * height * width * codec.config.downsample_factor**2)))


def pictures(
    codec: VQGAN,
    codes: Tensor,
    *,
    batch_size: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Codes (B, h, w) in [0, K) -> pictures uint8 (B, out_ch, f h, f w) on the CPU; see `decode`."""
    return decode(codec, codes, finish=_finished, batch_size=batch_size, on_progress=on_progress)


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

    `finish` makes (b, out_ch, H, W) fp32, about [-1, 1], of any sides into what is kept, (b, C, H, W): uint8 on the
    CPU, the number of the largest channel. It must treat each pixel alike. The result has its type and device.

    Pictures of up to 128 x 128 codes that fit the budget are exactly `VQGAN.decode`, as many at a time as fit and
    `batch_size` allows. Others are decoded one after another, in tiles that fit. `on_progress` is told (cells decoded,
    cells in all).
    """
    f = codec.config.downsample_factor
    batch, height, width = codes.shape
    result, done = None, 0
    for piece in _pieces(codec, codes, budget, batch_size or max(1, batch)):
        part = finish(piece.x)
        if result is None:
            result = part.new_empty(batch, part.shape[1], f * height, f * width)
        some, tall, wide = part.shape[0], part.shape[2], part.shape[3]
        place = result[piece.first : piece.first + some, :, piece.top : piece.top + tall]
        place[..., piece.left : piece.left + wide] = part
        done += some * tall * wide // f**2
        if on_progress is not None:
            on_progress(done, codes.numel())
    assert result is not None, "no codes"
    return result


def _finished(x: Tensor) -> Tensor:
    return to_uint8(x).cpu()


class _Piece(NamedTuple):
    """Part of the pictures: the first one's number, the upper left pixel, and `x` (b, out_ch, H, W) fp32."""

    first: int
    top: int
    left: int
    x: Tensor


def _pieces(codec: VQGAN, codes: Tensor, budget: int, batch_size: int) -> Iterator[_Piece]:
    f = codec.config.downsample_factor
    plan = Plan.of(stages(codec), codes.shape[1], codes.shape[2], budget)
    if plan.exact:
        at_once = min(plan.at_once, batch_size)
        for number, some in enumerate(torch.split(codes, at_once)):
            yield _Piece(number * at_once, 0, 0, codec.decode(some))
        return
    for first, one in enumerate(codes):
        local = LocalDecoder(codec, one, whole=plan.whole, patches=plan.patches, shares=plan.shares)
        for tile in plan.tiles:
            yield _Piece(first, f * tile.top, f * tile.left, local(tile).float())


@dataclass(frozen=True)
class Plan:
    """How pictures of one size are decoded: exactly, `at_once` at a time; or by a `LocalDecoder`, part by part."""

    exact: bool
    at_once: int
    whole: int
    patches: tuple[Box, ...]
    shares: tuple[float, ...]
    tiles: tuple[Box, ...]

    @classmethod
    def of(cls, run: Sequence[Stage], height: int, width: int, budget: int) -> "Plan":
        """For a latent of height x width cells, with these stages."""
        size = (height, width)
        each = _bytes(run, size, size)
        if height * width <= ALL and each <= budget:
            return cls(True, budget // each, len(run), (), (), ())
        whole, kept = 0, 0
        for stage in run:
            result = 4 * height * width * stage.after**2 * stage.channels
            if _bytes([stage], size, size) > budget or result > budget // 2:
                break
            whole, kept = whole + 1, result
        rest, left = run[whole:], budget - kept
        if not rest:
            return cls(False, 1, whole, (), (), (Box(0, 0, *size),))
        patches, shares = zip(*_patches(rest, size, left), strict=True)
        return cls(False, 1, whole, patches, shares, tuple(_tiles(rest, size, left)))


def _bytes(run: Sequence[Stage], size: tuple[int, int], part: tuple[int, int]) -> int:
    """Memory for a part of a latent through these stages, with its margins, in fp32."""
    most = 0
    for stage in run:
        tall, wide = (
            min(n * stage.before + 2 * stage.margin, end * stage.before) * (stage.after // stage.before)
            for n, end in zip(part, size, strict=True)
        )
        most = max(most, tall * wide * stage.channels)
    return int(4 * _LIVE * most)


def _tiles(run: Sequence[Stage], size: tuple[int, int], budget: int) -> Iterator[Box]:
    """Parts that fit the budget, few, alike and nearly square; each cell is in exactly one."""
    down, across = 1, 1
    rows, columns = size
    while _bytes(run, size, (rows, columns)) > budget and rows * columns > 1:
        if rows >= columns:
            down += 1
        else:
            across += 1
        rows, columns = math.ceil(size[0] / down), math.ceil(size[1] / across)
    for top in range(0, size[0], rows):
        for left in range(0, size[1], columns):
            yield Box(top, left, min(rows, size[0] - top), min(columns, size[1] - left))


def _patches(run: Sequence[Stage], size: tuple[int, int], budget: int) -> Iterator[tuple[Box, float]]:
    """As many patches as fit the budget together, or cover the picture; of one size; and the cells they stand for."""
    side = max(4, PATCH // run[-1].after)
    rows, columns = min(side, size[0]), min(side, size[1])
    most = max(1, budget // _bytes(run, size, (rows, columns)))
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
    """Starts of `count` stretches of `length` in 0 to `end`, and how much of it each stands for.

    The picture's borders are not like the rest, since convolutions see zeros beyond them, and can outweigh it in a
    variance. So the outer two lie at the ends and stand for themselves, the others evenly for what is between.
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
