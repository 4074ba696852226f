"""The PatchGAN: its published keys, what each logit sees, and how it begins."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from taming_cli.codec.adversarial.discriminator import Discriminator
from taming_cli.config.codec import DiscriminatorConfig


def test_keys_and_shapes_are_the_published_ones() -> None:
    """`loss.discriminator.*` of the released f16 codecs: 64 channels, 3 strided layers."""
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in Discriminator(DiscriminatorConfig(disc_ndf=64, disc_num_layers=3)).state_dict().items()
    }
    convolutions = {
        "main.0.weight": (64, 3, 4, 4),
        "main.0.bias": (64,),
        "main.2.weight": (128, 64, 4, 4),
        "main.5.weight": (256, 128, 4, 4),
        "main.8.weight": (512, 256, 4, 4),
        "main.11.weight": (1, 512, 4, 4),
        "main.11.bias": (1,),
    }
    norms = {
        f"main.{index}.{name}": () if name == "num_batches_tracked" else (channels,)
        for index, channels in ((3, 128), (6, 256), (9, 512))
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert shapes == convolutions | norms


@pytest.mark.parametrize(("layers", "size", "grid"), [(3, (256, 256), (30, 30)), (2, (32, 64), (6, 14))])
def test_one_logit_per_patch(layers: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    discriminator = Discriminator(DiscriminatorConfig(disc_ndf=4, disc_num_layers=layers))
    assert discriminator(torch.zeros(2, 3, *size)).shape == (2, 1, *grid)


def test_with_a_blur_strided_layers_read_the_filtered_input_and_all_else_is_the_same() -> None:
    torch.manual_seed(0)
    config = DiscriminatorConfig(disc_ndf=4, disc_num_layers=2)
    plain, blurred = Discriminator(config).eval(), Discriminator(replace(config, disc_blur=True)).eval()
    blurred.load_state_dict(plain.state_dict())
    binomial = torch.tensor([1.0, 2.0, 1.0])
    kernel = binomial.outer(binomial) / binomial.sum() ** 2
    x = torch.randn(2, 3, 32, 40)
    y, strided = x, 0
    for module in plain.main:
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            channels, strided = y.shape[1], strided + 1
            y = nn.functional.conv2d(y, kernel.expand(channels, 1, 3, 3), padding=1, groups=channels)
        y = module(y)
    assert strided == 2
    torch.testing.assert_close(blurred(x), y, rtol=1e-4, atol=1e-6)
    checkerboard = (-1.0) ** (torch.arange(64)[:, None] + torch.arange(64))
    inside = (..., slice(2, -2), slice(2, -2))
    board = checkerboard.expand(1, 3, 64, 64)
    torch.testing.assert_close(blurred.main[0](board)[inside], blurred.main[0](0 * board)[inside])  # nothing aliases


@pytest.mark.parametrize(("layers", "seen"), [(3, 70), (2, 34), (1, 16)])
def test_a_logit_sees_the_square_that_the_help_text_names(layers: int, seen: int) -> None:
    discriminator = Discriminator(
        DiscriminatorConfig(disc_ndf=4, disc_num_layers=layers)
    ).eval()  # batch statistics would see everything
    x = torch.randn(1, 3, 160, 160, requires_grad=True)
    logits = discriminator(x)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    assert x.grad is not None
    rows, columns = x.grad[0].abs().sum(0).nonzero().unbind(1)
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (seen, seen)


def test_it_begins_as_published() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(DiscriminatorConfig(disc_ndf=64, disc_num_layers=3))
    for name, tensor in discriminator.named_parameters():
        if tensor.ndim == 4:
            assert tensor.mean().item() == pytest.approx(0.0, abs=2e-3), name
            assert tensor.std().item() == pytest.approx(0.02, rel=0.05), name
    norm = discriminator.main[9]
    assert norm.weight.mean().item() == pytest.approx(1.0, abs=5e-3)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not norm.bias.any()
