"""Distributions of pictures compared by what a network sees in them: FID, IS, KID, precision and recall.

A score keeps the field's short name only where it was taken as the field takes it: by `inception-v3-compat`, and for
precision and recall by `vgg16`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from taming_cli.config.evaluate import FeatureConfig, InceptionScoreConfig, KernelConfig, ManifoldConfig, Resize
from taming_cli.config.fields import to_dict
from taming_cli.config.size import Size
from taming_cli.errors import BadFileError, UsageError
from taming_cli.evaluate.extraction import Keep, Look, Seen, look, statistics
from taming_cli.evaluate.image_sets import Side, Statistics
from taming_cli.evaluate.protocol import Measured, named, versions, warnings
from taming_cli.metrics import frechet_distance, inception_score, kernel_distance, precision_recall
from taming_cli.pretrained.features import VGG16, FeatureNetwork, InceptionV3, LiteFeatures


def fid(generated: Side | Statistics, reference: Side | Statistics, how: Look, *, cache: bool = True) -> Measured:
    """The Frechet distance of the two sides' features (Heusel et al. 2017).

    Statistics of the reference come out of the cache where it has them. UsageError for a side of one picture,
    BadFileError for statistics of another network's features.
    """
    sides: dict[str, tuple[Side | Statistics, Seen | None]] = {}
    for role, side in (("generated", generated), ("reference", reference)):
        if isinstance(side, Statistics):
            _comparable(side, how.network.name, how.network.dimensions, resize=how.network.resize, size=how.size)
            sides[role] = side, None
        elif len(side) < 2:
            raise UsageError(f"{side.name} is one picture; a distance of distributions needs two or more")
        else:
            sides[role] = side, statistics(side, how, cache=cache and role == "reference")
    return _distance(sides, how.network.stamp, how.size)


def fid_of_statistics(generated: Statistics, reference: Statistics, features: FeatureConfig) -> Measured:
    """The same of statistics alone, without the network that they are said to be of. BadFileError where they are of
    another, or of two."""
    width = _WIDTHS.get(features.features, generated.mu.size)
    for side in (generated, reference):
        _comparable(side, features.features, width, resize=features.resize, size=features.size)
    stamp = {"name": features.features, "dimensions": width, "sha256": None, "known": True, "resize": features.resize}
    return _distance({"generated": (generated, None), "reference": (reference, None)}, stamp, None)


_WIDTHS: dict[str, int] = {kind.name: kind.dimensions for kind in (InceptionV3, VGG16, LiteFeatures)}
"""Of the networks that are always of one width."""


def inception(generated: Side, how: Look, config: InceptionScoreConfig) -> Measured:
    """The inception score, its mean over parts and their deviation. UsageError for a network that says no classes, and
    for fewer pictures than parts."""
    if not how.network.classes:
        raise UsageError(f"{how.network.name} says no classes; use inception-v3-compat or efficientnet-lite0")
    if len(generated) < config.splits:
        raise UsageError(
            f"{generated.name}: {len(generated)} pictures do not make {config.splits} parts; fewer --splits"
        )
    seen = look(generated, how, keep="logits")
    assert seen.kept is not None
    score = inception_score(seen.kept, splits=config.splits, seed=config.seed)
    values = {"value": score.mean, "deviation": score.deviation}
    stamp, settings = how.network.stamp, to_dict(config)
    return _measured(named("is", "is", stamp), values, {"generated": (generated, seen)}, stamp, how.size, settings)


def kernel(generated: Side, reference: Side, how: Look, config: KernelConfig) -> Measured:
    """The kernel distance, its mean over subsets and their deviation. UsageError for a side below a subset's size."""
    _enough(generated, reference, config.subset_size, f"subsets of {config.subset_size}; use a smaller --subset-size")
    sides, features = _kept(generated, reference, how)
    score = kernel_distance(*features, subsets=config.subsets, subset_size=config.subset_size, seed=config.seed)
    values = {"value": score.mean, "deviation": score.deviation}
    stamp = how.network.stamp
    return _measured(named("kid", "kd", stamp), values, sides, stamp, how.size, to_dict(config))


def manifold(generated: Side, reference: Side, how: Look, config: ManifoldConfig) -> Measured:
    """Improved precision and recall. UsageError for a side without so many neighbours."""
    _enough(generated, reference, config.neighbours + 1, f"{config.neighbours} neighbours; use fewer --neighbours")
    sides, features = _kept(generated, reference, how)
    found = precision_recall(*features, neighbours=config.neighbours)
    own = "prc" if how.network.name == "vgg16" else f"prc-{how.network.name}"
    return _measured(own, found._asdict(), sides, how.network.stamp, how.size, to_dict(config))


def kept_bytes(sides: Sequence[Side], network: FeatureNetwork, what: Keep) -> int:
    """The memory that these sides take where a measure needs what was seen of every picture."""
    return sum(len(side) for side in sides) * network.width(what) * torch.float64.itemsize


def _enough(generated: Side, reference: Side, least: int, what: str) -> None:
    for side in (generated, reference):
        if len(side) < least:
            raise UsageError(f"{side.name}: {len(side)} pictures are too few for {what}")


def _kept(
    generated: Side, reference: Side, how: Look
) -> tuple[dict[str, tuple[Side | Statistics, Seen | None]], tuple[Tensor, Tensor]]:
    sides: dict[str, tuple[Side | Statistics, Seen | None]] = {}
    features = []
    for role, side in (("generated", generated), ("reference", reference)):
        seen = look(side, how, keep="features")
        assert seen.kept is not None
        sides[role] = side, seen
        features.append(seen.kept)
    return sides, (features[0], features[1])


def _comparable(side: Statistics, network: str, width: int, *, resize: Resize, size: Size | None) -> None:
    if size is not None or resize != "tf1":
        raise UsageError(f"{side.name} holds statistics, which --size and --resize cannot change; leave them out")
    if side.mu.shape != (width,):
        raise BadFileError(f"{side.name} holds statistics of {side.mu.size} features; {network} has {width}")


def _distance(
    sides: dict[str, tuple[Side | Statistics, Seen | None]], stamp: dict[str, Any], size: Size | None
) -> Measured:
    value = frechet_distance(*_gaussian(*sides["generated"]), *_gaussian(*sides["reference"]))
    return _measured(named("fid", "fd", stamp), {"value": value}, sides, stamp, size, gaussian=True)


def _gaussian(side: Side | Statistics, seen: Seen | None) -> tuple[Any, Any]:
    if isinstance(side, Statistics):
        return side.mu, side.sigma
    assert seen is not None
    assert seen.moments is not None
    return seen.moments.mean, seen.moments.sigma


def _measured(
    metric: str,
    values: dict[str, float],
    sides: dict[str, tuple[Side | Statistics, Seen | None]],
    stamp: dict[str, Any],
    size: Size | None,
    settings: dict[str, Any] | None = None,
    *,
    gaussian: bool = False,
) -> Measured:
    about = {role: side.about() | (seen.about() if seen is not None else {}) for role, (side, seen) in sides.items()}
    protocol = {
        **about,
        "features": stamp,
        "size": None if size is None else str(size),
        "pixels": "8-bit",
        **(settings or {}),
        "versions": versions(),
    }
    return Measured(
        metric=metric,
        values=values,
        protocol=protocol,
        warnings=warnings(about, stamp, gaussian=gaussian, size=size),
        skipped=tuple(each for _, seen in sides.values() if seen is not None for each in seen.skipped),
    )
