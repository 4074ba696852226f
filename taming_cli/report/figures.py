"""Measured figures, of a validation or of `taming eval`: title, unit, value, and which direction is better."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from taming_cli.report.record import RunRecord
from taming_cli.runtime.run.metrics import figures_in, is_number

Better = Literal["higher", "lower", ""]


class Figure(NamedTuple):
    """`better` is empty for a figure that only describes the measurement."""

    title: str
    unit: str
    better: Better = ""


FIGURES: Mapping[str, Figure] = {
    "val_nats_per_token": Figure("Negative log-likelihood", "nats/token", "lower"),
    "train_nats_per_token": Figure("The same, of training pictures", "nats/token"),
    "bits_per_dim": Figure("The same, of the codes only", "bits/dim", "lower"),
    "psnr": Figure("PSNR", "dB", "higher"),
    "accuracy": Figure("Correct labels", "%", "higher"),
    "cross_entropy": Figure("Cross-entropy", "nats/pixel", "lower"),
    "perceptual": Figure("Perceptual distance", "distance", "lower"),
    "texture": Figure("Texture distance", "Frechet distance", "lower"),
    "codes_used": Figure("Codes in use", "%", "higher"),
    "codebook_perplexity": Figure("Codebook perplexity", "codes", "higher"),
    "top_codes_used": Figure("Top level's codes in use", "%", "higher"),
    "top_codebook_perplexity": Figure("Top level's codebook perplexity", "codes", "higher"),
    "l1": Figure("L1", "of 2", "lower"),
    "count": Figure("Held-out pictures", "pictures"),
    "windows": Figure("Held-out windows", "windows"),
}
"""In the order of tables. A figure that is not listed has its own name as its title."""

HEADLINE = [name for name in FIGURES if name not in ("train_nats_per_token", "cross_entropy", "l1", "count", "windows")]
"""Figures in large type at the head of a run's page."""
SHARES = ("codes_used", "top_codes_used", "accuracy")
"""Figures between 0 and 1 that are shown in percent."""
_RESULT_TITLES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "l1": "L1 (of 2)", "codes_used": "codes used (share)"}
_RESULT_HIGHER = ("psnr", "ssim", "codes_used", "perplexity", "precision", "recall")
_RESULT_NEITHER = ("bits_per_pixel", "dead", "codes_counted", "deviation", "p_value", "code_p_value")


def figure(name: str) -> Figure:
    """The description of a figure."""
    return FIGURES.get(name, Figure(name, ""))


def in_order(names: Iterable[str]) -> list[str]:
    """Figures in the order of tables, unlisted ones last."""
    given = dict.fromkeys(names)
    return [name for name in FIGURES if name in given] + [name for name in given if name not in FIGURES]


def unit_of(name: str, record: RunRecord) -> str:
    """The unit of a figure, with the run's own network or codebook size."""
    size = record.config.get("codec", {}).get("codebook_size")
    perceptual = (record.about.get("perceptual") or {}).get("name")
    if name in ("perceptual", "texture") and perceptual:
        return f"{'distance' if name == 'perceptual' else 'Frechet distance'} by {perceptual}"
    if name in ("codes_used", "top_codes_used") and is_number(size):
        return f"% of {size:,}"
    return "of 2, mean per value" if name == "l1" else figure(name).unit


def validated(line: Mapping[str, Any], record: RunRecord) -> dict[str, float]:
    """A validation line's figures: shares in percent, and bits/dim if the codec's factor f is known.

    A code stands for f x f pixels of 3 values: bits/dim = nats/token / (ln 2 x 3 f^2).
    """
    figures = figures_in(line)
    factor = record.about.get("downsample_factor")
    if "val_nats_per_token" in figures and isinstance(factor, int):
        figures["bits_per_dim"] = figures["val_nats_per_token"] / (math.log(2) * 3 * factor**2)
    return {name: 100 * value if name in SHARES else value for name, value in figures.items()}


class Result(NamedTuple):
    """A value in eval.json: the name of its measurement, a title, and the protocol of the measurement."""

    measurement: str
    title: str
    value: float
    better: Better
    protocol: Mapping[str, Any]

    @property
    def conditions(self) -> str:
        """The number of pictures on each side, and the network; the JSON has the complete protocol."""
        parts = {role: part for role, part in self.protocol.items() if isinstance(part, Mapping)}
        counts = [f"{part['count']:,} {role}" for role, part in parts.items() if is_number(part.get("count"))]
        network = parts.get("features", {}).get("name")
        return ", ".join(counts + ([str(network)] if network is not None else []))


def results_of(record: RunRecord) -> Iterator[Result]:
    """Every value in a run's eval.json, in order."""
    for measurement, content in record.measured.items():
        metric, protocol = str(content.get("metric", "")), content.get("protocol", {})
        for name, value in content.items():
            if is_number(value):
                title = metric if name == "value" else f"{metric}: {_RESULT_TITLES.get(name, name.replace('_', ' '))}"
                yield Result(measurement, title, value, _better(metric, name), protocol)


def _better(metric: str, name: str) -> Better:
    name = name.removeprefix("top_")
    if name in _RESULT_NEITHER:
        return ""
    inception_score = name == "value" and metric.partition("-")[0] == "is"
    return "higher" if name in _RESULT_HIGHER or inception_score else "lower"
