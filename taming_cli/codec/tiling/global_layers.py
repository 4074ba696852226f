"""The codec's networks as lists of operations, some of which are global: they depend on the whole picture.

Two kinds of layer are global: GroupNorm takes its statistics over the whole picture, and attention lets each cell
attend to all others. `GlobalNorm` and `GlobalAttention` replace them. Each observes the picture, in one part or in
several, and is then frozen. Any part of the picture can then be computed by itself. All other operations are
convolutions, which only need a margin (see `boxes`).

Where there are many cells, attention is to a sample of them. It has no positional weights, so it is a mean over cells,
which a sample estimates.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.codec.autoencoder import AttnBlock, Level, Middle, ResnetBlock
from taming_cli.codec.norm import GroupNorm
from taming_cli.codec.tiling.boxes import Box, Operation, Stage, State, Window

FULL_CELLS = 128 * 128
"""Largest number of cells for which attention is computed in full: its time grows with their square."""
SAMPLE_CELLS = 2048
"""Number of cells that each cell attends to where there are more than FULL_CELLS."""
STRIPS = 4
"""Number of strips of rows in which attention is computed, to bound its memory."""


class Region(NamedTuple):
    """The part of each picture of a batch that a layer observes.

    `picture` is the height and width of a picture at the layer's resolution, `place` the part of it that is observed,
    and `inner` the position of that part in the layer's input, without its margins. Picture b of the batch counts
    `shares[b]` times.
    """

    picture: tuple[int, int]
    place: Window
    inner: Window
    shares: Sequence[float]


Pick = Callable[[Region], Tensor]
"""A function that selects the observed pixels to attend to: their numbers, (n,)."""


class GlobalNorm:
    """A GroupNorm, then an activation, with the statistics of all observed pixels."""

    def __init__(self, norm: GroupNorm, activation: Callable[[Tensor], Tensor] | None = None) -> None:
        self._norm, self._activation = norm, activation
        self._moments: list[tuple[Tensor, Tensor]] = []
        self._shares: list[float] = []
        self._mean: Tensor | None = None
        self._var: Tensor | None = None

    @property
    def frozen(self) -> bool:
        """Whether the statistics are fixed."""
        return self._mean is not None

    def observe(self, state: State, region: Region) -> None:
        """Record mean and variance of each channel of a part."""
        x = region.inner.crop(state[-1])
        self._moments.append(torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), (2, 3), correction=0))
        self._shares += region.shares

    def freeze(self) -> None:
        """Fix mean and variance, (C,), of each channel's group over all that was observed, weighted by the shares."""
        var, mean = (torch.cat(each) for each in zip(*self._moments, strict=True))  # (pictures, C)
        share = torch.tensor(self._shares, dtype=mean.dtype, device=mean.device)[:, None] / sum(self._shares)
        self._moments.clear()
        groups = self._norm.num_groups
        per = mean.shape[1] // groups
        self._mean = (share * mean).sum(0).view(groups, per).mean(1).repeat_interleave(per)
        spread = (share * (var + (mean - self._mean) ** 2)).sum(0).view(groups, per).mean(1)
        self._var = spread.repeat_interleave(per)

    def __call__(self, state: State) -> State:
        """(B, C, H, W) -> (B, C, H, W)."""
        norm = self._norm
        y = F.batch_norm(state[-1], self._mean, self._var, norm.weight, norm.bias, eps=norm.eps)
        return (*state[:-1], y if self._activation is None else self._activation(y))


class GlobalAttention:
    """The attention of a block to observed cells. Its state is the block's input, and that input after the norm."""

    def __init__(self, block: AttnBlock, pick: Pick) -> None:
        self._block, self._pick = block, pick
        self._cells: list[Tensor] = []
        self._context: Tensor | None = None

    @property
    def frozen(self) -> bool:
        """Whether the cells that are attended to are fixed."""
        return self._context is not None

    def observe(self, state: State, region: Region) -> None:
        """Record the selected cells of a part."""
        cells = region.inner.crop(state[-1]).transpose(0, 1).flatten(1)  # (C, cells)
        self._cells.append(cells[:, self._pick(region).to(cells.device)])

    def freeze(self) -> None:
        """Attend to all cells that were observed, (1, C, cells, 1)."""
        self._context = torch.cat(self._cells, 1)[None, :, :, None]
        self._cells.clear()

    def __call__(self, state: State) -> State:
        """(B, C, H, W), twice -> (B, C, H, W)."""
        x, normed = state
        assert self._context is not None
        strips = zip(torch.chunk(x, STRIPS, 2), torch.chunk(normed, STRIPS, 2), strict=True)
        return (torch.cat([self._block.attend(part, n, self._context) for part, n in strips], 2),)


