"""Metrics as pure mathematics on arrays: pixel-wise similarity, use of a codebook, distances of feature distributions.

The inception score, the kernel distance, and precision and recall are computed by torch-fidelity's functions in
float64, so that sums over many pictures are accurate and comparable.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.errors import BadFileError, UsageError

SSIM_SIGMA = 1.5  # pixels
SSIM_RADIUS = 5  # pixels: the 11 x 11 window of the paper


def psnr(x: Tensor, y: Tensor, *, data_range: float | None = None) -> Tensor:
    """Return the peak signal-to-noise ratio per picture, in dB: 10 log10(data_range^2 / mean squared error).

    Two batches (B, C, H, W) -> (B,); infinite for equal pictures. `data_range` is the width of the pixels' range: 2 for
    [-1, 1]; it defaults to 255 for uint8. Computed in fp32, or in float64 for float64 pictures.
    """
    width = _check_pair(x, y, data_range)
    error = (_wide(x) - _wide(y)).square().mean((1, 2, 3))
    return 20 * math.log10(width) - 10 * error.log10()


def ssim(x: Tensor, y: Tensor, *, data_range: float | None = None) -> Tensor:
    """Return the structural similarity per picture, at most 1, mean over channels (Wang et al. 2004).

    Two batches (B, C, H, W), each side at least 11 -> (B,). Gaussian window of 11 x 11 with sigma 1.5, population (not
    sample) covariances, K1 = 0.01, K2 = 0.03, windows inside the picture only: scikit-image's
    `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`. `data_range` as in `psnr`.
    Raises UsageError below 11 pixels.
    """
    width = _check_pair(x, y, data_range)
    if min(x.shape[2:]) < 2 * SSIM_RADIUS + 1:
        raise UsageError(f"SSIM needs pictures of at least 11 x 11, not {x.shape[3]}x{x.shape[2]}; use larger ones")
    x, y = _wide(x), _wide(y)
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    with torch.autocast(x.device.type, enabled=False):  # variances are small differences of squares
        mx, my, xx, yy, xy = (_window_mean(picture) for picture in (x, y, x * x, y * y, x * y))
    vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
    similarity = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return similarity.mean((1, 2, 3))


def usage(counts: Tensor) -> float:
    """Return the share of a codebook's codes that occur, 0 to 1, from the count of each, (K,)."""
    return float((counts > 0).double().mean())


def perplexity(counts: Tensor) -> float:
    """Return exp(-sum p ln p) for p = counts / sum(counts), (K,): the number of equally used codes that would have the
    same entropy, 1 to K.

    Raises UsageError if all counts are 0.
    """
    counted = counts.detach().to("cpu", torch.float64)
    if not counted.sum() > 0:
        raise UsageError("no codes were counted; the perplexity of a codebook needs at least one picture")
    return float(torch.special.entr(counted / counted.sum()).sum().exp())


def use_by_rank(counts: Tensor, most: int = 64) -> list[float]:
    """Return the use of codes by rank, from the count of each, (K,): shares times K, the most used code first.

    The result has at most `most` values, means over equal ranges of ranks. All are 1 if use is equal; unused codes are
    zeros at the end. Raises UsageError if all counts are 0.
    """
    counted = counts.detach().to("cpu", torch.float64).sort(descending=True).values
    if not counted.sum() > 0:
        raise UsageError("no codes were counted; the use of a codebook needs at least one picture")
    shares = counted / counted.mean()
    return [float(part.mean()) for part in shares.tensor_split(min(most, len(shares)))]


@dataclass(frozen=True)
class Moments:
    """The number of features, their `mean` (D,) and `scatter` (D, D), the sum of outer products of deviations from the
    mean, in float64. Parts can be merged in any order (Chan, Golub, LeVeque 1979).
    """

    count: int
    mean: npt.NDArray[np.float64]
    scatter: npt.NDArray[np.float64]

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Return the moments of features (n, D); n may be 0."""
        wide = features.detach().to("cpu", torch.float64)
        mean = wide.mean(0) if len(wide) else wide.new_zeros(wide.shape[1])
        centred = wide - mean
        return cls(len(wide), mean.numpy(), (centred.T @ centred).numpy())

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both. `RunningMoments` is much faster for many small parts."""
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / max(1, count))
        scatter = np.outer(shift, shift * (self.count * other.count / max(1, count)))
        scatter += self.scatter
        scatter += other.scatter
        return Moments(count, mean, scatter)

    @classmethod
    def together(cls, parts: Iterable["Moments"]) -> "Moments":
        """Return the moments of all parts, at least one, merged in order."""
        return reduce(cls.merge, parts)

    @property
    def sigma(self) -> npt.NDArray[np.float64]:
        """The covariance (D, D), divided by n - 1 as published. Raises UsageError below two pictures."""
        if self.count < 2:
            raise UsageError(f"{self.count} picture has no covariance; a distance of distributions needs at least two")
        return self.scatter / (self.count - 1)


