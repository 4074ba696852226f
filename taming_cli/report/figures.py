"""The figures of a validation: what each is called, its unit, which end of it is better, and from which line it is."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from taming_cli.report.record import RunRecord
from taming_cli.runtime.run.metrics import figures_in

Better = Literal["higher", "lower", ""]


class Figure(NamedTuple):
    """`better` is empty for what only describes."""

    title: str
    unit: str
    better: Better = ""


FIGURES: Mapping[str, Figure] = {
    "val_nats_per_token": Figure("Negative log-likelihood", "nats/token", "lower"),
    "bits_per_dim": Figure("The same, of the codes only", "bits/dim", "lower"),
    "psnr": Figure("PSNR", "dB", "higher"),
    "accuracy": Figure("Right labels", "%", "higher"),
    "cross_entropy": Figure("Cross-entropy", "nats/pixel", "lower"),
    "perceptual": Figure("Perceptual distance", "distance", "lower"),
    "texture": Figure("Texture distance", "Frechet distance", "lower"),
    "codes_used": Figure("Codes in use", "%", "higher"),
    "codebook_perplexity": Figure("Codebook perplexity", "codes", "higher"),
    "l1": Figure("L1", "of 2", "lower"),
    "count": Figure("Held-out pictures", "pictures"),
    "windows": Figure("Held-out windows", "windows"),
}
"""In the order of tables. Others have their own name for a title."""

HEADLINE = (
    "val_nats_per_token",
    "bits_per_dim",
    "psnr",
    "accuracy",
    "perceptual",
    "texture",
    "codes_used",
    "codebook_perplexity",
)
SHARES = ("codes_used", "accuracy")
"""Figures between 0 and 1 that are shown in percent."""


def figure(name: str) -> Figure:
    """What is known of a figure."""
    return FIGURES.get(name, Figure(name, ""))


def in_order(names: Mapping[str, object]) -> list[str]:
    """Those that are known first, in the order of tables."""
    return [name for name in FIGURES if name in names] + [name for name in names if name not in FIGURES]


def unit_of(name: str, record: RunRecord) -> str:
    """The unit of a figure, with what it is counted among."""
    size = record.config.get("codec", {}).get("codebook_size")
    perceptual = (record.about.get("perceptual") or {}).get("name")
    if name == "perceptual" and perceptual:
        return f"distance by {perceptual}"
    if name == "texture" and perceptual:
        return f"Frechet distance by {perceptual}"
    if name == "codes_used" and size:
        return f"% of {size:,}"
    return "of 2, mean per value" if name == "l1" else figure(name).unit


def validated(line: Mapping[str, Any], record: RunRecord) -> dict[str, float]:
    """A validation line's figures, shares in percent, and bits/dim where the codec's factor f is known.

    A code stands for f x f pixels of 3 values: bits/dim = nats/token / (ln 2 x 3 f^2).
    """
    found = figures_in(line)
    factor = record.about.get("downsample_factor")
    if "val_nats_per_token" in found and isinstance(factor, int):
        found["bits_per_dim"] = found["val_nats_per_token"] / (math.log(2) * 3 * factor**2)
    return {key: 100 * value if key in SHARES else value for key, value in found.items()}


def best_line(record: RunRecord) -> Mapping[str, Any]:
    """The validation of the best model; where its step was not validated, the last one, and empty before the first."""
    at_best = [line for line in record.validation if line["step"] == record.best_step]
    if at_best:
        return at_best[-1]
    return record.validation[-1] if record.validation else {}
