"""What `scripts/paper` or `scripts/recipes` was asked for, and how that reads as flags of `taming`."""

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from taming_cli.config.size import Size
from taming_cli.errors import UsageError

FREE_FEATURES = "efficientnet-lite0"
"""The feature network that needs no download."""


class Parser(argparse.ArgumentParser):
    """Raises UsageError for a command line that is none."""

    def error(self, message: str) -> NoReturn:  # noqa: D102 - see ArgumentParser
        raise UsageError(message)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of `scripts/paper`."""

    table: str
    images: Path
    minutes: float
    """Of each training."""
    size: Size
    """Of all pictures, in pixels."""
    out: Path
    segmentation: Path | None = None
    weights: Path | None = None
    """Of Inception; without them, features are those of `FREE_FEATURES`."""
    codec: Path | None = None
    """A trained codec, for table 1."""
    samples: int = 100
    """Pictures drawn for each distance."""
    n_layer: int = 4
    n_embd: int = 256
    classifier: str = FREE_FEATURES
    class_map: Path | None = None

    @property
    def features(self) -> list[str]:
        """Flags for `eval fid` and `eval rfid`."""
        if self.weights is None:
            return ["--features", FREE_FEATURES]
        return ["--features", "inception-v3-compat", "--weights", str(self.weights)]

    @property
    def length(self) -> list[str]:
        """Flags for the length of a training."""
        return ["--minutes", f"{self.minutes:g}"]

    @property
    def network(self) -> list[str]:
        """Flags for the size of a transformer."""
        return ["--n-layer", str(self.n_layer), "--n-embd", str(self.n_embd)]


@dataclass(frozen=True, kw_only=True)
class RecipesRequest(Request):
    """The arguments of `scripts/recipes`. `minutes` are those of a codec's training, `samples` those of a prior."""

    variants: Mapping[str, str]
    """The flags of each, as text."""
    seeds: int
    jobs: int
    """Trainings at once."""
    priors: int = 0
    """The number of variants whose codecs get priors."""
    prior_minutes: float
    decoder_minutes: float = 0
    """Of the further training of the best codec's decoder; 0: none."""

    def flags(self, variant: str) -> list[str]:
        """Flags of `train-vqgan`."""
        return shlex.split(self.variants[variant])
