"""Parts of a grid of codes: where they lie at each resolution, what they depend on, and what they take of memory.

A network of convolutions is a run of stages, each at one resolution. An output depends on so many pixels around it: a
part goes through with that margin, which is cut away stage by stage as it has served. At the border of the picture
there is none, and the convolutions see the same zeros there as in the whole.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LIVE = 5.5
"""Tensors of the widest level that are in memory at once: 5.2 to 5.4 measured (torch 2.15, CPU, channels last)."""


class Box(NamedTuple):
    """Part of a grid of codes, in cells."""

    top: int
    left: int
    height: int
    width: int


class Stage(NamedTuple):
    """A stretch of a network at one resolution, (B, C, H, W) -> (B, C', H', W').

    `margin`: pixels around a part, in what it is given, that the finished part depends on; `before` and `after`: pixels
    to a cell in what it is given and what it gives; `channels`: the most that it has. Its layers see the larger of the
    two resolutions.
    """

    run: Callable[[Tensor], Tensor]
    margin: int
    before: int
    after: int
    channels: int

    @property
    def layers(self) -> int:
        """Pixels to a cell in what its layers see."""
        return max(self.before, self.after)


@dataclass(frozen=True)
class Window:
    """A rectangle of one size at a place of its own in each picture of a batch, in pixels."""

    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    height: int
    width: int

    @classmethod
    def of(cls, boxes: Sequence[Box], size: tuple[int, int], scale: int, margin: int = 0) -> "Window":
        """The boxes with a margin, at `scale` pixels to a cell, moved into the picture of `size` cells."""
        lengths = (boxes[0].height, boxes[0].width)
        height, width = (min(scale * n + 2 * margin, scale * end) for n, end in zip(lengths, size, strict=True))
        tops = tuple(min(max(scale * box.top - margin, 0), scale * size[0] - height) for box in boxes)
        lefts = tuple(min(max(scale * box.left - margin, 0), scale * size[1] - width) for box in boxes)
        return cls(tops, lefts, height, width)

    def at(self, before: int, after: int) -> "Window":
        """The same where there are `after` pixels to a cell, rather than `before`."""
        tops, lefts = (tuple(start * after // before for start in starts) for starts in (self.tops, self.lefts))
        return Window(tops, lefts, self.height * after // before, self.width * after // before)

    def find(self, inner: "Window") -> "Window":
        """`inner`, which lies within this one, as counted from this one's corner."""
        tops = tuple(a - b for a, b in zip(inner.tops, self.tops, strict=True))
        lefts = tuple(a - b for a, b in zip(inner.lefts, self.lefts, strict=True))
        return Window(tops, lefts, inner.height, inner.width)

    def cut(self, x: Tensor) -> Tensor:
        """(boxes, C, H, W) -> (boxes, C, height, width): a copy, so that x can be freed, or x where it is all."""
        if x.shape[2:] == (self.height, self.width):
            return x
        places = zip(torch.split(x, 1), self.tops, self.lefts, strict=True)
        return torch.cat([y[..., top : top + self.height, left : left + self.width] for y, top, left in places])


NOTHING = Window((), (), 0, 0)


def memory(run: Sequence[Stage], size: tuple[int, int], part: tuple[int, int]) -> int:
    """Bytes for a part, in cells, of a grid of `size` through these stages, with its margins, in fp32."""
    most = 0
    for stage in run:
        tall, wide = (
            min(n * stage.before + 2 * stage.margin, end * stage.before) * stage.layers // stage.before
            for n, end in zip(part, size, strict=True)
        )
        most = max(most, tall * wide * stage.channels)
    return int(4 * LIVE * most)


def divided(run: Sequence[Stage], size: tuple[int, int], budget: int) -> Iterator[Box]:
    """Parts that fit the budget, few, alike and nearly square; each cell is in exactly one."""
    down, across = 1, 1
    rows, columns = size
    while memory(run, size, (rows, columns)) > budget and rows * columns > 1:
        if rows >= columns:
            down += 1
        else:
            across += 1
        rows, columns = math.ceil(size[0] / down), math.ceil(size[1] / across)
    for top in range(0, size[0], rows):
        for left in range(0, size[1], columns):
            yield Box(top, left, min(rows, size[0] - top), min(columns, size[1] - left))
