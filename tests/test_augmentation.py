"""What the discriminator sees: the published augmentations pixel by pixel, and their random numbers."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from taming_cli.codec import losses
from taming_cli.codec.adversarial.augmentation import augmented, draws
from taming_cli.codec.estimate import estimate
from taming_cli.codec.step import Phase, codec_step
from taming_cli.data.images import to_float
from tests.test_codec_train import CODEC, DISCRIMINATOR, TRAIN, batch, fresh

ALL = ("colour", "translation", "cutout")


def pictures(height: int = 12, width: int = 16, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, height, width, generator=generator) * 2 - 1


def coloured(x: np.ndarray, brightness: float, saturation: float, contrast: float) -> np.ndarray:
    """The code of Zhao et al. for one picture (3, H, W): `rand_brightness`, `rand_saturation`, `rand_contrast`."""
    x = x + (brightness - 0.5)
    x = (x - x.mean(0, keepdims=True)) * (saturation * 2) + x.mean(0, keepdims=True)
    return (x - x.mean()) * (contrast + 0.5) + x.mean()


def translated(x: np.ndarray, down: int, right: int) -> np.ndarray:
    y = np.zeros_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            if 0 <= i - down < x.shape[1] and 0 <= j - right < x.shape[2]:
                y[:, i, j] = x[:, i - down, j - right]
    return y


def cut(x: np.ndarray, row: int, column: int) -> np.ndarray:
    """`rand_cutout` with the centre of the hole."""
    y = x.copy()
    size = [int(side * 0.5 + 0.5) for side in x.shape[1:]]
    for a in range(size[0]):
        for b in range(size[1]):
            i, j = row + a - size[0] // 2, column + b - size[1] // 2
            y[:, min(max(i, 0), x.shape[1] - 1), min(max(j, 0), x.shape[2] - 1)] = 0
    return y


@pytest.mark.parametrize("size", [(12, 16), (9, 22)])
@pytest.mark.parametrize("policies", [*((name,) for name in ALL), ALL], ids=[*ALL, "all"])
def test_pictures_are_changed_as_published(policies: tuple[str, ...], size: tuple[int, int]) -> None:
    x, drawn = pictures(*size), draws(3, 17, 5)
    found = augmented(x, policies, drawn).numpy()
    for picture, numbers, ours in zip(x.double().numpy(), drawn, found, strict=True):
        y = picture
        if "colour" in policies:
            y = coloured(y, *numbers[:3])
        if "translation" in policies:
            most = [int(side * 0.125 + 0.5) for side in size]
            down, right = (int(u * (2 * m + 1)) - m for u, m in zip(numbers[3:5], most, strict=True))
            y = translated(y, down, right)
        if "cutout" in policies:
            y = cut(y, *(int(u * (s + 1 - int(s * 0.5 + 0.5) % 2)) for u, s in zip(numbers[5:], size, strict=True)))
        np.testing.assert_allclose(ours, y, atol=1e-5)


def test_every_translation_and_every_place_of_the_hole_occurs_alike() -> None:
    drawn = draws(0, 0, 2000)
    ramp = torch.arange(1.0, 17.0).expand(1, 3, 16, 16).expand(2000, 3, 16, 16)
    shifts = augmented(ramp, ("translation",), drawn)[:, 0, 8, 8]
    assert sorted(set(shifts.tolist())) == [7, 8, 9, 10, 11]
    assert torch.bincount(shifts.long())[7:].float().div(400).sub(1).abs().max() < 0.15
    holes = (augmented(torch.ones(2000, 3, 16, 16), ("cutout",), drawn)[:, 0] == 0).float()
    assert holes.sum((1, 2)).unique().tolist() == sorted({float(a * b) for a in range(4, 9) for b in range(4, 9)})
    assert holes.mean(0)[8, 8] == pytest.approx((8 / 17) ** 2, abs=0.04)


def test_random_numbers_depend_on_seed_and_number_alone_and_are_uniform() -> None:
    whole = draws(7, 100, 6)
    assert np.array_equal(np.concatenate((draws(7, 100, 2), draws(7, 102, 4))), whole)
    assert not (draws(8, 100, 6) == whole).any()
    assert not (draws(7, 106, 6) == whole).any()
    many = torch.from_numpy(draws(0, 0, 4000))
    assert (many.min() >= 0, many.max() < 1) == (True, True)
    torch.testing.assert_close(many.mean(0), torch.full((7,), 0.5).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.corrcoef(many.t()), torch.eye(7).double(), atol=0.06, rtol=0)
    assert torch.corrcoef(torch.stack((many[:-1, 0], many[1:, 0])))[0, 1].abs() < 0.06


def test_the_cost_of_a_training_with_them_is_estimated() -> None:
    assert estimate(CODEC, DISCRIMINATOR, replace(TRAIN, disc_augment=ALL), None, torch.float32).flops > 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_discriminator_sees_picture_and_reconstruction_changed_alike_and_the_codec_learns_through_it(
    accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = replace(
        TRAIN, disc_augment=ALL, quantizer="vq", revive=0.0, clip=0.0, accumulate=accumulate, disc_weight=0.7
    )
    state = fresh(train)
    state.discriminator.eval()  # the parts of a batch would have other batch statistics
    state.images_seen = 40
    x, drawn = to_float(batch()), draws(TRAIN.seed, 40, 2)
    twin, discriminator = copy.deepcopy(state.codec), copy.deepcopy(state.discriminator)
    monkeypatch.setattr(losses, "adaptive_weight", lambda *_: torch.tensor(1.0))
    now = Phase(discriminator=True, adversarial=1.0)
    codec_step(state, x, perceptual=None, config=train, now=now, learning_rate=0.0, disc_learning_rate=0.0)

    x_rec, quantized = twin(x)
    real, fake = (augmented(each, ALL, drawn) for each in (x, x_rec))
    rec = (x - x_rec).abs().mean() + 2 * (x - x_rec).square().mean()
    z_e, z_q = quantized.z_e, quantized.z_q
    codebook = (z_q - z_e.detach()).square().mean() + 0.25 * (z_e - z_q.detach()).square().mean()
    (rec - 0.7 * discriminator(fake).mean() + codebook).backward()
    for (name, ours), theirs in zip(state.codec.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6, msg=lambda text, n=name: f"{n} {text}")
    discriminator.zero_grad()
    ((1 - discriminator(real)).relu().mean() + (1 + discriminator(fake.detach())).relu().mean()).div(2).backward()
    for ours, theirs in zip(state.discriminator.parameters(), discriminator.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)
