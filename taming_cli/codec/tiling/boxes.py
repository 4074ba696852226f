"""Rectangles of a grid of codes: where they lie at each resolution, and the memory that a network needs for one.

A convolutional network is a sequence of stages, each at one resolution. An output pixel depends on a margin of pixels
around it. A part of the picture is computed with that margin, which is cropped stage by stage. There is no margin at
the border of the picture, so the convolutions pad with zeros there as they do for the whole picture.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LIVE = 5.5
"""Tensors of the widest level that are alive at once: 5.2 to 5.4 measured (torch 2.15, CPU, channels last)."""
State = tuple[Tensor, ...]
"""The tensors between two operations: last, the input of the next one; before it, the shortcut of a residual block."""
Operation = Callable[[State], State]


class Box(NamedTuple):
    """A rectangle of a grid of codes, in cells."""

    top: int
    left: int
    height: int
    width: int


class Stage(NamedTuple):
    """A part of a network at one resolution, (B, C, H, W) -> (B, C', H', W').

    `operations` run one after another. `margin` is the number of input pixels around a box that its output depends on;
    `before` and `after` are pixels per cell of the input and of the output; `channels` is the largest number of
    channels. The layers run at the larger of the two resolutions. Parts begin and end at multiples of `step` cells.
    `output` is the number of channels of the output, where that is more than `channels`.
    """

    operations: Sequence[Operation]
    margin: int
    before: int
    after: int
    channels: int
    step: int = 1
    output: int = 0

    @property
    def layers(self) -> int:
        """Pixels per cell at the stage's layers."""
        return max(self.before, self.after)

    def result(self, size: tuple[int, int]) -> int:
        """Bytes of the output for a grid of `size` cells, in fp32."""
        return 4 * size[0] * size[1] * self.after**2 * max(self.channels, self.output)

    def run(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'), without cropping; all global layers must be frozen."""
        state: State = (x,)
        for operation in self.operations:
            state = operation(state)
        return state[0]


@dataclass(frozen=True)
class Window:
    """A rectangle of one size at its own position in each picture of a batch, in pixels."""

    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    height: int
    width: int

    @classmethod
    def of(cls, boxes: Sequence[Box], size: tuple[int, int], scale: int, margin: int = 0) -> "Window":
        """The boxes at `scale` pixels per cell with a margin, shifted to lie within the picture of `size` cells."""
        lengths = (boxes[0].height, boxes[0].width)
        height, width = (min(scale * n + 2 * margin, scale * end) for n, end in zip(lengths, size, strict=True))
        tops = tuple(min(max(scale * box.top - margin, 0), scale * size[0] - height) for box in boxes)
        lefts = tuple(min(max(scale * box.left - margin, 0), scale * size[1] - width) for box in boxes)
        return cls(tops, lefts, height, width)

    def at(self, before: int, after: int) -> "Window":
        """The same rectangle at `after` pixels per cell instead of `before`."""
        tops, lefts = (tuple(start * after // before for start in starts) for starts in (self.tops, self.lefts))
        return Window(tops, lefts, self.height * after // before, self.width * after // before)

    def find(self, inner: "Window") -> "Window":
        """`inner`, which lies within this window, relative to this window's corner."""
        tops = tuple(a - b for a, b in zip(inner.tops, self.tops, strict=True))
        lefts = tuple(a - b for a, b in zip(inner.lefts, self.lefts, strict=True))
        return Window(tops, lefts, inner.height, inner.width)

    def crop(self, x: Tensor) -> Tensor:
        """(boxes, C, H, W) -> (boxes, C, height, width): a copy, so that x can be freed, or x itself if it is all."""
        if x.shape[2:] == (self.height, self.width):
            return x
        places = zip(torch.split(x, 1), self.tops, self.lefts, strict=True)
        return torch.cat([y[..., top : top + self.height, left : left + self.width] for y, top, left in places])


def memory(stages: Sequence[Stage], size: tuple[int, int], part: tuple[int, int]) -> int:
    """Bytes that a part of `part` cells of a grid of `size` cells takes in these stages, with its margins, in fp32."""
    most = 0
    for stage in stages:
        tall, wide = (
            min(n * stage.before + 2 * stage.margin, end * stage.before) * stage.layers // stage.before
            for n, end in zip(part, size, strict=True)
        )
        most = max(most, tall * wide * stage.channels)
    return int(4 * LIVE * most)


def divided(stages: Sequence[Stage], size: tuple[int, int], budget: int) -> Iterator[Box]:
    """Divide a grid into few, nearly square parts of about the same size that fit the budget; each cell is in exactly
    one part."""
    down, across, step = 1, 1, max(stage.step for stage in stages)
    rows, columns = size
    while memory(stages, size, (rows, columns)) > budget and rows * columns > step**2:
        if rows >= columns:
            down += 1
        else:
            across += 1
        rows, columns = (step * math.ceil(n / (step * parts)) for n, parts in zip(size, (down, across), strict=True))
    for top in range(0, size[0], rows):
        for left in range(0, size[1], columns):
            yield Box(top, left, min(rows, size[0] - top), min(columns, size[1] - left))
