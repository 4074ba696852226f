"""The decoder made local: what it takes from the whole picture is settled first, and then a part of it needs no more.

`LocalDecoder` settles norms and attention (see `held`) for one picture. The first stages, whose resolution is low, run
on all of it. The later ones run on patches, spread over the picture and all in one batch: each GroupNorm takes its mean
and variance over all of them, and attention looks at cells of all of them. A part is then the same, but for rounding,
however the picture is cut into parts.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.codec.autoencoder import Decoder, Level
from taming_cli.codec.tiling.boxes import Box, Stage
from taming_cli.codec.tiling.global_layers import ALL, SEEN, Base, Sight, held, through
from taming_cli.codec.vqgan import VQGAN


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
        self._sight = Sight(_pick)
        size = (codes.shape[0], codes.shape[1])
        self._base = Base(codes[None, None], size, 1)
        every = stages(codec, held(codec.decoder, self._sight))
        for stage in every[:whole]:
            self._base = Base(self._run([stage], [Box(0, 0, *size)]), size, stage.after)
        self._stages = every[whole:]
        if self._stages:
            self._sight.shares = list(shares or [1] * len(patches))
            self._run(self._stages, patches)

    @torch.no_grad()
    def __call__(self, part: Box) -> Tensor:
        """One part: (1, out_ch, f height, f width), about [-1, 1]."""
        return self._run(self._stages, [part])

    def _run(self, some: Sequence[Stage], boxes: Sequence[Box]) -> Tensor:
        return through(self._base, some, boxes, self._sight)


def _pick(sight: Sight) -> Tensor:
    """Numbers of cells, of those of all patches, evenly spread over what these stand for."""
    each, shares = sight.inner.height * sight.inner.width, torch.tensor(sight.shares, dtype=torch.float64)
    upto = shares.repeat_interleave(each).cumsum(0)
    count = len(upto) if len(upto) <= ALL else SEEN
    return torch.searchsorted(upto, (torch.arange(count) + 0.5) * upto[-1] / count)