GlobalLayer = GlobalNorm | GlobalAttention


def local(function: Callable[[Tensor], Tensor]) -> Operation:
    """The operation that applies a function to the last tensor of the state."""
    return lambda state: (*state[:-1], function(state[-1]))


def _fork(state: State) -> State:
    return (*state, state[-1])


def _residual_block(block: ResnetBlock) -> list[Operation]:
    def add(state: State) -> State:
        x, h = state
        return (h + (x if block.nin_shortcut is None else block.nin_shortcut(x)),)

    first, second = GlobalNorm(block.norm1, F.silu), GlobalNorm(block.norm2, F.silu)
    return [_fork, first, local(block.conv1), second, local(block.conv2), add]


def _attention_block(block: AttnBlock, pick: Pick) -> list[Operation]:
    return [_fork, GlobalNorm(block.norm), GlobalAttention(block, pick)]


def level_operations(level: Level, pick: Pick) -> list[Operation]:
    """The blocks of a level, as `Level.blocks` runs them."""
    operations: list[Operation] = []
    for index, block in enumerate(level.block):
        assert isinstance(block, ResnetBlock)
        operations += _residual_block(block)
        if level.attn:
            attention = level.attn[index]
            assert isinstance(attention, AttnBlock)
            operations += _attention_block(attention, pick)
    return operations


def middle_operations(middle: Middle, pick: Pick) -> list[Operation]:
    """The blocks at the lowest resolution, as `Middle.forward` runs them."""
    attention = _attention_block(middle.attn_1, pick)
    return [*_residual_block(middle.block_1), *attention, *_residual_block(middle.block_2)]


def global_layers(stages: Sequence[Stage]) -> Iterator[GlobalLayer]:
    """The global layers of some stages, in order of execution."""
    for stage in stages:
        for operation in stage.operations:
            if isinstance(operation, GlobalLayer):
                yield operation


class Activation(NamedTuple):
    """A tensor of the whole picture: `x` (1, C, H, W), with `scale` pixels per cell of a grid of `size` cells."""

    x: Tensor
    size: tuple[int, int]
    scale: int


def run_boxes(whole: Activation, stages: Sequence[Stage], boxes: Sequence[Box], shares: Sequence[float]) -> Tensor:
    """Run boxes of one size through stages, all in one batch -> (boxes, C, H, W), without margins.

    A global layer that is not frozen yet observes the boxes, weighted by `shares`, and is then frozen.
    """
    result = _run(whole, stages, boxes, shares, None)
    assert result is not None
    return result


def observe(whole: Activation, stages: Sequence[Stage], box: Box, layer: GlobalLayer) -> None:
    """Run a box through stages as far as `layer`, which observes it. All earlier global layers must be frozen."""
    _run(whole, stages, [box], [box.height * box.width], layer)


def _run(
    whole: Activation, stages: Sequence[Stage], boxes: Sequence[Box], shares: Sequence[float], last: GlobalLayer | None
) -> Tensor | None:
    """The output of the last stage; None where the run ends at the layer `last`."""
    size, scale = whole.size, whole.scale
    state: State = (whole.x.expand(len(boxes), -1, -1, -1),)
    window = Window.of([Box(0, 0, *size)] * len(boxes), size, scale)
    for stage in stages:
        needed = Window.of(boxes, size, stage.before, stage.margin)
        place = Window.of(boxes, size, stage.layers)
        inner = needed.at(stage.before, stage.layers).find(place)
        region = Region((size[0] * stage.layers, size[1] * stage.layers), place, inner, shares)
        state = (window.find(needed).crop(state[0]),)
        for operation in stage.operations:
            if isinstance(operation, GlobalLayer) and not operation.frozen:
                operation.observe(state, region)
                if operation is last:
                    return None
                operation.freeze()
            state = operation(state)
        window, scale = needed.at(stage.before, stage.after), stage.after
    return window.find(Window.of(boxes, size, scale)).crop(state[0])
