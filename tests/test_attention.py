"""Attention in bf16 and its gradients, against torch's own in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.prior.networks import attention
from taming_cli.prior.networks.attention import cached_attention, causal_attention, masked_attention
from taming_cli.prior.networks.reach import ALL, Part


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape).to(torch.bfloat16).requires_grad_()


def heads(batch: int, length: int) -> list[Tensor]:
    """Queries, keys and values as the network has them: their heads lie side by side in memory."""
    torch.manual_seed(0)
    return [drawn(batch, length, 4, 16).transpose(1, 2) for _ in range(3)]


@pytest.mark.parametrize("rows", [256, 16, 7])
@pytest.mark.parametrize(("batch", "length"), [(3, 33), (1, 1), (2, 64)])
def test_in_half_precision_it_is_torchs_and_so_are_its_gradients(
    batch: int, length: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "ROWS", rows)
    tensors = heads(batch, length)
    exact = [each.detach().double().requires_grad_() for each in tensors]
    found, expected = causal_attention(*tensors), F.scaled_dot_product_attention(*exact, is_causal=True)
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.02)
    gradient = torch.randn(found.shape).to(torch.bfloat16)
    own = torch.autograd.grad(found, tensors, gradient)
    for ours, theirs in zip(own, torch.autograd.grad(expected, exact, gradient.double()), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0.03, atol=0.03)


def test_in_full_precision_it_is_torchs_own() -> None:
    tensors = [each.detach().float() for each in heads(2, 40)]
    assert torch.equal(causal_attention(*tensors), F.scaled_dot_product_attention(*tensors, is_causal=True))


@pytest.mark.parametrize("pictures", [3, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_in_parts_with_a_mask_for_each_picture_or_one_for_all(pictures: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensors = [drawn(3, length, 4, 16).transpose(1, 2).detach().to(dtype).requires_grad_() for length in (20, 33, 33)]
    seen = torch.rand(pictures, 20, 33) < 0.5
    seen[:, :, 0] = True
    seen[:, :8, 12:] = False
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
    some = torch.randperm(33)
    parts = [
        Part(slice(0, 8), (slice(0, 5), slice(5, 12)), mask[:, :8, :12]),
        Part(slice(8, 20), some, mask[:, 8:][:, :, some]),
    ]
    exact = [each.detach().double().requires_grad_() for each in tensors]
    expected = F.scaled_dot_product_attention(*exact, attn_mask=seen[:, None])
    gradient = torch.randn(expected.shape).to(dtype)
    of_exact = torch.autograd.grad(expected, exact, gradient.double())
    error = 0.03 if dtype == torch.bfloat16 else 1e-12
    q, k, v = tensors
    for in_parts in (parts, [Part(ALL[0], ALL, mask)]):
        found = masked_attention(q, k, v, in_parts)
        torch.testing.assert_close(found.double(), expected, rtol=error, atol=error)
        for ours, theirs in zip(torch.autograd.grad(found, tensors, gradient), of_exact, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=error, atol=error)
        with torch.no_grad():
            torch.testing.assert_close(masked_attention(q, k, v, in_parts).double(), expected, rtol=error, atol=error)


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_new_tokens_attend_to_those_of_a_cache(masked: bool, amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "has_amx", lambda: amx)
    _, k, v = (each.detach() for each in heads(3, 40))
    for tokens in (1, 2, 5):
        q = drawn(3, tokens, 4, 16).transpose(1, 2).detach()
        mask = torch.where(torch.rand(3, 1, tokens, 40) < 0.3, -torch.inf, 0.0).index_fill(3, torch.tensor(0), 0.0)
        given = [each.double() for each in (q, k, v)]
        expected = F.scaled_dot_product_attention(*given, attn_mask=mask.double() if masked else None)
        found = cached_attention(q, k, v, mask.to(q.dtype) if masked else None)
        assert found.shape == q.shape
        torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.02)
