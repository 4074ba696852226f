"""The stages of a palette, in which each pixel is coded by itself, so that its parts are exactly those of the whole
picture."""

from collections.abc import Callable

from torch import Tensor

from taming_cli.codec.tiling.boxes import Stage
from taming_cli.codec.tiling.global_layers import local
from taming_cli.codec.vqgan import VQGAN


def encoder_stages(codec: VQGAN, to_input: Callable[[Tensor], Tensor]) -> list[Stage]:
    """As `encoding.stages`."""

    def quantize(values: Tensor) -> Tensor:
        return codec.encode(to_input(values.to(codec.device)))[:, None]

    return [Stage([local(quantize)], 0, 1, 1, codec.config.in_channels)]


def decoder_stages(codec: VQGAN) -> list[Stage]:
    """As `decoding.stages`."""
    return [Stage([local(lambda codes: codec.decode(codes[:, 0]))], 0, 1, 1, codec.config.out_ch)]
