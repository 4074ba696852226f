"""The codec's losses against closed forms and arithmetic in float64."""

import numpy as np
import pytest
import torch

from taming_cli.codec.losses import (
    DiscriminatorLogits,
    adaptive_weight,
    codebook_loss,
    discriminator_loss,
    generator_loss,
    l1,
    lecam,
)

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def test_l1_is_the_mean_absolute_difference() -> None:
    x, y = array(2, 3, 4, 5), array(2, 3, 4, 5)
    expected = np.abs(x.astype(np.float64) - y).mean()
    assert l1(torch.tensor(x), torch.tensor(y)).item() == pytest.approx(expected, rel=1e-6)
    assert l1(torch.full((1, 3, 2, 2), -1.0), torch.full((1, 3, 2, 2), 1.0)).item() == 2.0


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
def test_the_codebook_loss_and_its_gradients_are_the_papers(legacy: bool, learned: bool) -> None:
    e, q = array(2, 4, 3, 3), array(2, 4, 3, 3)
    z_e, z_q = torch.tensor(e, requires_grad=True), torch.tensor(q, requires_grad=True)
    loss = codebook_loss(z_e, z_q, 0.25, legacy=legacy, learned=learned)
    loss.backward()
    error = ((e.astype(np.float64) - q) ** 2).mean()
    slope = 2 * (e.astype(np.float64) - q) / e.size  # of the squared error, by z_e
    to_encoder, to_codebook = (0.25, 0.0) if not learned else (1.0, 0.25) if legacy else (0.25, 1.0)
    assert loss.item() == pytest.approx((to_encoder + to_codebook) * error, rel=1e-5)
    assert z_e.grad is not None
    np.testing.assert_allclose(z_e.grad.numpy(), to_encoder * slope, rtol=1e-5, atol=1e-8)
    if to_codebook:
        assert z_q.grad is not None
        np.testing.assert_allclose(z_q.grad.numpy(), -to_codebook * slope, rtol=1e-5, atol=1e-8)
    else:
        assert z_q.grad is None


@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_the_discriminator_loss_is_its_closed_form(kind: str) -> None:
    real, fake = 2 * array(2, 1, 3, 3), 2 * array(2, 1, 3, 3)
    r, f = real.astype(np.float64), fake.astype(np.float64)
    if kind == "hinge":
        expected = 0.5 * (np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean())
    else:
        expected = 0.5 * (np.log1p(np.exp(-r)).mean() + np.log1p(np.exp(f)).mean())
    loss = discriminator_loss(DiscriminatorLogits(torch.tensor(real), torch.tensor(fake)), kind)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_discriminator_loss_at_known_points() -> None:
    sure = DiscriminatorLogits(real=torch.full((1, 1, 2, 2), 3.0), fake=torch.full((1, 1, 2, 2), -3.0))
    unsure = DiscriminatorLogits(real=torch.zeros(1, 1, 2, 2), fake=torch.zeros(1, 1, 2, 2))
    assert discriminator_loss(sure, "hinge").item() == 0.0
    assert discriminator_loss(unsure, "hinge").item() == 1.0
    assert discriminator_loss(unsure, "vanilla").item() == pytest.approx(np.log(2))
    huge = DiscriminatorLogits(real=torch.full((1,), -1e4), fake=torch.full((1,), 1e4))
    assert discriminator_loss(huge, "vanilla").item() == pytest.approx(1e4)  # no overflow


def test_the_lecam_term_is_its_formula_and_pulls_real_and_fake_logits_towards_the_averages() -> None:
    real, fake = (torch.tensor(2 * array(2, 1, 3, 3), requires_grad=True) for _ in range(2))
    means = {"real": 0.7, "fake": -0.4}
    loss = lecam(DiscriminatorLogits(real, fake), means)
    loss.backward()
    r, f = (logits.detach().numpy().astype(np.float64).ravel() for logits in (real, fake))
    above, below = [max(0.0, each + 0.4) for each in r], [max(0.0, 0.7 - each) for each in f]
    assert loss.item() == pytest.approx(sum(v * v for v in above) / 18 + sum(v * v for v in below) / 18, rel=1e-5)
    for logits, slope in ((real, above), (fake, [-value for value in below])):
        assert logits.grad is not None
        np.testing.assert_allclose(logits.grad.numpy().ravel(), 2 * np.array(slope) / 18, rtol=1e-5, atol=1e-8)
    assert lecam(DiscriminatorLogits(real, fake), {}).item() == 0.0


def test_the_generator_loss_is_minus_the_mean() -> None:
    fake = array(2, 1, 3, 3)
    assert generator_loss(torch.tensor(fake)).item() == pytest.approx(-fake.astype(np.float64).mean(), rel=1e-5)


def test_the_adaptive_weight_is_the_ratio_of_norms() -> None:
    rec, gen = array(3, 8, 3, 3), array(3, 8, 3, 3)
    expected = np.linalg.norm(rec.astype(np.float64)) / (np.linalg.norm(gen.astype(np.float64)) + 1e-4)
    weight = adaptive_weight(torch.tensor(rec, requires_grad=True), torch.tensor(gen, requires_grad=True))
    assert weight.item() == pytest.approx(expected, rel=1e-5)
    assert not weight.requires_grad


def test_the_adaptive_weight_is_clamped_and_defined_for_a_dead_discriminator() -> None:
    one, none = torch.ones(4), torch.zeros(4)
    assert adaptive_weight(one, none).item() == 1e4
    assert adaptive_weight(none, one).item() == 0.0
    assert adaptive_weight(none, none).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    x, y = torch.tensor(array(2, 3, 8, 8)).to(dtype), torch.tensor(array(2, 3, 8, 8)).to(dtype)
    logits = DiscriminatorLogits(x, y)
    for half, full in (
        (l1(x, y), l1(x.float(), y.float())),
        (codebook_loss(x, y, 0.25), codebook_loss(x.float(), y.float(), 0.25)),
        (discriminator_loss(logits, "hinge"), discriminator_loss(DiscriminatorLogits(x.float(), y.float()), "hinge")),
        (generator_loss(x), generator_loss(x.float())),
        (adaptive_weight(100 * x, y), adaptive_weight((100 * x).float(), y.float())),
    ):
        assert half.dtype == torch.float32
        assert torch.equal(half, full)
