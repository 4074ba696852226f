"""Settings of the measurements: which network sees the pictures, how they are brought to its size, how scores split."""

from dataclasses import dataclass
from typing import Literal

from taming_cli.config.fields import check, option
from taming_cli.config.size import Size

FeatureNetworkName = Literal["inception-v3-compat", "vgg16", "dinov2", "efficientnet-lite0"]
Resize = Literal["tf1", "clean"]


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """What sees the pictures."""

    features: FeatureNetworkName = option(
        "inception-v3-compat",
        "Feature network; only with inception-v3-compat is a score called FID, IS or KID. efficientnet-lite0 needs no "
        "download.",
    )
    resize: Resize = option(
        "tf1", "To the network's size: tf1, bilinear as the published FID does it, or clean, clean-fid's bicubic."
    )
    size: Size | None = option(None, "First cut and scale every picture to this, around its middle; none: as it is.")
    cache: bool = option(True, "Keep the statistics of reference pictures for the next time.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class InceptionScoreConfig:
    """How the inception score is taken."""

    splits: int = option(10, "Parts whose scores are averaged.", low=1)
    seed: int = option(2020, "Of the order in which pictures fall into parts.", low=0, high=2**32 - 1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class KernelConfig:
    """How the kernel distance is taken."""

    subsets: int = option(100, "Random subsets whose distances are averaged.", low=1)
    subset_size: int = option(1000, "Pictures of each side in a subset.", low=2)
    seed: int = option(2020, "Of the subsets.", low=0, high=2**32 - 1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ManifoldConfig:
    """How precision and recall are taken."""

    neighbours: int = option(3, "A picture's ball reaches to its neighbour of this number.", low=1)

    def __post_init__(self) -> None:
        check(self)
