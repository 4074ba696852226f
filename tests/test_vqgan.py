"""A codec made ready for inference, a decoder wider than its encoder, patches and a shortcut."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from taming_cli.codec.state import Reconstructor
from taming_cli.codec.tiling import decoding, encoding, tiles
from taming_cli.codec.tiling.boxes import Box, divided
from taming_cli.codec.vqgan import VQGAN, codec_sha256, ready
from taming_cli.config.codec import CodecConfig
from taming_cli.data.images import to_float
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


def test_the_hash_of_a_codec_without_later_settings_is_as_before() -> None:
    tensors = {"encoder.w": torch.arange(4.0)}
    before = "4ee99e985c1be890b94bbca64f7d2dbaa6055b37f88bdb84f3663836a2b0a89d"
    assert codec_sha256(CodecConfig(), tensors) == before
    for later in (CodecConfig(decoder_ch=64), CodecConfig(patch_size=2), CodecConfig(shortcut=True)):
        assert codec_sha256(later, tensors) != before


# --- patches and a shortcut -------------------------------------------------------------------------------------------


def test_patches_are_channels_of_the_first_and_the_last_layer() -> None:
    config = replace(CONFIG, patch_size=2, ch_mult=CONFIG.ch_mult[1:])
    assert config.downsample_factor == CONFIG.downsample_factor
    torch.manual_seed(0)
    codec = VQGAN(config).eval()
    pixels = torch.randn(2, 3, 16, 24)
    kernels = codec.encoder.conv_in.weight.unflatten(1, (3, 2, 2))  # (ch, colour, y, x, 3, 3)
    wide = kernels.permute(0, 1, 4, 2, 5, 3).reshape(-1, 3, 6, 6)  # a 6 x 6 convolution of stride 2
    expected = F.conv2d(pixels, wide, codec.encoder.conv_in.bias, stride=2, padding=2)
    torch.testing.assert_close(codec.encoder.read(pixels), expected, rtol=0, atol=1e-5)
    features = torch.randn(2, 16, 8, 12)
    layer = codec.decoder.conv_out
    channels = F.conv2d(features, layer.weight, layer.bias, padding=1).unflatten(1, (3, 2, 2))
    rebuilt = channels.permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 16, 24)
    torch.testing.assert_close(codec.decoder.write(features), rebuilt, rtol=0, atol=1e-6)


def test_a_shortcut_is_a_linear_map_of_the_pixels_of_a_cell() -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, shortcut=True)
    codec, f = VQGAN(config).eval(), config.downsample_factor
    plain = VQGAN(CONFIG).eval()
    plain.load_state_dict({name: t for name, t in codec.state_dict().items() if ".shortcut." not in name})
    pixels = torch.randn(1, 3, 4 * f, 6 * f)
    cell = pixels[0, :, 2 * f : 3 * f, 5 * f : 6 * f]  # that of row 2 and column 5
    added = codec.encoder(pixels) - plain.encoder(pixels)
    layer = codec.encoder.shortcut
    torch.testing.assert_close(added[0, :, 2, 5], F.linear(cell.flatten(), layer.weight.flatten(1), layer.bias))


@pytest.mark.parametrize("config", [{}, {"patch_size": 2, "ch_mult": (1, 2)}])
def test_a_training_step_reconstructs_as_the_codec_does(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    codec = VQGAN(replace(CONFIG, shortcut=True, **config))
    x = torch.rand(2, 3, 32, 48) * 2 - 1
    rebuilt, quantized = Reconstructor(codec)(x, torch.float32)
    expected = codec(x)
    torch.testing.assert_close(rebuilt, expected.x_rec)
    assert torch.equal(quantized.codes, expected.quantized.codes)


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize(("patch_size", "ch_mult"), [(1, (1, 2, 2)), (2, (1, 2)), (3, (1, 2)), (4, (2,))])
def test_tiles_of_a_codec_with_patches_or_a_shortcut_are_those_of_the_whole(
    patch_size: int, ch_mult: tuple[int, ...], shortcut: bool
) -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, patch_size=patch_size, ch_mult=ch_mult, attn_resolutions=(), shortcut=shortcut)
    codec, f = VQGAN(config).eval(), config.downsample_factor
    images = torch.randint(0, 256, (1, 3, 16 * f, 24 * f), dtype=torch.uint8)
    codes = tiles.encode(codec, images)
    assert codes.shape == (1, 16, 24)
    assert len(list(divided(encoding.stages(codec, to_float), (16, 24), 2**17))) > 1
    in_parts = tiles.encode(codec, images, budget=2**17)
    assert (in_parts == codes).float().mean() > 0.99  # rounding may change the nearest entry
    part = decoding.LocalDecoder(codec, codes[0], whole=1, patches=[Box(0, 0, 16, 24)])(Box(4, 8, 6, 5))
    whole = codec.decode(codes)[..., 4 * f : 10 * f, 8 * f : 13 * f]
    torch.testing.assert_close(part, whole, rtol=0, atol=2e-5)
