"""A codec made ready for inference, and one whose decoder is wider than its encoder."""

from dataclasses import replace

import pytest
import torch

from taming_cli.codec.tiling import decoding, encoding, tiles
from taming_cli.codec.tiling.boxes import Box
from taming_cli.codec.vqgan import VQGAN, codec_sha256, ready
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


# --- a wider decoder --------------------------------------------------------------------------------------------------


def test_a_decoder_has_its_own_channels_and_tiles_count_them() -> None:
    torch.manual_seed(0)
    both = [VQGAN(replace(CONFIG, ch=ch)) for ch in (8, 24)]
    codec = VQGAN(replace(CONFIG, decoder_ch=24)).eval()
    for name, tensor in codec.state_dict().items():
        twin = both[name.startswith("decoder.")]
        assert tensor.shape == twin.state_dict()[name].shape, name
    assert codec.state_dict().keys() == both[0].state_dict().keys()
    for stages, twin in ((decoding.stages, both[1]), (lambda it: encoding.stages(it, lambda x: x), both[0])):
        assert [stage.channels for stage in stages(codec)] == [stage.channels for stage in stages(twin)]
    codes = torch.randint(0, 32, (1, 16, 24), generator=torch.Generator().manual_seed(1))
    part = decoding.LocalDecoder(codec, codes[0], whole=1, patches=[Box(0, 0, 16, 24)])(Box(4, 8, 6, 5))
    torch.testing.assert_close(part, codec.decode(codes)[..., 16:40, 32:52], rtol=0, atol=2e-5)


def test_the_hash_of_a_codec_without_a_decoder_of_its_own_is_as_before() -> None:
    tensors = {"encoder.w": torch.arange(4.0)}
    before = "4ee99e985c1be890b94bbca64f7d2dbaa6055b37f88bdb84f3663836a2b0a89d"
    assert codec_sha256(CodecConfig(), tensors) == before
    assert codec_sha256(CodecConfig(decoder_ch=64), tensors) != before
