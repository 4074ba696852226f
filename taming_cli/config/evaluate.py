"""Settings of the measurements: the feature network, how pictures are resized for it, and parameters of each score."""

from dataclasses import dataclass
from typing import Literal

from taming_cli.config.fields import check, option
from taming_cli.config.size import Size

FeatureNetworkName = Literal["inception-v3-compat", "vgg16", "dinov2", "efficientnet-lite0"]
Resize = Literal["tf1", "clean"]


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """The network that computes features of pictures, and its input."""

    features: FeatureNetworkName = option(
        "inception-v3-compat",
        "Feature network. Only scores with inception-v3-compat are called FID, IS or KID. efficientnet-lite0 needs no "
        "download.",
    )
    resize: Resize = option(
        "tf1",
        "Resizing to the network's input: tf1 (bilinear, as for the published FID) or clean (bicubic, clean-fid).",
    )
    size: Size | None = option(
        None, "First centre-crop and resize all pictures to this size. Default: keep their sizes."
    )
    cache: bool = option(True, "Cache the statistics of reference pictures.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class InceptionScoreConfig:
    """Parameters of the inception score."""

    splits: int = option(10, "Number of splits whose scores are averaged.", low=1)
    seed: int = option(2020, "Random seed of the assignment of pictures to splits.", low=0, high=2**32 - 1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class KernelConfig:
    """Parameters of the kernel distance."""

    subsets: int = option(100, "Number of random subsets whose distances are averaged.", low=1)
    subset_size: int = option(1000, "Pictures of each side in a subset.", low=2)
    seed: int = option(2020, "Random seed of the subsets.", low=0, high=2**32 - 1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ManifoldConfig:
    """Parameters of precision and recall."""

    neighbours: int = option(3, "k: each feature's sphere reaches its k-th nearest neighbour.", low=1)

    def __post_init__(self) -> None:
        check(self)
