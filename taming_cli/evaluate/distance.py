"""Metrics that compare image sets by features: FID, IS, KID, precision and recall.

A metric has its published short name only with the published feature network: `inception-v3-compat`, or `vgg16` for
precision and recall.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from taming_cli.config.evaluate import FeatureConfig, InceptionScoreConfig, KernelConfig, ManifoldConfig, Resize
from taming_cli.config.fields import to_dict
from taming_cli.config.size import Size
from taming_cli.errors import BadFileError, UsageError
from taming_cli.evaluate.extraction import Extraction, Extractor, Keep, cached_features, extract_features
from taming_cli.evaluate.image_sets import FeatureStatistics, ImageSet
from taming_cli.evaluate.protocol import Measurement, metric_name, versions, warnings_for
from taming_cli.metrics import frechet_distance, inception_score, kernel_distance, precision_recall
from taming_cli.pretrained.features import VGG16, FeatureNetwork, InceptionV3, LiteFeatures

_DIMENSIONS: dict[str, int] = {network.name: network.dimensions for network in (InceptionV3, VGG16, LiteFeatures)}
"""Feature networks with a fixed number of features."""


class _Side(NamedTuple):
    """An image set and its features, or published statistics."""

    source: ImageSet | FeatureStatistics
    features: Extraction | None = None

    def protocol(self) -> dict[str, Any]:
        return self.source.protocol() | ({} if self.features is None else self.features.protocol())

    def gaussian(self) -> tuple[Any, Any]:
        if isinstance(self.source, FeatureStatistics):
            return self.source.mu, self.source.sigma
        assert self.features is not None
        assert self.features.moments is not None
        return self.features.moments.mean, self.features.moments.sigma


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
    sides: list[_Side] = []
    for source in (generated, reference):
        if isinstance(source, FeatureStatistics):
            _check_statistics(source, network.name, network.dimensions, network.resize, extractor.size)
            sides.append(_Side(source))
        elif len(source) < 2:
            raise UsageError(f"{source.name} is one picture; a distance between distributions needs two or more")
        else:
            cached = cache and source is reference
            features = cached_features(source, extractor) if cached else extract_features(source, extractor)
            sides.append(_Side(source, features))
    return _frechet(sides, network.stamp, extractor.size)


def fid_of_statistics(
    generated: FeatureStatistics, reference: FeatureStatistics, features: FeatureConfig
) -> Measurement:
    """The Frechet distance between two published statistics, without loading a network.

    BadFileError if the number of features differs from the network's or between the two.
    """
    name, resize = features.features, features.resize
    dimensions = _DIMENSIONS.get(name, generated.mu.size)
    for source in (generated, reference):
        _check_statistics(source, name, dimensions, resize, features.size)
    stamp = {"name": name, "dimensions": dimensions, "sha256": None, "known": True, "resize": resize}
    return _frechet([_Side(generated), _Side(reference)], stamp, None)


def inception(generated: ImageSet, extractor: Extractor, config: InceptionScoreConfig) -> Measurement:
    """The inception score (Salimans et al. 2016): mean and standard deviation over splits.

    UsageError for a network without classes, or for fewer images than splits.
    """
    network, splits = extractor.network, config.splits
    if not network.classes:
        raise UsageError(f"{network.name} has no classes; use inception-v3-compat or efficientnet-lite0")
    _check_count([generated], splits, f"{splits} parts; use fewer --splits")
    side = _Side(generated, extract_features(generated, extractor, keep="logits"))
    score = inception_score(_kept(side), splits=splits, seed=config.seed)
    values = {"value": score.mean, "deviation": score.deviation}
    name = metric_name("is", "is", network.stamp)
    return _measurement(name, values, [side], network.stamp, extractor.size, to_dict(config))


def kernel(generated: ImageSet, reference: ImageSet, extractor: Extractor, config: KernelConfig) -> Measurement:
    """The kernel distance (Binkowski et al. 2018): mean and standard deviation over random subsets.

    UsageError for a set smaller than a subset.
    """
    size = config.subset_size
    _check_count([generated, reference], size, f"subsets of {size}; use a smaller --subset-size")
    sides = [_Side(images, extract_features(images, extractor, keep="features")) for images in (generated, reference)]
    score = kernel_distance(*map(_kept, sides), subsets=config.subsets, subset_size=size, seed=config.seed)
    values = {"value": score.mean, "deviation": score.deviation}
    stamp = extractor.network.stamp
    return _measurement(metric_name("kid", "kd", stamp), values, sides, stamp, extractor.size, to_dict(config))


def manifold(generated: ImageSet, reference: ImageSet, extractor: Extractor, config: ManifoldConfig) -> Measurement:
    """Improved precision and recall (Kynkaanniemi et al. 2019). UsageError for a set with too few neighbours."""
    neighbours, network = config.neighbours, extractor.network
    _check_count([generated, reference], neighbours + 1, f"{neighbours} neighbours; use fewer --neighbours")
    sides = [_Side(images, extract_features(images, extractor, keep="features")) for images in (generated, reference)]
    values = precision_recall(*map(_kept, sides), neighbours=neighbours)._asdict()
    name = "prc" if network.name == "vgg16" else f"prc-{network.name}"
    return _measurement(name, values, sides, network.stamp, extractor.size, to_dict(config))


def kept_bytes(image_sets: Sequence[ImageSet], network: FeatureNetwork, keep: Keep) -> int:
    """The memory in bytes for keeping the features or logits of every image."""
    return sum(len(images) for images in image_sets) * network.width(keep) * torch.float64.itemsize


def _kept(side: _Side) -> torch.Tensor:
    assert side.features is not None
    assert side.features.kept is not None
    return side.features.kept


def _check_count(image_sets: Sequence[ImageSet], minimum: int, purpose: str) -> None:
    for images in image_sets:
        if len(images) < minimum:
            raise UsageError(f"{images.name}: {len(images)} pictures are too few for {purpose}")


def _check_statistics(
    source: FeatureStatistics, network: str, dimensions: int, resize: Resize, size: Size | None
) -> None:
    if size is not None or resize != "tf1":
        raise UsageError(f"{source.name} holds statistics, which --size and --resize cannot change; omit them")
    if source.mu.shape != (dimensions,):
        raise BadFileError(f"{source.name} holds statistics of {source.mu.size} features; {network} has {dimensions}")


def _frechet(sides: Sequence[_Side], stamp: dict[str, Any], size: Size | None) -> Measurement:
    value = frechet_distance(*sides[0].gaussian(), *sides[1].gaussian())
    return _measurement(metric_name("fid", "fd", stamp), {"value": value}, sides, stamp, size, {}, gaussian=True)


def _measurement(
    metric: str,
    values: dict[str, float],
    sides: Sequence[_Side],
    stamp: dict[str, Any],
    size: Size | None,
    settings: dict[str, Any],
    *,
    gaussian: bool = False,
) -> Measurement:
    protocols = dict(zip(("generated", "reference"), (side.protocol() for side in sides), strict=False))
    return Measurement(
        metric=metric,
        values=values,
        protocol={
            **protocols,
            "features": stamp,
            "size": None if size is None else str(size),
            "pixels": "8-bit",
            **settings,
            "versions": versions(),
        },
        warnings=warnings_for(protocols, stamp, gaussian=gaussian, size=size),
        skipped=tuple(each for side in sides if side.features is not None for each in side.features.skipped),
    )