class RunningMoments:
    """The moments of features that arrive in batches: call `add` for each, then `moments`.

    Rows are collected in blocks of ROWS, regardless of batches, and each block is added to one (D, D) matrix in place
    by one matrix product. So the result does not depend on the batches, and no second matrix of that size is needed.
    """

    ROWS = 512
    """Rows per block: 8 MiB of 2048 features."""

    def __init__(self, dimensions: int) -> None:
        # The additional row is for the difference between the means of the block and of the rows before.
        self._rows = torch.empty(self.ROWS + 1, dimensions, dtype=torch.float64)
        self._filled = self._count = 0
        self._mean = torch.zeros(dimensions, dtype=torch.float64)
        self._scatter = torch.zeros(dimensions, dimensions, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Add features (n, D); n may be 0."""
        features = features.detach()
        while len(features):
            head = features[: self.ROWS - self._filled]
            self._rows[self._filled : self._filled + len(head)].copy_(head)
            self._filled += len(head)
            features = features[len(head) :]
            if self._filled == self.ROWS:
                self._merge()

    def moments(self) -> Moments:
        """Return the moments of all features so far; more may be added afterwards."""
        self._merge()
        return Moments(self._count, self._mean.clone().numpy(), self._scatter.clone().numpy())

    def _merge(self) -> None:
        """Merge the current block as in `Moments.merge`; the term of the means is one more row."""
        if not self._filled:
            return
        count, rows = self._count + self._filled, self._rows[: self._filled]
        mean = rows.mean(0)
        shift = mean - self._mean
        rows -= mean
        self._rows[self._filled] = shift * math.sqrt(self._count * self._filled / count)
        block = self._rows[: self._filled + 1]
        self._scatter.addmm_(block.T, block)
        self._mean += shift * (self._filled / count)
        self._count, self._filled = count, 0


class Score(NamedTuple):
    """A mean over parts and its standard deviation."""

    mean: float
    deviation: float


class PrecisionRecall(NamedTuple):
    """The share (0 to 1) of generated pictures near real ones, and the share of real pictures near generated ones."""

    precision: float
    recall: float


def inception_score(logits: Tensor, *, splits: int = 10, seed: int = 2020) -> Score:
    """Return exp of the mean KL(p(y|x), p(y)) over `splits` shuffled parts, 1 to the number of classes.

    Logits (n, C) of the published network, without the last bias (Salimans et al. 2016). Raises UsageError if a part
    would be empty.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    if len(logits) < splits:
        raise UsageError(f"{len(logits)} pictures cannot be divided into {splits} parts; give more, or fewer --splits")
    score = isc_features_to_metric(logits.detach().to("cpu", torch.float64), splits, True, seed)
    return Score(score[KEY_METRIC_ISC_MEAN], score[KEY_METRIC_ISC_STD])


def kernel_distance(
    generated: Tensor, reference: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> Score:
    """Return the squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, unbiased, over random subsets.

    Features (n, D) and (m, D) (Binkowski et al. 2018); may be slightly below 0. Raises UsageError if a side has fewer
    pictures than a subset.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    fewest = min(len(generated), len(reference))
    if fewest < subset_size:
        raise UsageError(
            f"{fewest} pictures are fewer than a subset of {subset_size}; use --subset-size {max(2, fewest)}"
        )
    score = kid_features_to_metric(
        generated.detach().to("cpu", torch.float64),
        reference.detach().to("cpu", torch.float64),
        kid_subsets=subsets,
        kid_subset_size=subset_size,
        rng_seed=seed,
        verbose=False,
    )
    return Score(score[KEY_METRIC_KID_MEAN], score[KEY_METRIC_KID_STD])


def precision_recall(generated: Tensor, reference: Tensor, *, neighbours: int = 3) -> PrecisionRecall:
    """Return improved precision and recall (Kynkaanniemi et al. 2019).

    Each is the share of one side's features that lie inside a ball around any feature of the other side. The radius of
    a ball is the distance of its centre to the k-th nearest neighbour on its own side; k is `neighbours`. Features
    (n, D) and (m, D). Raises UsageError for too few pictures.
    """
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    fewest = min(len(generated), len(reference))
    if fewest <= neighbours:
        raise UsageError(
            f"{fewest} pictures have fewer than {neighbours} neighbours each; give more, or fewer --neighbours"
        )
    wide = (features.detach().to("cpu", torch.float64) for features in (generated, reference))
    return PrecisionRecall(*calculate_precision_recall_part(*wide, neighbours, DISTANCES))


DISTANCES = 2048
"""Side of the blocks of the distance matrix, in pictures."""


class Nearest(NamedTuple):
    """Of each of n vectors: the distance to its nearest neighbour, float64, and the number of that neighbour, int64."""

    distances: Tensor
    numbers: Tensor


class Nearness(NamedTuple):
    """How much nearer some distances are than others; see `nearness`."""

    nearer: float
    p_value: float
    copied: float


def nearest(features: Tensor, reference: Tensor) -> Nearest:
    """Return the nearest of the `reference` features (m, D) to each of the `features` (n, D), by Euclidean distance."""
    wide = reference.detach().to("cpu", torch.float64)
    rows = torch.split(features.detach().to("cpu", torch.float64), max(1, DISTANCES**2 // len(wide)))
    parts = [torch.cdist(part, wide).min(dim=1) for part in rows]
    return Nearest(*(torch.cat([part[k] for part in parts]) for k in (0, 1)))


def nearness(distances: Tensor, held_out: Tensor) -> Nearness:
    """Return whether samples are nearer to the training data than held-out data are (Meehan et al. 2020).

    `distances` (n,) are those of the samples to their nearest training data, `held_out` (m,) those of data that were
    not trained on. `nearer` is the probability that a sample is nearer than a held-out datum, 0.5 without memorization;
    `p_value` is that of the test by Mann and Whitney (1947) that it is not larger; `copied` is the share of the samples
    that are nearer than 95 % of the held-out data, 0.05 without memorization.
    """
    from scipy.stats import mannwhitneyu

    near, far = (of.detach().to("cpu", torch.float64).numpy() for of in (distances, held_out))
    found = mannwhitneyu(near, far, alternative="less", method="asymptotic")
    limit = np.quantile(far, 0.05, method="inverted_cdf")
    return Nearness(1 - found.statistic / (len(near) * len(far)), float(found.pvalue), float((near < limit).mean()))


def frechet_distance(
    mu1: npt.NDArray[np.floating],
    sigma1: npt.NDArray[np.floating],
    mu2: npt.NDArray[np.floating],
    sigma2: npt.NDArray[np.floating],
) -> float:
    """Return the squared Frechet distance of two Gaussians: |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), in float64.

    Means (D,), covariances (D, D) (Dowson and Landau 1982; Heusel et al. 2017). With S1 = A A' and S2 = B B', the last
    trace is the sum of the singular values of A' B, which is accurate for singular covariances without an added
    epsilon; the factors have as many columns as the rank, so few pictures take little time. Raises BadFileError if
    shapes differ, numbers are not finite, or a matrix is not a covariance.
    """
    mu1, sigma1, mu2, sigma2 = (np.asarray(array, np.float64) for array in (mu1, sigma1, mu2, sigma2))
    if mu1.ndim != 1 or mu1.shape != mu2.shape:
        raise BadFileError(f"feature means have shapes {mu1.shape} and {mu2.shape}; use one feature network for both")
    factor1, factor2 = _factor(sigma1, mu1.size), _factor(sigma2, mu2.size)
    if not (np.isfinite(mu1).all() and np.isfinite(mu2).all()):
        raise BadFileError("feature means have values that are not finite; compute the statistics again")
    cross = float(np.linalg.svd(factor1.T @ factor2, compute_uv=False).sum())
    distance = float(((mu1 - mu2) ** 2).sum()) + float(np.trace(sigma1)) + float(np.trace(sigma2)) - 2 * cross
    return max(distance, 0.0)  # rounding can leave a distance of zero slightly below it


def _factor(sigma: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """A (size, rank) with A A' = sigma, a covariance (size, size): its Cholesky factor, pivoted to end at its rank."""
    from scipy.linalg.lapack import dpstrf

    if sigma.shape != (size, size) or not np.isfinite(sigma).all():
        raise BadFileError(
            f"a feature covariance is not a finite ({size}, {size}) matrix; compute the statistics again"
        )
    smallest = 8 * np.finfo(np.float64).eps * float(np.abs(sigma.diagonal()).max(initial=0.0))
    lower, order, rank, _ = dpstrf((sigma + sigma.T) / 2, tol=smallest, lower=1)
    factor: npt.NDArray[np.float64] = np.empty((size, rank))
    factor[order - 1] = np.tril(lower)[:, :rank]
    if np.abs(factor @ factor.T - sigma).max() > 1e-6 * max(float(np.abs(sigma).max()), 1e-300) * size:
        raise BadFileError("a feature covariance is not symmetric and positive; compute the statistics again")
    return factor


def _check_pair(x: Tensor, y: Tensor, data_range: float | None) -> float:
    """Check that two batches are comparable; returns the width of the pixels' range."""
    if x.ndim != 4 or x.shape != y.shape:
        raise UsageError(
            f"pictures of shapes {tuple(x.shape)} and {tuple(y.shape)} cannot be compared; crop them alike"
        )
    if x.dtype != y.dtype:
        raise UsageError(f"pictures of {x.dtype} and {y.dtype} cannot be compared; convert one of them")
    if data_range is None and x.dtype != torch.uint8:
        raise UsageError(f"the range of {x.dtype} pictures is unknown; give data_range, 2 for [-1, 1]")
    return 255.0 if data_range is None else data_range


def _wide(x: Tensor) -> Tensor:
    """Convert to at least fp32: uint8 and bf16 lack the precision for differences of squares."""
    return x if x.dtype == torch.float64 else x.float()


def _window_mean(x: Tensor) -> Tensor:
    """Return the Gaussian mean of each complete window: (B, C, H, W) -> (B, C, H - 10, W - 10)."""
    at = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-at.square() / (2 * SSIM_SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    rows = F.conv2d(x, kernel[:, :, :, None], groups=x.shape[1])
    return F.conv2d(rows, kernel[:, :, None, :], groups=x.shape[1])
