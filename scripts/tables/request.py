"""What `scripts/paper` was asked for, and how that reads as flags of `taming`."""

from dataclasses import dataclass
from pathlib import Path

from taming_cli.config.size import Size

FREE_FEATURES = "efficientnet-lite0"
"""The feature network that needs no download."""


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
