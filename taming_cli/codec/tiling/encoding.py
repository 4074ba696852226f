"""Encodes a picture in parts with the statistics of the whole picture, in one pass per global layer.

The codes of a part must be those that the whole picture would have there, and they depend on the statistics of every
norm. So these statistics are taken over all pixels: each part runs as far as the first norm that is not frozen, which
observes mean and variance of each channel. The norm is frozen once it has observed all parts. Attention observes the
cells to attend to in the same way. Each pass recomputes the layers before it, but only from the last resolution at
which the activation of the whole picture fits into memory and is kept.

Measured with a `tiny` codec, f8, after a short training, on a 1024 x 768 mosaic of photographs, with a budget of 32 MiB
on one core: the share of codes that differ from those of the whole picture in float64, and the time.

    whole, fp32 (torch's GroupNorm rounds its sums)               0.46 %     2.7 s
    in parts, attention to all cells                              0.13 %    18.0 s
    in parts, attention to 8192 of 12288 cells                    0.50 %    13.0 s
    in parts, attention to 2048 of them                           0.68 %     5.4 s
    statistics of 48 evenly spaced patches of 4 x 4 cells        94.7 %     17.9 s
    statistics of 12 evenly spaced patches of 16 x 16 cells      98.1 %     33.1 s
    tiles of 256 pixels, each with its own statistics            98.1 %      0.7 s

Patches, with a budget of a gigabyte, save no time, since they need margins of many cells. Attention to all cells is
computed again in each pass that follows. 4096 x 4096 pixels take 63 s on one core and 1.9 GiB; 1024 x 1024 with 182
labels take 12 s and 1.1 GiB as a whole, 11 s and 0.4 GiB with a budget of 0.5 GiB.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.codec.autoencoder import Encoder, Level
from taming_cli.codec.dvae import DVAEEncoder
from taming_cli.codec.tiling import dvae, palette, vqvae2
from taming_cli.codec.tiling.boxes import Box, Operation, Stage, divided
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
    observe,
    run_boxes,
)
from taming_cli.codec.vqgan import VQGAN
from taming_cli.codec.vqvae2 import LevelEncoder
from taming_cli.runtime.fp32 import ieee

ToInput = Callable[[Tensor], Tensor]
"""Pictures or maps (B, c, H, W), of a small type -> a codec's input (B, in_channels, H, W), each pixel by itself."""

_GOLDEN = (5**0.5 - 1) / 2


class Pass(NamedTuple):
    """Stages from one activation that is kept to the next, and the tiles that they run in."""

    stages: tuple[Stage, ...]
    tiles: tuple[Box, ...]


