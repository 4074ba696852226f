"""Metrics against closed forms and loops written from their definitions."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from taming_cli.errors import BadFileError, UsageError
from taming_cli.metrics import (
    Moments,
    RunningMoments,
    frechet_distance,
    inception_score,
    kernel_distance,
    perplexity,
    precision_recall,
    psnr,
    ssim,
    usage,
    use_by_rank,
)


def pictures(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def test_psnr_of_a_constant_error_is_its_closed_form() -> None:
    x = pictures(0, 3, 3, 8, 9) * 0.5
    offset = torch.tensor([0.1, 0.02, 0.4], dtype=torch.float64).view(3, 1, 1, 1)
    expected = [20 * math.log10(2 / error) for error in (0.1, 0.02, 0.4)]
    assert torch.allclose(psnr(x, x + offset, data_range=2), torch.tensor(expected, dtype=torch.float64))
    assert torch.allclose(psnr(x.float(), (x + offset).float(), data_range=2), torch.tensor(expected), atol=1e-3)


def test_psnr_of_bytes_neither_wraps_around_nor_needs_a_range() -> None:
    black, white = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    grey = torch.full((1, 3, 4, 4), 1, dtype=torch.uint8)
    assert psnr(black, white).item() == pytest.approx(0, abs=1e-5)
    assert psnr(black, grey).item() == pytest.approx(20 * math.log10(255), abs=1e-4)
    assert psnr(black, black).item() == math.inf


def ssim_by_loops(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    """One channel, straight from the paper: a weighted mean, variance and covariance for every whole window."""
    at = np.arange(-5, 6)
    window = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            cov = (window * (a - ma) * (b - mb)).sum()
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


def test_ssim_equals_the_definition_written_as_loops() -> None:
    x = pictures(1, 2, 3, 15, 18)
    y = (x + 0.3 * pictures(2, 2, 3, 15, 18)).clamp(-1, 1)
    expected = [np.mean([ssim_by_loops(x[b, c].numpy(), y[b, c].numpy(), 2) for c in range(3)]) for b in range(2)]
    assert torch.allclose(ssim(x, y, data_range=2), torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(ssim(x.float(), y.float(), data_range=2).double(), ssim(x, y, data_range=2), atol=1e-5)


def test_ssim_of_bytes_equals_the_definition_and_is_one_for_equal_pictures() -> None:
    x = ((pictures(3, 1, 1, 12, 13) + 1) * 127.5).round().to(torch.uint8)
    y = ((pictures(4, 1, 1, 12, 13) + 1) * 127.5).round().to(torch.uint8)
    expected = ssim_by_loops(x[0, 0].double().numpy(), y[0, 0].double().numpy(), 255)
    assert ssim(x, y).item() == pytest.approx(expected, abs=1e-5)
    assert ssim(x, x).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_pictures_that_cannot_be_compared_are_refused(metric: object) -> None:
    assert callable(metric)
    x = torch.zeros(1, 3, 16, 16)
    with pytest.raises(UsageError, match="crop them alike"):
        metric(x, torch.zeros(1, 3, 16, 17), data_range=2)
    with pytest.raises(UsageError, match="give data_range"):
        metric(x, x)
    with pytest.raises(UsageError, match="uint8"):
        metric(x, x.to(torch.uint8), data_range=2)


def test_ssim_refuses_pictures_smaller_than_its_window() -> None:
    x = torch.zeros(1, 3, 10, 30)
    with pytest.raises(UsageError, match="30x10"):
        ssim(x, x, data_range=2)


def test_perplexity_is_the_number_of_equally_used_codes() -> None:
    counts = torch.zeros(100, dtype=torch.long)
    counts[10:35] = 7
    assert perplexity(counts) == pytest.approx(25)
    assert usage(counts) == pytest.approx(0.25)
    three_to_one = torch.tensor([3, 1, 0])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert perplexity(three_to_one) == pytest.approx(math.exp(entropy))
    with pytest.raises(UsageError, match="no codes"):
        perplexity(torch.zeros(5))


def test_use_by_rank_is_the_sorted_shares_in_stretches() -> None:
    assert use_by_rank(torch.full((9,), 4)) == pytest.approx([1] * 9)
    assert use_by_rank(torch.tensor([0, 6, 0, 2])) == pytest.approx([3, 1, 0, 0])
    counts = torch.from_numpy(np.random.default_rng(0).integers(0, 50, 1000))
    found = use_by_rank(counts, most=64)
    by_hand = np.array_split(np.sort(counts.numpy())[::-1] * 1000 / counts.numpy().sum(), 64)
    assert found == pytest.approx([part.mean() for part in by_hand])
    assert found == sorted(found, reverse=True)
    with pytest.raises(UsageError, match="no codes"):
        use_by_rank(torch.zeros(5))


def covariance(seed: int, size: int, rank: int) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(size, rank))
    return factor @ factor.T / rank


def test_frechet_distance_of_commuting_gaussians_is_its_closed_form() -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    a, b = np.array([4.0, 1, 0.25, 9, 2, 0]), np.array([1.0, 1, 4, 0, 3, 0.5])
    mu1, mu2 = np.arange(6.0), np.arange(6.0)[::-1]
    sigma1, sigma2 = (rotation * a) @ rotation.T, (rotation * b) @ rotation.T
    expected = ((mu1 - mu2) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(expected, rel=1e-7)


def test_frechet_distance_equals_the_eigenvalues_of_the_product() -> None:
    s1, s2 = covariance(1, 8, 20), covariance(2, 8, 20)
    mu1, mu2 = np.zeros(8), np.full(8, 0.1)
    trace_of_root = np.sqrt(np.linalg.eigvals(s1 @ s2).real).sum()
    expected = 8 * 0.01 + np.trace(s1) + np.trace(s2) - 2 * trace_of_root
    assert frechet_distance(mu1, s1, mu2, s2) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(mu2, s2, mu1, s1) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_to_itself_is_nothing_even_for_a_singular_covariance() -> None:
    sigma, mu = covariance(3, 200, 20), np.ones(200)
    assert frechet_distance(mu, sigma, mu, sigma) < 1e-9 * np.trace(sigma)


@pytest.mark.parametrize(("first", "second"), [(14, 12), (14, 400), (120, 90)])
def test_frechet_distance_of_few_features_is_that_of_their_products(first: int, second: int) -> None:
    rng = np.random.default_rng(first)
    scales = np.logspace(0, -4, 300)  # as networks have: few directions vary much
    sides = [rng.random((count, 300)) @ (rng.random((300, 300)) * scales) for count in (first, second)]
    statistics = [(each.mean(0), np.cov(each, rowvar=False)) for each in sides]
    x, y = ((each - each.mean(0)) / math.sqrt(len(each) - 1) for each in sides)
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    apart = ((sides[0].mean(0) - sides[1].mean(0)) ** 2).sum()
    expected = apart + (x**2).sum() + (y**2).sum() - 2 * cross
    assert frechet_distance(*statistics[0], *statistics[1]) == pytest.approx(expected, rel=1e-8)


def test_statistics_that_are_none_are_refused() -> None:
    mu, sigma = np.zeros(3), np.eye(3)
    with pytest.raises(BadFileError, match="one feature network"):
        frechet_distance(mu, sigma, np.zeros(4), np.eye(4))
    with pytest.raises(BadFileError, match="not a finite"):
        frechet_distance(mu, sigma, mu, np.full((3, 3), np.nan))
    with pytest.raises(BadFileError, match="not finite"):
        frechet_distance(np.full(3, np.nan), sigma, mu, sigma)
    with pytest.raises(BadFileError, match="not symmetric and positive"):
        frechet_distance(mu, sigma, mu, -sigma)
    for other in (np.diag([1.0, 1, -1]), np.triu(np.ones((3, 3))), np.ones((3, 3)) - np.eye(3)):
        with pytest.raises(BadFileError, match="not symmetric and positive"):
            frechet_distance(mu, other, mu, sigma)


# --- distributions of features ----------------------------------------------------------------------------------------


def features(count: int, seed: int, dimensions: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(dimensions, dimensions, generator=generator)
    return (torch.randn(count, dimensions, generator=generator) @ mixed + seed).float()


def test_the_frechet_distance_is_the_formula_of_pytorch_fid() -> None:
    from pytorch_fid.fid_score import calculate_frechet_distance

    sides = [features(400, 1), features(300, 2)]
    arrays = [side.double().numpy() for side in sides]
    statistics = [(each.mean(0), np.cov(each, rowvar=False)) for each in arrays]
    with warnings.catch_warnings():  # it calls scipy by deprecated arguments
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = calculate_frechet_distance(*statistics[0], *statistics[1])
    moments = [Moments.of(side) for side in sides]
    ours = frechet_distance(moments[0].mean, moments[0].sigma, moments[1].mean, moments[1].sigma)
    assert ours == pytest.approx(expected, rel=1e-9)
    assert ours > 1


@pytest.mark.parametrize("parts", [(7, 1, 92), (0, 100), (50, 50, 0), (1,) * 100])
def test_moments_of_parts_merge_to_those_of_all_far_from_zero_too(parts: tuple[int, ...]) -> None:
    whole = features(100, 3).double() + 1e6  # where sums of squares would lose all digits
    merged = Moments.of(whole[:0])
    for part in torch.split(whole, parts):
        merged = merged.merge(Moments.of(part))
    assert merged.count == 100
    assert np.allclose(merged.mean, whole.numpy().mean(0), rtol=1e-13)
    expected = np.cov(whole.numpy(), rowvar=False)
    assert np.abs(merged.sigma - expected).max() < 1e-9 * np.abs(expected).max()


@pytest.mark.parametrize("batch", [1, 7, 512, 700, 1700])
def test_running_moments_are_those_of_all_and_the_same_for_any_batches(batch: int) -> None:
    whole = features(1700, 3) + 1000
    running = RunningMoments(whole.shape[1])
    for part in torch.split(whole, batch):
        running.add(part)
        running.add(part[:0])
    found = running.moments()
    assert found.count == 1700
    expected = Moments.of(whole)
    assert np.abs(found.mean - expected.mean).max() < 1e-12 * np.abs(expected.mean).max()
    assert np.abs(found.scatter - expected.scatter).max() < 1e-12 * np.abs(expected.scatter).max()
    at_once = RunningMoments(whole.shape[1])
    at_once.add(whole)
    assert np.array_equal(found.scatter, at_once.moments().scatter)
    assert np.array_equal(found.mean, at_once.moments().mean)


def test_batches_go_into_one_matrix_in_place() -> None:
    running, whole = RunningMoments(1024), torch.randn(2048, 1024)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        for part in torch.split(whole, 32):
            running.add(part)
    largest = max(event.cpu_memory_usage for event in found.events())
    assert largest < 1024 * 1024 * 8  # bytes of one such matrix


def test_one_picture_has_no_covariance() -> None:
    with pytest.raises(UsageError, match="1 picture has no covariance"):
        _ = Moments.of(features(1, 1)).sigma


def test_the_inception_score_is_that_of_its_definition() -> None:
    logits = features(60, 4, dimensions=9)
    order = np.random.RandomState(2020).permutation(60)
    p = logits.double()[order].softmax(1)
    scores = [float((part * (part.log() - part.mean(0).log())).sum(1).mean().exp()) for part in torch.split(p, 20)]
    found = inception_score(logits, splits=3)
    assert found.mean == pytest.approx(np.mean(scores), rel=1e-9)
    assert found.deviation == pytest.approx(np.std(scores), rel=1e-9)
    assert 1 < found.mean < 9
    assert inception_score(torch.zeros(20, 5), splits=2).mean == pytest.approx(1)
    with pytest.raises(UsageError, match="2 pictures cannot be divided into 3 parts"):
        inception_score(logits[:2], splits=3)


def test_the_kernel_distance_of_all_pictures_is_the_sum_over_pairs() -> None:
    a, b = features(12, 5).double(), features(12, 6).double()

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 24 + 1) ** 3

    own = sum(kernel(x, y) for side in (a, b) for i, x in enumerate(side) for j, y in enumerate(side) if i != j)
    across = sum(kernel(x, y) for x in a for y in b)
    found = kernel_distance(a, b, subsets=2, subset_size=12)
    assert found.mean == pytest.approx(own / (12 * 11) - 2 * across / 144, rel=1e-9)
    with pytest.raises(UsageError, match="--subset-size 12"):
        kernel_distance(a, b)


def test_precision_and_recall_count_pictures_within_balls() -> None:
    real, made = features(40, 7, dimensions=3), features(30, 7, dimensions=3)[:30] + 1.5

    def covered(points: Tensor, balls: Tensor) -> float:
        radii = [sorted(float((x - y).norm()) for y in balls)[3] for x in balls]
        inside = [any(float((p - x).norm()) <= r for x, r in zip(balls, radii, strict=True)) for p in points]
        return sum(inside) / len(inside)

    found = precision_recall(made, real)
    assert found.precision == pytest.approx(covered(made, real))
    assert found.recall == pytest.approx(covered(real, made))
    assert 0 < found.precision < 1
    with pytest.raises(UsageError, match="fewer than 3 neighbours"):
        precision_recall(made[:3], real)
