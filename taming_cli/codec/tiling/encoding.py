"""The encoder by parts, with the statistics of the whole: passes over a picture, one for each layer that looks at all.

The codes of a part must be those that the whole picture would give, and they move with the statistics of every norm. So
these are taken over all pixels: part by part goes as far as the first norm that is not settled, which keeps mean and
variance of each channel in it, and when all parts have been there, it is settled by them. Attention likewise, by the
cells to look at. What lies before is computed anew in each pass, but only since the last resolution whose result fits
into memory and is kept.

Measured with a `tiny` codec, f8, of little training, on a 1024 x 768 mosaic of photographs, with a budget of 32 MiB
on one core: codes that differ from those of the whole in float64, and time.

    whole, fp32 (torch's GroupNorm rounds its sums there)         0.46 %     2.7 s
    passes, attention to all cells                                0.13 %    18.0 s
    passes, attention to 8192 of 12288 cells                      0.50 %    13.0 s
    passes, attention to 2048 of them                             0.68 %     5.4 s
    statistics of 48 even patches of 4 x 4 cells                94.7 %     17.9 s
    statistics of 12 even patches of 16 x 16 cells              98.1 %     33.1 s
    tiles of 256 pixels on their own                             98.1 %      0.7 s

Patches, which had a gigabyte, save no time: they need margins of many cells. Attention that sees all costs its time
again in each pass that follows. 4096 x 4096 takes 63 s of one core and 1.9 GiB; 1024 x 1024 with 182 labels 12 s and
1.1 GiB whole, 11 s and 0.4 GiB with a budget of 0.5 GiB.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from taming_cli.codec.autoencoder import Encoder
from taming_cli.codec.tiling.boxes import Box, Stage, divided
from taming_cli.codec.tiling.global_layers import (
    ALL,
    SEEN,
    Base,
    HeldAttention,
    HeldNorm,
    Sight,
    Unsettled,
    held,
    through,
)
from taming_cli.codec.vqgan import VQGAN
from taming_cli.runtime.fp32 import ieee

ToInput = Callable[[Tensor], Tensor]
"""Pictures or maps (B, c, H, W), of a small type -> a codec's input (B, in_channels, H, W), each pixel by itself."""

_GOLDEN = (5**0.5 - 1) / 2


class Leg(NamedTuple):
    """Stages from one result that is kept to the next, and the parts that they are run in."""

    run: tuple[Stage, ...]
    tiles: tuple[Box, ...]


def stages(codec: VQGAN, to_input: ToInput, encoder: Encoder | None = None) -> list[Stage]:
    """What `to_input` takes, (B, c, f h, f w) -> codes (B, 1, h, w); by the codec's encoder, or one that stands for it.

    The margin of each is its own reach: 3 x 3 convolutions, a pixel each. Halving sees one more, right and below, and
    another is added for parts to begin and end at even pixels.
    """
    own = codec.encoder if encoder is None else encoder
    config, device = codec.config, codec.quant_conv.weight.device

    def begin(values: Tensor) -> Tensor:
        x = to_input(values.to(device))
        y: Tensor = own.conv_in(x.contiguous(memory_format=torch.channels_last))
        return y

    def end(x: Tensor) -> Tensor:
        h = own.mid(own.down[-1](x))
        z = codec.quant_conv(own.conv_out(torch.nn.functional.silu(own.norm_out(h))))
        codes: Tensor = codec.quantize(z).codes
        return codes[:, None]

    f = config.downsample_factor
    found = [Stage(begin, 1, f, f, max(config.in_channels, config.ch))]
    for index, level in enumerate(own.down):
        before, reach = f // 2**index, 2 * config.num_res_blocks
        channels = config.ch * max(config.ch_mult[max(0, index - 1) : index + 1])
        if before > 1:
            found.append(Stage(level, reach + 2, before, before // 2, channels))
        else:
            logits = config.codebook_size if config.codebook == "gumbel" else 0
            found.append(Stage(end, reach + 5, 1, 1, max(channels, logits)))
    return found


def toward_end(run: Sequence[Stage]) -> list[Stage]:
    """The same, with the margins that what the last one gives depends on."""
    found, needed = list[Stage](), 0
    for stage in reversed(run):
        needed = stage.margin + needed * stage.before // stage.after
        found.append(stage._replace(margin=needed))
    return found[::-1]


def legs(run: Sequence[Stage], size: tuple[int, int], budget: int) -> Iterator[Leg]:
    """The way through these stages for a grid of `size` cells, in `budget` bytes with all that is kept.

    A result is kept where it is of a lower resolution, and leaves an eighth of the budget, beside what it is made of,
    for the parts.
    """
    kept, start = 0, 0
    for end, stage in enumerate(run, 1):
        last = end == len(run)
        result = 0 if last else 4 * size[0] * size[1] * stage.after**2 * stage.channels
        if last or (stage.after < stage.before and kept + result <= budget - budget // 8):
            part = toward_end(run[start:end])
            yield Leg(tuple(part), tuple(divided(part, size, budget - kept - result)))
            kept, start = result, end


@torch.no_grad()
@ieee()
def encode(codec: VQGAN, picture: Tensor, to_input: ToInput, budget: int) -> Tensor:
    """One picture (1, c, f h, f w), as `to_input` takes it -> its codes (1, h, w) int64, in about `budget` bytes."""
    f, sight = codec.config.downsample_factor, Sight(_pick)
    size = (picture.shape[2] // f, picture.shape[3] // f)
    base = Base(picture, size, f)
    for leg in legs(stages(codec, to_input, held(codec.encoder, sight)), size, budget):
        base = Base(_walk(leg, base, sight), size, leg.run[-1].after)
    return base.x[:, 0]


def _walk(leg: Leg, base: Base, sight: Sight) -> Tensor:
    """What the last stage gives of the whole picture, (1, C, H, W): passes until no layer waits to be settled."""
    scale, sight.parts = leg.run[-1].after, len(leg.tiles)
    while True:
        waiting: HeldNorm | HeldAttention | None = None
        result: Tensor | None = None
        for box in leg.tiles:
            sight.shares = [box.height * box.width]
            try:
                part = through(base, leg.run, [box], sight)
            except Unsettled as unsettled:
                waiting = unsettled.layer
                continue
            if len(leg.tiles) == 1:
                return part
            if result is None:
                sides = (1, part.shape[1], scale * base.size[0], scale * base.size[1])
                result = torch.empty(sides, dtype=part.dtype, device=part.device, memory_format=torch.channels_last)
            top, left = scale * box.top, scale * box.left
            result[..., top : top + part.shape[2], left : left + part.shape[3]] = part
        if waiting is None:
            assert result is not None
            return result
        waiting.settle()


def _pick(sight: Sight) -> Tensor:
    """Numbers of the part's cells that are among those to be seen: all, or a lattice, even in both directions."""
    (top,), (left,), (height, width) = sight.place.tops, sight.place.lefts, sight.picture
    if height * width <= ALL:
        return torch.arange(sight.place.height * sight.place.width)
    each = torch.arange(SEEN, dtype=torch.float64)
    rows = ((each + 0.5) * height / SEEN).long() - top
    columns = ((each * _GOLDEN) % 1 * width).long() - left
    inside = (rows >= 0) & (rows < sight.place.height) & (columns >= 0) & (columns < sight.place.width)
    return (rows * sight.place.width + columns)[inside]