def stages(codec: VQGAN, to_input: ToInput) -> list[Stage]:
    """The codec's encoder and quantizer, from what `to_input` takes, (B, c, f h, f w), to codes (B, 1, h, w). With a
    shortcut, they end before it, with the network's output (B, z_channels, h, w), which `_quantized` takes.

    The margin of each stage is its own reach: one pixel for each 3 x 3 convolution. Downsampling reads one more pixel
    to the right and below, and another one is added so that parts begin and end at even pixels.
    """
    config, encoder, device = codec.config, codec.encoder, codec.device
    if isinstance(encoder, DVAEEncoder):
        return dvae.encoder_stages(codec, to_input)
    if isinstance(encoder, LevelEncoder):
        return vqvae2.encoder_stages(codec, to_input)
    if config.network == "palette":
        return palette.encoder_stages(codec, to_input)
    assert isinstance(encoder, Encoder)

    def read(values: Tensor) -> Tensor:
        return encoder.read(to_input(values.to(device)).contiguous(memory_format=torch.channels_last))

    def quantize(h: Tensor) -> Tensor:
        z: Tensor = encoder.conv_out(h)
        if encoder.shortcut is not None:
            return z
        codes: Tensor = codec.quantize(codec.quant_conv(z)).codes
        return codes[:, None]

    f, inner = config.downsample_factor, config.downsample_factor // config.patch_size
    per_pixel = max(config.in_channels, -(-config.ch // config.patch_size**2))
    result = [Stage([local(read)], config.patch_size, f, inner, per_pixel, output=config.ch)]
    for index, level in enumerate(encoder.down):
        assert isinstance(level, Level)
        blocks = level_operations(level, _pick)
        before, reach = inner // 2**index, 2 * config.num_res_blocks
        channels = config.ch * max(config.ch_mult[max(0, index - 1) : index + 1])
        if level.downsample is not None:
            result.append(Stage([*blocks, local(level.downsample)], reach + 2, before, before // 2, channels))
        else:
            last: list[Operation] = [GlobalNorm(encoder.norm_out, F.silu), local(quantize)]
            logits = config.codebook_size if config.codebook == "gumbel" else 0
            operations = [*blocks, *middle_operations(encoder.mid, _pick), *last]
            result.append(Stage(operations, reach + 5, 1, 1, max(channels, logits)))
    return result


def toward_end(stages: Sequence[Stage]) -> list[Stage]:
    """The same stages with the margins that the output of the last one depends on."""
    result, needed = list[Stage](), 0
    for stage in reversed(stages):
        needed = stage.margin + needed * stage.before // stage.after
        result.append(stage._replace(margin=needed))
    return result[::-1]


def passes(stages: Sequence[Stage], size: tuple[int, int], budget: int) -> Iterator[Pass]:
    """Divide the stages into passes for a grid of `size` cells, in `budget` bytes including what is kept.

    An activation is kept where the resolution has just fallen and, beside the one that it is computed from, it leaves
    an eighth of the budget for the parts.
    """
    kept, start = 0, 0
    for end, stage in enumerate(stages, 1):
        last = end == len(stages)
        result = 0 if last else stage.result(size)
        if last or (stage.after < stage.before and kept + result <= budget - budget // 8):
            part = toward_end(stages[start:end])
            yield Pass(tuple(part), tuple(divided(part, size, budget - kept - result)))
            kept, start = result, end


@torch.no_grad()
@ieee()
def encode(codec: VQGAN, picture: Tensor, to_input: ToInput, budget: int) -> Tensor:
    """Encode one picture (1, c, f h, f w), as `to_input` takes it -> codes (1, h, w) int64, in about `budget` bytes."""
    f = codec.config.downsample_factor
    size = (picture.shape[2] // f, picture.shape[3] // f)
    shortcut = isinstance(codec.encoder, Encoder) and codec.encoder.shortcut is not None
    vectors = 4 * size[0] * size[1] * codec.config.z_channels if shortcut else 0  # kept until all parts are done
    whole = Activation(picture, size, f)
    for one in passes(stages(codec, to_input), size, budget - vectors):
        whole = Activation(_run(one, whole), size, one.stages[-1].after)
    return _quantized(codec, whole.x, picture, to_input) if shortcut else whole.x[:, 0]


def _quantized(codec: VQGAN, z: Tensor, picture: Tensor, to_input: ToInput) -> Tensor:
    """The output of the encoder's network (1, z_channels, h, w), and the picture (1, c, f h, f w) that its shortcut
    reads -> codes (1, h, w). One row after another, since a shortcut reads many channels."""
    encoder, f = codec.encoder, codec.config.downsample_factor
    assert isinstance(encoder, Encoder)
    rows = zip(torch.split(z, 1, dim=2), torch.split(picture, f, dim=2), strict=True)
    codes = [
        codec.quantize(codec.quant_conv(encoder.add_shortcut(h, to_input(pixels.to(codec.device))))).codes
        for h, pixels in rows
    ]
    return torch.cat(codes, dim=1)


def _run(one: Pass, whole: Activation) -> Tensor:
    """The output of the last stage for the whole picture, (1, C, H, W)."""
    if len(one.tiles) == 1:
        return run_boxes(whole, one.stages, one.tiles, [1])
    for layer in global_layers(one.stages):
        for box in one.tiles:
            observe(whole, one.stages, box, layer)
        layer.freeze()
    scale, result = one.stages[-1].after, None
    for box in one.tiles:
        part = run_boxes(whole, one.stages, [box], [1])
        if result is None:
            sides = (1, part.shape[1], scale * whole.size[0], scale * whole.size[1])
            result = torch.empty(sides, dtype=part.dtype, device=part.device, memory_format=torch.channels_last)
        top, left = scale * box.top, scale * box.left
        result[..., top : top + part.shape[2], left : left + part.shape[3]] = part
    assert result is not None
    return result


def _pick(region: Region) -> Tensor:
    """The cells of a part that attention sees: all, or those of a lattice that is even in both directions."""
    (top,), (left,), (height, width) = region.place.tops, region.place.lefts, region.picture
    if height * width <= FULL_CELLS:
        return torch.arange(region.place.height * region.place.width)
    each = torch.arange(SAMPLE_CELLS, dtype=torch.float64)
    rows = ((each + 0.5) * height / SAMPLE_CELLS).long() - top
    columns = ((each * _GOLDEN) % 1 * width).long() - left
    inside = (rows >= 0) & (rows < region.place.height) & (columns >= 0) & (columns < region.place.width)
    return (rows * region.place.width + columns)[inside]
