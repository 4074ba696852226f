"""Filters against brute force over sorted lists; tokens against the distribution they are drawn from."""

import math
from itertools import product

import pytest
import torch

from taming_cli.config.sampling import Decoding, DecodingConfig
from taming_cli.errors import UsageError
from taming_cli.prior.decoding import choose, guide, scale_and_filter


def kept_by_brute_force(logits: list[float], decoding: Decoding) -> set[int]:
    scaled = [value / decoding.temperature for value in logits]
    left = set(range(len(scaled)))
    if decoding.top_k:
        kth = sorted(scaled, reverse=True)[min(decoding.top_k, len(scaled)) - 1]
        left = {i for i in left if scaled[i] >= kth}
    if decoding.top_p < 1:
        total = sum(math.exp(scaled[i]) for i in left)
        reached, needed = 0.0, set()
        for i in sorted(left, key=lambda i: -scaled[i]):
            if reached >= decoding.top_p and needed:
                break
            needed.add(i)
            reached += math.exp(scaled[i]) / total
        edge = min(scaled[i] for i in needed)
        left = {i for i in left if scaled[i] >= edge}
    if decoding.min_p:
        edge = math.exp(max(scaled)) * decoding.min_p
        left = {i for i in left if math.exp(scaled[i]) >= edge * (1 - 1e-12)}
    return left


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    list(product((0.7, 1.0, 1.6), (0, 1, 5, 40), (0.0, 0.3, 0.9, 1.0), (0.0, 0.05, 1.0))),
)
def test_filters_keep_what_brute_force_keeps(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    decoding = DecodingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    logits = torch.randn(6, 23, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2
    filtered = scale_and_filter(logits, decoding.at(0))
    for row, out in zip(logits.tolist(), filtered, strict=True):
        kept = kept_by_brute_force(row, decoding.at(0))
        assert set(torch.isfinite(out).nonzero().flatten().tolist()) == kept
        assert all(out[i].item() == pytest.approx(row[i] / temperature) for i in kept)


def test_top_p_works_without_top_k() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert torch.isfinite(scale_and_filter(logits, DecodingConfig(top_p=0.7).at(0))).tolist() == [
        [True, True, False, False]
    ]


def test_codes_that_tie_are_kept_or_dropped_together() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.0, 0.0, -1.0]])
    for decoding in (DecodingConfig(top_k=2), DecodingConfig(top_p=0.5)):
        assert torch.isfinite(scale_and_filter(logits, decoding.at(0))).tolist() == [[True, True, True, True, False]]


def test_guidance_is_linear_and_one_means_none() -> None:
    cond, uncond = torch.randn(2, 3, 5).unbind()
    assert torch.equal(guide(cond, uncond, 1.0), cond)
    assert torch.allclose(guide(cond, uncond, 0.0), uncond, atol=1e-6)
    assert torch.allclose(guide(cond, uncond, 3.0), uncond + 3 * (cond - uncond), atol=1e-5)


def test_greedy_takes_the_first_of_the_most_likely_codes() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0], [5.0, 1.0, 5.0]])
    assert choose(logits, None, DecodingConfig(greedy=True).at(0)).tolist() == [1, 0]


def test_noise_decides_among_what_is_left_and_never_beyond() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    noise = torch.tensor([[0.0, 1.5, 100.0]])
    assert choose(logits, noise, DecodingConfig().at(0)).tolist() == [2]
    assert choose(logits, noise, DecodingConfig(top_k=2).at(0)).tolist() == [1]
    assert choose(logits, noise, DecodingConfig(top_k=2, temperature=0.5).at(0)).tolist() == [0]


def test_half_precision_logits_are_compared_in_float32() -> None:
    logits = torch.tensor([[1.0, 1.0]], dtype=torch.bfloat16)
    noise = torch.tensor([[1.0, 1.0001]], dtype=torch.float64)  # equal in bfloat16
    assert choose(logits, noise, DecodingConfig().at(0)).tolist() == [1]


@pytest.mark.parametrize("values", [{"temperature": 0.0}, {"top_p": 1.1}, {"min_p": -0.1}, {"guidance": math.nan}])
def test_settings_outside_their_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        DecodingConfig(**values)  # type: ignore[arg-type]
