"""The decoder made local: what it takes from the whole picture is settled first, and then a part of it needs no more.

Two kinds of layer look at the whole picture: each GroupNorm takes its statistics over it, and attention lets every cell
look at every other. `LocalDecoder` settles both for one picture. The first stages, whose resolution is low, run on all
of it. The later ones run on patches, spread over the picture and all in one batch: each GroupNorm takes its mean and
variance over all of them and keeps these. Attention looks at a sample of cells where there are many (it has no weights
of position, so it is a mean over cells, and a sample estimates it).

All else is convolution: an output depends on so many pixels around it. A part is then decoded with that margin, which
is cut away stage by stage as it has served, and is the same, but for rounding, however the picture is cut into parts.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.codec.autoencoder import AttnBlock, Decoder, Level
from taming_cli.codec.norm import GroupNorm
from taming_cli.codec.vqgan import VQGAN

ALL = 128 * 128
"""Most cells among which attention is taken whole: its time is their number squared."""
SEEN = 2048
"""Cells that each cell looks at where there are more than ALL."""
STRIPS = 4
"""Strips of rows that attention is computed in, for memory."""


class Box(NamedTuple):
    """Part of a grid of codes, in cells."""

    top: int
    left: int
    height: int
    width: int


class Stage(NamedTuple):
    """A stretch of the decoder at one resolution, (B, C, H, W) -> (B, C', H', W').

    `margin`: pixels around a part, in what it is given, that the finished part depends on; `before` and `after`: pixels
    to a cell in what it is given and what it gives; `channels`: the most that it has.
    """

    run: Callable[[Tensor], Tensor]
    margin: int
    before: int
    after: int
    channels: int


def stages(codec: VQGAN, decoder: Decoder | None = None) -> list[Stage]:
    """Codes (B, 1, h, w) -> pictures; with the codec's decoder, or one that stands for it.

    Margins count 3 x 3 convolutions, a pixel each: the last, two in a block, one after each doubling, the first.
    """
    own = codec.decoder if decoder is None else decoder
    levels = [level for level in own.up if isinstance(level, Level)]

    def begin(codes: Tensor) -> Tensor:
        z = codec.post_quant_conv(codec.quantize.lookup(codes[:, 0]))
        return levels[-1].blocks(own.mid(own.conv_in(z)))

    def grow(below: Level, level: Level) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            assert below.upsample is not None
            return level.blocks(below.upsample(x))

        return run

    def end(x: Tensor) -> Tensor:
        y: Tensor = own.conv_out(F.silu(own.norm_out(x)))
        return y

    f = codec.config.downsample_factor
    found = [Stage(end, 1, f, f, codec.config.ch)]
    for index, level in enumerate(levels):
        after = f // 2**index
        channels = codec.config.ch * max(codec.config.ch_mult[index : index + 2])
        needed = found[-1].margin + 2 * len(level.block)
        if level is levels[-1]:
            found.append(Stage(begin, needed + 5, 1, 1, channels))
        else:
            run = grow(levels[index + 1], level)
            found.append(Stage(run, math.ceil((needed + 1) / 2), after // 2, after, channels))
    return found[::-1]


class LocalDecoder:
    """Decodes parts of one picture, by statistics that are settled when this is built.

    `codes` (h, w) of the picture. The first `whole` stages run on all of it, the others' statistics are taken on
    `patches`, all of one size, each of which stands for so many cells as its number in `shares` says, or all for the
    same. Shares the codec's weights, and leaves the codec as it is.
    """

    @torch.no_grad()
    def __init__(
        self, codec: VQGAN, codes: Tensor, *, whole: int, patches: Sequence[Box], shares: Sequence[float] = ()
    ) -> None:
        self._size = (codes.shape[0], codes.shape[1])
        self._counted = _Counted()
        self._base, self._scale = codes[None, None], 1
        every = stages(codec, _held(codec.decoder, self._counted))
        for stage in every[:whole]:
            self._base = self._run([stage], [Box(0, 0, *self._size)])
            self._scale = stage.after
        self._stages = every[whole:]
        if self._stages:
            self._counted.shares = list(shares or [1] * len(patches))
            self._run(self._stages, patches)
        self._counted.on = False

    @torch.no_grad()
    def __call__(self, part: Box) -> Tensor:
        """One part: (1, out_ch, f height, f width), about [-1, 1]."""
        return self._run(self._stages, [part])

    def _run(self, some: Sequence[Stage], boxes: Sequence[Box]) -> Tensor:
        """Boxes of one size through these stages -> what the last gives, (boxes, C, H, W), without margins."""
        x = self._base.expand(len(boxes), -1, -1, -1)
        window, scale = _Window.of([Box(0, 0, *self._size)] * len(boxes), self._size, self._scale, 0), self._scale
        for stage in some:
            needed = _Window.of(boxes, self._size, stage.before, stage.margin)
            x = window.find(needed).cut(x)
            window, scale = needed.times(stage.after // stage.before), stage.after
            self._counted.inner = window.find(_Window.of(boxes, self._size, scale, 0))
            x = stage.run(x)
        return window.find(_Window.of(boxes, self._size, scale, 0)).cut(x)


@dataclass(frozen=True)
class _Window:
    """A rectangle of one size at a place of its own in each picture of a batch, in pixels."""

    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    height: int
    width: int

    @classmethod
    def of(cls, boxes: Sequence[Box], size: tuple[int, int], scale: int, margin: int) -> "_Window":
        """The boxes with a margin, at `scale` pixels to a cell, moved into the picture of `size` cells."""
        lengths = (boxes[0].height, boxes[0].width)
        height, width = (min(scale * n + 2 * margin, scale * end) for n, end in zip(lengths, size, strict=True))
        tops = tuple(min(max(scale * box.top - margin, 0), scale * size[0] - height) for box in boxes)
        lefts = tuple(min(max(scale * box.left - margin, 0), scale * size[1] - width) for box in boxes)
        return cls(tops, lefts, height, width)

    def times(self, factor: int) -> "_Window":
        """The same at a higher resolution."""
        tops, lefts = (tuple(factor * start for start in starts) for starts in (self.tops, self.lefts))
        return _Window(tops, lefts, factor * self.height, factor * self.width)

    def find(self, inner: "_Window") -> "_Window":
        """`inner`, which lies within this one, as counted from this one's corner."""
        tops = tuple(a - b for a, b in zip(inner.tops, self.tops, strict=True))
        lefts = tuple(a - b for a, b in zip(inner.lefts, self.lefts, strict=True))
        return _Window(tops, lefts, inner.height, inner.width)

    def cut(self, x: Tensor) -> Tensor:
        """(boxes, C, H, W) -> (boxes, C, height, width): a copy, so that x can be freed, or x where it is all."""
        if x.shape[2:] == (self.height, self.width):
            return x
        places = zip(torch.split(x, 1), self.tops, self.lefts, strict=True)
        return torch.cat([y[..., top : top + self.height, left : left + self.width] for y, top, left in places])


@dataclass
class _Counted:
    """Whether the layers still measure, where in what they see the pixels are that count, and how much, by patch."""

    on: bool = True
    inner: _Window = _Window((), (), 0, 0)
    shares: Sequence[float] = (1,)


def _held(decoder: Decoder, counted: _Counted) -> Decoder:
    """A decoder on the same weights whose norms and attentions hold on to what they measured."""
    weights: dict[int, object] = {id(tensor): tensor for tensor in decoder.parameters()}
    held = copy.deepcopy(decoder, weights)
    for module in list(held.modules()):
        for name, child in module.named_children():
            if isinstance(child, GroupNorm):
                module.register_module(name, _HeldNorm(child, counted))
            elif isinstance(child, AttnBlock):
                module.register_module(name, _HeldAttention(child, counted))
    return held


class _HeldNorm(nn.Module):
    """A GroupNorm with one mean and variance for each group, of all pixels that count, for all that follows."""

    def __init__(self, norm: GroupNorm, counted: _Counted) -> None:
        super().__init__()
        self.norm = norm
        self.counted = counted
        self.mean = self.var = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.counted.on:
            self.mean, self.var = self.measure(self.counted.inner.cut(x), self.counted.shares)
        return F.batch_norm(x, self.mean, self.var, self.norm.weight, self.norm.bias, eps=self.norm.eps)

    def measure(self, x: Tensor, shares: Sequence[float]) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> mean and variance (C,) of each channel's group, over all that the pictures stand for."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        share = torch.tensor(shares, dtype=wide.dtype, device=x.device)[:, None] / sum(shares)
        var, mean = torch.var_mean(wide, (2, 3), correction=0)  # (B, C)
        groups = self.norm.num_groups
        per = mean.shape[1] // groups
        means = (share * mean).sum(0).view(groups, per).mean(1).repeat_interleave(per)
        spread = (share * (var + (mean - means) ** 2)).sum(0).view(groups, per).mean(1)
        return means, spread.repeat_interleave(per)


class _HeldAttention(nn.Module):
    """Attention to cells that count, the same for all that follows."""

    def __init__(self, block: AttnBlock, counted: _Counted) -> None:
        super().__init__()
        self.block = block
        self.counted = counted
        self.seen = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        n = self.block.norm(x)
        if self.counted.on:
            cells = self.counted.inner.cut(n).transpose(0, 1).flatten(1)  # (C, cells)
            self.seen = cells[:, self.pick(cells.shape[1])][None, :, :, None]
        strips = zip(torch.chunk(x, STRIPS, 2), torch.chunk(n, STRIPS, 2), strict=True)
        return torch.cat([self.block.attend(part, normed, self.seen) for part, normed in strips], 2)

    def pick(self, cells: int) -> Tensor:
        """Numbers of cells, of the `cells` of all patches, evenly spread over what these stand for."""
        shares = torch.tensor(self.counted.shares, dtype=torch.float64)
        upto = shares.repeat_interleave(cells // len(shares)).cumsum(0)
        count = cells if cells <= ALL else SEEN
        return torch.searchsorted(upto, (torch.arange(count) + 0.5) * upto[-1] / count)
