"""Means of repeated trainings, how far they differ, and how much of that may be noise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
"""Of the intervals, two-sided."""
NOISE = "(noise)"
"""The mark of a difference whose interval contains 0."""


@dataclass(frozen=True)
class Spread:
    """The mean over seeds, and the sample standard deviation (of n - 1), or None with one seed."""

    mean: float
    deviation: float | None

    def __format__(self, form: str) -> str:
        return f"{self.mean:{form}}" + ("" if self.deviation is None else f" ± {self.deviation:{form}}")


@dataclass(frozen=True)
class Difference:
    """A mean difference, half the width of its interval, and whether the interval contains 0; None where nothing can be
    said about noise."""

    mean: float
    margin: float | None
    within_noise: bool | None

    def __format__(self, form: str) -> str:
        text = f"{self.mean:+z{form}}" + ("" if self.margin is None else f" ± {self.margin:{form}}")
        return f"{text} {NOISE}" if self.within_noise else text


def spread(values: Sequence[float]) -> Spread:
    """The mean and the spread of a measure over seeds."""
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def degrees_of_freedom(variants: int, seeds: int) -> int:
    """Those of the pooled standard deviation of `differences`."""
    return (variants - 1) * (seeds - 1)


def differences(values: Mapping[str, Sequence[float]], reference: str) -> dict[str, Difference]:
    """How a measure of each variant differs from that of `reference`, by variant. `values` are those of each seed, the
    same seeds in the same order for all V variants and S seeds.

    Differences are paired by seed. Their interval is t s sqrt(2 / S) on both sides, where s is the standard deviation
    of the residuals x_vs - x_v. - x_.s + x_.. of all variants, with (V - 1)(S - 1) degrees of freedom: the analysis of
    variance of a randomised block design, seeds being the blocks. With two variants, it is the paired t-test. It
    assumes that the noise of all variants is equally large.
    """
    from scipy.stats import t

    measured = np.array(list(values.values()), np.float64)
    variants, seeds = measured.shape
    margin = None
    if freedom := degrees_of_freedom(variants, seeds):
        residuals = measured - measured.mean(1, keepdims=True) - measured.mean(0) + measured.mean()
        deviation = math.sqrt(np.square(residuals).sum() / freedom)
        margin = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * deviation * math.sqrt(2 / seeds)
    found = {}
    for name, own in values.items():
        mean = float(np.mean(np.subtract(own, values[reference])))
        if name != reference:
            found[name] = Difference(mean, margin, None if margin is None else abs(mean) <= margin)
    return found
