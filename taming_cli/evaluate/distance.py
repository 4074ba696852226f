"""Metrics that compare image sets by features: FID, IS, KID, precision and recall.

A metric has its published short name only with the published feature network: `inception-v3-compat`, or `vgg16` for
precision and recall.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from taming_cli.config.evaluate import FeatureConfig, InceptionScoreConfig, KernelConfig, ManifoldConfig, Resize
from taming_cli.config.fields import to_dict
from taming_cli.config.size import Size
from taming_cli.errors import BadFileError, UsageError
from taming_cli.evaluate.extraction import Extraction, Extractor, Keep, cached_features, extract_features
from taming_cli.evaluate.image_sets import FeatureStatistics, ImageSet
from taming_cli.evaluate.protocol import Measurement, metric_name, versions, warnings_for
from taming_cli.metrics import frechet_distance, inception_score, kernel_distance, precision_recall
from taming_cli.pretrained.features import VGG16, FeatureNetwork, InceptionV3, LiteFeatures

Sides = dict[str, tuple[ImageSet | FeatureStatistics, Extraction | None]]
"""By role ("generated", "reference"): the image set and its features, or statistics and None."""

_DIMENSIONS: dict[str, int] = {network.name: network.dimensions for network in (InceptionV3, VGG16, LiteFeatures)}
"""Feature networks with a fixed number of features."""


def fid(
    generated: ImageSet | FeatureStatistics,
    reference: ImageSet | FeatureStatistics,
    extractor: Extractor,
    *,
    cache: bool = True,
) -> Measurement:
    """The Frechet distance between Gaussians fitted to both sides' features (Heusel et al. 2017).

    With `cache`, moments of the reference are cached. UsageError for a set of a single image, BadFileError for
    statistics with another number of features.
    """
    network = extractor.network
    sides: Sides = {}
    for role, side in (("generated", generated), ("reference", reference)):
        if isinstance(side, FeatureStatistics):
            _check_statistics(side, network.name, network.dimensions, resize=network.resize, size=extractor.size)
            sides[role] = side, None
        elif len(side) < 2:
            raise UsageError(f"{side.name} is one picture; a distance between distributions needs two or more")
        elif cache and role == "reference":
            sides[role] = side, cached_features(side, extractor)
        else:
            sides[role] = side, extract_features(side, extractor)
    return _frechet(sides, network.stamp, extractor.size)


def fid_of_statistics(
    generated: FeatureStatistics, reference: FeatureStatistics, features: FeatureConfig
) -> Measurement:
    """The Frechet distance between two published statistics, without loading a network.

    BadFileError if the number of features differs from the network's or between the two.
    """
    dimensions = _DIMENSIONS.get(features.features, generated.mu.size)
    for side in (generated, reference):
        _check_statistics(side, features.features, dimensions, resize=features.resize, size=features.size)
    stamp = {
        "name": features.features,
        "dimensions": dimensions,
        "sha256": None,
        "known": True,
        "resize": features.resize,
    }
    return _frechet({"generated": (generated, None), "reference": (reference, None)}, stamp, None)


def inception(generated: ImageSet, extractor: Extractor, config: InceptionScoreConfig) -> Measurement:
    """The inception score (Salimans et al. 2016): mean and standard deviation over splits.

    UsageError for a network without classes, or for fewer images than splits.
    """
    if not extractor.network.classes:
        raise UsageError(f"{extractor.network.name} has no classes; use inception-v3-compat or efficientnet-lite0")
    if len(generated) < config.splits:
        raise UsageError(
            f"{generated.name}: {len(generated)} pictures cannot be split into {config.splits} parts; use fewer "
            "--splits"
        )
    extraction = extract_features(generated, extractor, keep="logits")
    assert extraction.kept is not None
    score = inception_score(extraction.kept, splits=config.splits, seed=config.seed)
    values = {"value": score.mean, "deviation": score.deviation}
    stamp, sides = extractor.network.stamp, {"generated": (generated, extraction)}
    return _measurement(metric_name("is", "is", stamp), values, {**sides}, stamp, extractor.size, to_dict(config))


def kernel(generated: ImageSet, reference: ImageSet, extractor: Extractor, config: KernelConfig) -> Measurement:
    """The kernel distance (Binkowski et al. 2018): mean and standard deviation over random subsets.

    UsageError for a set smaller than a subset.
    """
    size = config.subset_size
    _check_count(generated, reference, size, f"subsets of {size}; use a smaller --subset-size")
    sides, features = _individual_features(generated, reference, extractor)
    score = kernel_distance(*features, subsets=config.subsets, subset_size=size, seed=config.seed)
    values = {"value": score.mean, "deviation": score.deviation}
    stamp = extractor.network.stamp
    return _measurement(metric_name("kid", "kd", stamp), values, sides, stamp, extractor.size, to_dict(config))


def manifold(generated: ImageSet, reference: ImageSet, extractor: Extractor, config: ManifoldConfig) -> Measurement:
    """Improved precision and recall (Kynkaanniemi et al. 2019). UsageError for a set with too few neighbours."""
    neighbours = config.neighbours
    _check_count(generated, reference, neighbours + 1, f"{neighbours} neighbours; use fewer --neighbours")
    sides, features = _individual_features(generated, reference, extractor)
    values = precision_recall(*features, neighbours=neighbours)._asdict()
    name = extractor.network.name
    metric = "prc" if name == "vgg16" else f"prc-{name}"
    return _measurement(metric, values, sides, extractor.network.stamp, extractor.size, to_dict(config))


def kept_bytes(image_sets: Sequence[ImageSet], network: FeatureNetwork, keep: Keep) -> int:
    """The memory in bytes for keeping the features or logits of every image."""
    return sum(len(images) for images in image_sets) * network.width(keep) * torch.float64.itemsize


def _check_count(generated: ImageSet, reference: ImageSet, minimum: int, purpose: str) -> None:
    for side in (generated, reference):
        if len(side) < minimum:
            raise UsageError(f"{side.name}: {len(side)} pictures are too few for {purpose}")


def _individual_features(
    generated: ImageSet, reference: ImageSet, extractor: Extractor
) -> tuple[Sides, tuple[Tensor, Tensor]]:
    sides: Sides = {}
    features = []
    for role, side in (("generated", generated), ("reference", reference)):
        extraction = extract_features(side, extractor, keep="features")
        assert extraction.kept is not None
        sides[role] = side, extraction
        features.append(extraction.kept)
    return sides, (features[0], features[1])


def _check_statistics(
    side: FeatureStatistics, network: str, dimensions: int, *, resize: Resize, size: Size | None
) -> None:
    if size is not None or resize != "tf1":
        raise UsageError(f"{side.name} holds statistics, which --size and --resize cannot change; omit them")
    if side.mu.shape != (dimensions,):
        raise BadFileError(f"{side.name} holds statistics of {side.mu.size} features; {network} has {dimensions}")


def _frechet(sides: Sides, stamp: dict[str, Any], size: Size | None) -> Measurement:
    value = frechet_distance(*_gaussian(*sides["generated"]), *_gaussian(*sides["reference"]))
    return _measurement(metric_name("fid", "fd", stamp), {"value": value}, sides, stamp, size, gaussian=True)


def _gaussian(side: ImageSet | FeatureStatistics, extraction: Extraction | None) -> tuple[Any, Any]:
    if isinstance(side, FeatureStatistics):
        return side.mu, side.sigma
    assert extraction is not None
    assert extraction.moments is not None
    return extraction.moments.mean, extraction.moments.sigma


def _measurement(
    metric: str,
    values: dict[str, float],
    sides: Sides,
    stamp: dict[str, Any],
    size: Size | None,
    settings: dict[str, Any] | None = None,
    *,
    gaussian: bool = False,
) -> Measurement:
    protocols = {
        role: side.protocol() | (extraction.protocol() if extraction is not None else {})
        for role, (side, extraction) in sides.items()
    }
    protocol = {
        **protocols,
        "features": stamp,
        "size": None if size is None else str(size),
        "pixels": "8-bit",
        **(settings or {}),
        "versions": versions(),
    }
    return Measurement(
        metric=metric,
        values=values,
        protocol=protocol,
        warnings=warnings_for(protocols, stamp, gaussian=gaussian, size=size),
        skipped=tuple(each for _, features in sides.values() if features is not None for each in features.skipped),
    )
