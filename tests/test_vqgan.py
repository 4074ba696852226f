"""A codec made ready for inference: the same pictures and codes as with weights that autocast casts in each call."""

import pytest
import torch

from taming_cli.codec.tiling import tiles
from taming_cli.codec.vqgan import VQGAN, ready
from taming_cli.config.codec import CodecConfig
from taming_cli.runtime.device import autocast

CPU = torch.device("cpu")
CONFIG = CodecConfig(ch=8, ch_mult=(1, 2, 2), norm_groups=4, z_channels=16, codebook_size=32, attn_resolutions=(32,))


def codec() -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(CONFIG).eval().requires_grad_(False).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("budget", [tiles.BUDGET, 2**19])  # whole, and in parts
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_held_weights_give_what_autocast_gives(precision: torch.dtype, budget: int) -> None:
    codes = torch.randint(0, 32, (1, 16, 24), generator=torch.Generator().manual_seed(1))
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    with autocast(CPU, precision):
        plain = tiles.pictures(codec(), codes, budget=budget), tiles.encode(codec(), images, budget=budget)
        held = ready(codec(), CPU, precision)
        assert torch.equal(tiles.pictures(held, codes, budget=budget), plain[0])
        assert torch.equal(tiles.encode(held, images, budget=budget), plain[1])
    assert held.decoder.conv_in.weight.dtype == held.encoder.conv_in.weight.dtype == precision


def test_without_the_encoder_encoding_stays_in_fp32() -> None:
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    held = ready(codec(), CPU, torch.bfloat16, encoder=False)
    assert held.sha256() == codec().sha256()
    assert torch.equal(tiles.encode(held, images), tiles.encode(codec(), images))
    assert held.decoder.conv_in.weight.dtype == torch.bfloat16
