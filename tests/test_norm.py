"""The hand-written backward of GroupNorm against autograd's, in float64, and in bf16 within its rounding."""

import pytest
import torch
import torch.nn.functional as F

from taming_cli.codec.norm import GroupNorm


def _gradients(shape: tuple[int, ...], dtype: torch.dtype, *, own: bool) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = (3 + 2 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    grad = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    norm = GroupNorm(4, shape[1], eps=1e-6).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(shape[1], generator=generator))
        norm.bias.copy_(torch.randn(shape[1], generator=generator))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = norm(x) if own else F.group_norm(x, 4, norm.weight, norm.bias, 1e-6)
    return [y.detach(), *torch.autograd.grad(y, (x, norm.weight, norm.bias), grad)]


@pytest.mark.parametrize("shape", [(2, 8, 5, 7), (1, 4, 1, 9), (3, 12, 6, 6)])
def test_values_and_gradients_equal_autograd_in_float64(shape: tuple[int, ...]) -> None:
    for ours, torchs in zip(
        _gradients(shape, torch.float64, own=True), _gradients(shape, torch.float64, own=False), strict=True
    ):
        torch.testing.assert_close(ours, torchs, rtol=1e-9, atol=1e-9)


def test_bf16_gradients_are_as_good_as_autograds() -> None:
    exact = _gradients((2, 8, 16, 16), torch.float64, own=False)
    ours = _gradients((2, 8, 16, 16), torch.bfloat16, own=True)
    for found, wanted in zip(ours, exact, strict=True):
        assert ((found.double() - wanted).norm() / wanted.norm()).item() < 0.02


def test_the_gradient_keeps_the_layout() -> None:
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = GroupNorm(4, 8)(x)
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert grad.is_contiguous(memory_format=torch.channels_last)
