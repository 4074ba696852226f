"""Layers that look at the whole picture, made to hold on to what they saw of it, so that parts need no more.

Two kinds do: each GroupNorm takes its statistics over the picture, and attention lets every cell look at every other.
Here both are settled by what they are shown first, in one piece or in several, and are the same for all that follows.
All else is convolution (see `parts`). Attention looks at a sample of cells where there are many: it has no weights of
position, so it is a mean over cells, and a sample estimates it.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.codec.autoencoder import AttnBlock
from taming_cli.codec.norm import GroupNorm
from taming_cli.codec.tiling.boxes import NOTHING, Box, Stage, Window

ALL = 128 * 128
"""Most cells among which attention is taken whole: its time is their number squared."""
SEEN = 2048
"""Cells that each cell looks at where there are more than ALL."""
STRIPS = 4
"""Strips of rows that attention is computed in, for memory."""

Network = TypeVar("Network", bound=nn.Module)


@dataclass
class Sight:
    """What the layers see now, which those that are not settled are settled by.

    `pick` says which of the pixels that count are to be attended to, by number, (n,). `parts` is how many such sights
    make up what a layer is settled by. `shares` are what each picture of the batch stands for. `place`: where in a
    picture of the sides `picture` the pixels lie that count, and `inner`, where in what the layers see.
    """

    pick: "Callable[[Sight], Tensor]"
    parts: int = 1
    shares: Sequence[float] = (1,)
    picture: tuple[int, int] = (0, 0)
    place: Window = NOTHING
    inner: Window = NOTHING


class Base(NamedTuple):
    """What parts are cut from: `x` (1, C, H, W), with `scale` pixels to each cell of a grid of `size`."""

    x: Tensor
    size: tuple[int, int]
    scale: int


class Unsettled(Exception):  # noqa: N818 - nothing went wrong
    """What follows `layer` cannot be computed yet: it has seen this part, and waits for the others."""

    def __init__(self, layer: "HeldNorm | HeldAttention") -> None:
        super().__init__()
        self.layer = layer


def through(base: Base, run: Sequence[Stage], boxes: Sequence[Box], sight: Sight) -> Tensor:
    """Boxes of one size through stages on held layers -> what the last gives, (boxes, C, H, W), without margins.

    Unsettled is raised by the first layer that is to be settled by several parts.
    """
    x, size, scale = base.x.expand(len(boxes), -1, -1, -1), base.size, base.scale
    window = Window.of([Box(0, 0, *size)] * len(boxes), size, scale)
    for stage in run:
        needed = Window.of(boxes, size, stage.before, stage.margin)
        x = window.find(needed).cut(x)
        sight.picture = (size[0] * stage.layers, size[1] * stage.layers)
        sight.place = Window.of(boxes, size, stage.layers)
        sight.inner = needed.at(stage.before, stage.layers).find(sight.place)
        x = stage.run(x)
        window, scale = needed.at(stage.before, stage.after), stage.after
    return window.find(Window.of(boxes, size, scale)).cut(x)


def held(network: Network, sight: Sight) -> Network:
    """A network on the same weights, whose norms and attentions hold on to what they see through `sight`."""
    weights: dict[int, object] = {id(tensor): tensor for tensor in network.parameters()}
    other = copy.deepcopy(network, weights)
    for module in list(other.modules()):
        for name, child in module.named_children():
            if isinstance(child, GroupNorm):
                module.register_module(name, HeldNorm(child, sight))
            elif isinstance(child, AttnBlock):
                module.register_module(name, HeldAttention(child, sight))
    return other


class HeldNorm(nn.Module):
    """A GroupNorm with one mean and variance for each group, of all pixels that count, for all that follows."""

    def __init__(self, norm: GroupNorm, sight: Sight) -> None:
        super().__init__()
        self.norm = norm
        self.sight = sight
        self.found: list[tuple[Tensor, Tensor]] = []
        self.shares: list[float] = []
        self.mean: Tensor | None = None
        self.var: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W). May raise Unsettled."""
        if self.mean is None:
            wide = self.sight.inner.cut(x).to(torch.promote_types(x.dtype, torch.float32))
            self.found.append(torch.var_mean(wide, (2, 3), correction=0))
            self.shares += self.sight.shares
            if self.sight.parts > 1:
                raise Unsettled(self)
            self.settle()
        return F.batch_norm(x, self.mean, self.var, self.norm.weight, self.norm.bias, eps=self.norm.eps)

    def settle(self) -> None:
        """Mean and variance (C,) of each channel's group, over all that the pictures seen stand for."""
        var, mean = (torch.cat(each) for each in zip(*self.found, strict=True))  # (pictures, C)
        share = torch.tensor(self.shares, dtype=mean.dtype, device=mean.device)[:, None] / sum(self.shares)
        self.found.clear()
        groups = self.norm.num_groups
        per = mean.shape[1] // groups
        self.mean = (share * mean).sum(0).view(groups, per).mean(1).repeat_interleave(per)
        spread = (share * (var + (mean - self.mean) ** 2)).sum(0).view(groups, per).mean(1)
        self.var = spread.repeat_interleave(per)


class HeldAttention(nn.Module):
    """Attention to cells that count, the same for all that follows."""

    def __init__(self, block: AttnBlock, sight: Sight) -> None:
        super().__init__()
        self.block = block
        self.sight = sight
        self.found: list[Tensor] = []
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W). May raise Unsettled."""
        n = self.block.norm(x)
        if self.seen is None:
            cells = self.sight.inner.cut(n).transpose(0, 1).flatten(1)  # (C, cells)
            self.found.append(cells[:, self.sight.pick(self.sight).to(x.device)])
            if self.sight.parts > 1:
                raise Unsettled(self)
            self.settle()
        seen = self.seen
        assert seen is not None
        strips = zip(torch.chunk(x, STRIPS, 2), torch.chunk(n, STRIPS, 2), strict=True)
        return torch.cat([self.block.attend(part, normed, seen) for part, normed in strips], 2)

    def settle(self) -> None:
        """Attend to all cells that were picked, (1, C, cells, 1)."""
        self.seen = torch.cat(self.found, 1)[None, :, :, None]
        self.found.clear()
