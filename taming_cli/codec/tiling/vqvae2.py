"""The stages of a VQ-VAE-2, all of whose operations are local, so that its parts are exactly those of the whole.

Cells are those of the bottom level. Parts begin and end at even cells, as top codes do. Margins of stages that halve
the resolution are even.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from taming_cli.codec.tiling.boxes import Stage
from taming_cli.codec.tiling.global_layers import local
from taming_cli.codec.vqgan import VQGAN
from taming_cli.codec.vqvae2 import LevelEncoder, VQVAE2Decoder

EVEN = 2


def encoder_stages(codec: VQGAN, to_input: Callable[[Tensor], Tensor]) -> list[Stage]:
    """As `encoding.stages`.

    The last stage depends on one pixel around it for each convolution of 3 x 3 of its own level; through the top level,
    on two for each of those in the networks to and from there, on two for the convolution that doubles the resolution,
    and on one for that which halves it.
    """
    config, encoder, device = codec.config, codec.encoder, codec.device
    assert isinstance(encoder, LevelEncoder)
    first, second, rest = encoder.blocks[:2], encoder.blocks[2:4], encoder.blocks[4:]

    def read(values: Tensor) -> Tensor:
        x: Tensor = first(to_input(values.to(device)).contiguous(memory_format=torch.channels_last))
        return x

    def quantize(h: Tensor) -> Tensor:
        codes: Tensor = codec.quantize(h).codes
        return codes[:, None]

    own = 1 + config.num_res_blocks
    reach = own + 2 * (own + own) + 2 + 1
    wide = max(config.ch + config.codebook_dim, 2 * config.codebook_dim)
    return [
        Stage([local(read)], EVEN, 4, 2, max(config.in_channels, -(-config.ch // 8)), output=config.ch // 2),
        Stage([local(second)], EVEN, 2, 1, config.ch // 2, output=config.ch),
        Stage([local(rest), local(quantize)], reach + reach % EVEN, 1, 1, wide, step=EVEN),
    ]


def decoder_stages(codec: VQGAN) -> list[Stage]:
    """As `decoding.stages`, whose margins include those of all stages that follow: one pixel for each convolution, and
    two for that which doubles the resolution of the top level."""
    config, decoder = codec.config, codec.decoder
    assert isinstance(decoder, VQVAE2Decoder)
    first, second, last = decoder.blocks[:-3], decoder.blocks[-3:-1], decoder.blocks[-1]

    def read(codes: Tensor) -> Tensor:
        h: Tensor = first(decoder.joined(codec.quantize.lookup(codes[:, 0])))
        return h

    needed = 2 + 2 + 1 + config.num_res_blocks
    return [
        Stage([local(read)], needed + needed % EVEN, 1, 1, max(config.ch, 2 * config.codebook_dim), step=EVEN),
        Stage([local(second)], 2, 1, 2, config.ch // 2),
        Stage([local(last)], 1, 2, 4, max(config.out_ch, -(-config.ch // 8))),
    ]
