"""The stages of a dVAE, all of whose operations are local, so that its parts are exactly those of the whole picture."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.codec.dvae import DVAEDecoder, DVAEEncoder
from taming_cli.codec.tiling.boxes import Operation, Stage
from taming_cli.codec.tiling.global_layers import local
from taming_cli.codec.vqgan import VQGAN

REACH = 3
"""Pixels around it that an output pixel of a block depends on: one for each convolution of 3 x 3."""
FIRST = 3
"""The same for the encoder's first convolution, of 7 x 7."""


def encoder_stages(codec: VQGAN, to_input: Callable[[Tensor], Tensor]) -> list[Stage]:
    """As `encoding.stages`. Margins are even where a stage ends with a pooling of 2 x 2 pixels."""
    config, encoder, device = codec.config, codec.encoder, codec.device
    assert isinstance(encoder, DVAEEncoder)

    def read(values: Tensor) -> Tensor:
        return encoder.read(to_input(values.to(device)).contiguous(memory_format=torch.channels_last))

    def quantize(h: Tensor) -> Tensor:
        codes: Tensor = codec.quantize(F.relu(h)).codes
        return codes[:, None]

    f, reach = config.downsample_factor, REACH * config.num_res_blocks
    result = []
    for index, group in enumerate(encoder.groups):
        first, last = index == 0, index == len(encoder.groups) - 1
        operations: list[Operation] = [local(read)] if first else []
        operations += [local(group), local(quantize if last else _pool)]
        before, margin = f // 2**index, reach + FIRST * first
        channels = max(config.ch * config.ch_mult[index], config.codebook_size if last else config.in_channels)
        after = before if last else before // 2
        result.append(Stage(operations, margin if last else margin + margin % 2, before, after, channels))
    return result


def decoder_stages(codec: VQGAN) -> list[Stage]:
    """As `decoding.stages`, whose margins include those of all stages that follow."""
    config, decoder = codec.config, codec.decoder
    assert isinstance(decoder, DVAEDecoder)

    def read(codes: Tensor) -> Tensor:
        return codec.quantize.lookup(codes[:, 0])

    reach, needed = REACH * config.num_res_blocks, 0
    result: list[Stage] = []
    for index, group in reversed(list(enumerate(decoder.groups))):
        first, last = index == 0, index == len(decoder.groups) - 1
        after = 2**index
        operations = [local(read if first else _double), local(group)]
        operations += [local(F.relu), local(decoder.pictures)] if last else []
        needed = needed + reach if first else -(-(needed + reach) // 2)
        channels = max(_widths(group))
        result.append(Stage(operations, needed, after if first else after // 2, after, channels))
    return result[::-1]


def _pool(h: Tensor) -> Tensor:
    return F.max_pool2d(h, 2)


def _double(h: Tensor) -> Tensor:
    return F.interpolate(h, scale_factor=2.0, mode="nearest")


def _widths(group: nn.Module) -> list[int]:
    return [n for conv in group.modules() if isinstance(conv, nn.Conv2d) for n in (conv.in_channels, conv.out_channels)]
