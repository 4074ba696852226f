"""Packed products: the same network in all that it says, up to rounding."""

import copy
from dataclasses import replace

import pytest
import torch

from taming_cli.config.prior import PriorConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.config.size import Size
from taming_cli.prior.networks import onednn
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.networks.onednn import PackedLinear, pack
from taming_cli.prior.raster.generate import generate

CONFIG = PriorConfig(arch="modern", n_layer=2, n_head=2, n_embd=64, window=Size(4, 4), codebook_size=32)


def network(arch: str, dtype: torch.dtype = torch.bfloat16, width: int = 64) -> GPT:
    torch.manual_seed(0)
    gpt = GPT(replace(CONFIG, arch=arch, n_embd=width)).eval().requires_grad_(False)
    for parameter in gpt.parameters():
        parameter.mul_(3)  # so that what it says is not nearly uniform
    return gpt.to(dtype)


@pytest.mark.parametrize("arch", ["modern", "published"])
def test_a_packed_network_gives_the_same(arch: str) -> None:
    plain = network(arch)
    ours = pack(copy.deepcopy(plain))
    assert sum(isinstance(module, PackedLinear) for module in ours.modules()) == 2 * (5 if arch == "modern" else 4)
    prefix, codes = torch.full((3, 1), 32), torch.randint(0, 32, (3, 16))
    with torch.inference_mode():
        wide, found, expected = (gpt(prefix, codes).float() for gpt in (network(arch, torch.float32), ours, plain))
    assert wide.std() > 0.5
    off = (expected - wide).abs().mean()
    assert (found - wide).abs().mean() < 1.2 * off  # no further from the truth than bf16 is anyway
    assert (found - expected).abs().mean() < 1.2 * off


def test_it_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = pack(network("modern"))
    drawn = generate(ours, size=(6, 7), samples=range(3), seed=1, decoding=DecodingConfig())
    alone = generate(ours, size=(6, 7), samples=[1], seed=1, decoding=DecodingConfig())
    assert drawn.shape == (3, 6, 7)
    assert (drawn[1] == alone[0]).double().mean() > 0.8  # bf16: near, not equal, in another batch


@pytest.mark.parametrize("arch", ["modern", "published"])
def test_a_wide_network_in_fp32_is_packed_too(arch: str) -> None:
    plain = network(arch, torch.float32, width=256)
    ours = pack(copy.deepcopy(plain))
    assert any(isinstance(module, PackedLinear) for module in ours.modules())
    prefix, codes = torch.full((3, 1), 32), torch.randint(0, 32, (3, 16))
    with torch.inference_mode():
        found, expected = (gpt(prefix, codes) for gpt in (ours, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_what_gains_nothing_is_left_alone_and_so_is_all_where_it_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float32, torch.float64):
        assert not any(isinstance(module, PackedLinear) for module in pack(network("modern", dtype)).modules())
    monkeypatch.setattr(onednn, "_works", lambda dtype: False)
    assert not any(isinstance(module, PackedLinear) for module in pack(network("modern")).modules())
