"""Decodes any part of a picture by itself, after the layers that depend on the whole picture have been frozen.

`LocalDecoder` freezes norms and attention (see `global_layers`) for one picture. The first stages, whose resolution is
low, run on the whole picture. The later ones run on patches spread over the picture, all in one batch: each norm takes
mean and variance over all of them, and attention sees cells of all of them. The result then does not depend on how the
picture is divided into parts, up to rounding.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.codec.autoencoder import Decoder, Level
from taming_cli.codec.dvae import DVAEDecoder
from taming_cli.codec.tiling import dvae, palette, vqvae2
from taming_cli.codec.tiling.boxes import Box, Stage
from taming_cli.codec.tiling.global_layers import (
    FULL_CELLS,
    SAMPLE_CELLS,
    Activation,
    GlobalNorm,
    Region,
    global_layers,
    level_operations,
    local,
    middle_operations,
    run_boxes,
)
from taming_cli.codec.vqgan import VQGAN
from taming_cli.codec.vqvae2 import VQVAE2Decoder


def stages(codec: VQGAN) -> list[Stage]:
    """The codec's decoder, from codes (B, 1, h, w) to pictures (B, out_ch, f h, f w).

    Margins count one pixel for each 3 x 3 convolution: the last one, two in each block, one after each upsampling, the
    first one.
    """
    decoder, config = codec.decoder, codec.config
    if isinstance(decoder, DVAEDecoder):
        return dvae.decoder_stages(codec)
    if isinstance(decoder, VQVAE2Decoder):
        return vqvae2.decoder_stages(codec)
    if config.network == "palette":
        return palette.decoder_stages(codec)
    assert isinstance(decoder, Decoder)
    levels = [level for level in decoder.up if isinstance(level, Level)]

    def read(codes: Tensor) -> Tensor:
        x: Tensor = decoder.conv_in(codec.post_quant_conv(codec.quantize.lookup(codes[:, 0])))
        return x

    f, inner = config.downsample_factor, config.downsample_factor // config.patch_size
    per_pixel = max(config.out_ch, -(-config.decoder_channels // config.patch_size**2))
    result = [
        Stage([local(decoder.write)], 1, inner, f, per_pixel),
        Stage([GlobalNorm(decoder.norm_out, F.silu)], 1, inner, inner, config.decoder_channels),
    ]
    for index, level in enumerate(levels):
        after = inner // 2**index
        blocks = level_operations(level, _pick)
        channels = config.decoder_channels * max(config.ch_mult[index : index + 2])
        needed = result[-1].margin + 2 * len(level.block)
        if level is levels[-1]:
            operations = [local(read), *middle_operations(decoder.mid, _pick), *blocks]
            result.append(Stage(operations, needed + 5, 1, 1, channels))
        else:
            upsample = levels[index + 1].upsample
            assert upsample is not None
            result.append(Stage([local(upsample), *blocks], math.ceil((needed + 1) / 2), after // 2, after, channels))
    return result[::-1]


class LocalDecoder:
    """Decodes parts of one picture, with statistics that are frozen when the decoder is created.

    `codes` (h, w) are those of the picture. The first `whole` stages run on all of it; the statistics of the others are
    taken on `patches`, all of one size. Each patch represents as many cells as its number in `shares`, by default all
    the same. Uses the codec's weights and leaves the codec unchanged.
    """

    @torch.no_grad()
    def __init__(
        self, codec: VQGAN, codes: Tensor, *, whole: int, patches: Sequence[Box], shares: Sequence[float] = ()
    ) -> None:
        size = (codes.shape[0], codes.shape[1])
        self._base = Activation(codes[None, None], size, 1)
        every = stages(codec)
        for stage in every[:whole]:
            self._base = Activation(run_boxes(self._base, [stage], [Box(0, 0, *size)], [1]), size, stage.after)
        self._stages = every[whole:]
        if any(global_layers(self._stages)):
            run_boxes(self._base, self._stages, patches, shares or [1] * len(patches))

    @torch.no_grad()
    def __call__(self, part: Box) -> Tensor:
        """Decode one part: (1, out_ch, f height, f width), about [-1, 1]."""
        return run_boxes(self._base, self._stages, [part], [1])


def _pick(region: Region) -> Tensor:
    """Cells of all patches, evenly spread over what the patches represent."""
    each, shares = region.inner.height * region.inner.width, torch.tensor(region.shares, dtype=torch.float64)
    cumulative = shares.repeat_interleave(each).cumsum(0)
    count = len(cumulative) if len(cumulative) <= FULL_CELLS else SAMPLE_CELLS
    return torch.searchsorted(cumulative, (torch.arange(count) + 0.5) * cumulative[-1] / count)
