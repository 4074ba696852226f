"""Settings of sampling: what to draw from a prior, and how a code is chosen from its logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from taming_cli.config.fields import check, option
from taming_cli.config.ramp import Ramp
from taming_cli.config.size import Size
from taming_cli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """From logits to a code; only `prior/decoding.py` reads these."""

    temperature: float | Ramp = option(
        1.0,
        "Temperature of the logits: less variety below 1, more above 1. X:Y, with a prior for any order: from X in the "
        "first step to Y in the last.",
        low=0.01,
        high=100,
    )
    top_k: int = option(0, "Sample from the k most likely codes; 0: all.", low=0)
    top_p: float = option(
        1.0, "Sample from the smallest set of codes with at least this total probability; 1: all.", low=0, high=1
    )
    min_p: float = option(
        0.0, "Sample from codes at least this fraction as likely as the most likely one; 0: all.", low=0, high=1
    )
    guidance: float | Ramp = option(
        1.0,
        "Classifier-free guidance: unconditional + guidance x (conditional - unconditional); 1: off. X:Y as with "
        "--temperature.",
        low=0,
    )
    greedy: bool = option(False, "Always choose the most likely code.")

    def __post_init__(self) -> None:
        check(self)

    @property
    def guided(self) -> bool:
        """Whether logits without conditions are needed too."""
        return self.guidance != 1

    def at(self, share: float) -> "Decoding":
        """The settings at a share of the steps, from 0 at the first to 1 at the last."""
        temperature, guidance = (Ramp.value(given, share) for given in (self.temperature, self.guidance))
        return Decoding(temperature, self.top_k, self.top_p, self.min_p, guidance, self.greedy)


class Decoding(NamedTuple):
    """The settings of `DecodingConfig` at one step."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    guidance: float
    greedy: bool


MOST_CELLS = 64
"""Cells of a window that one forward pass computes, at most."""
SPECULATE: Mapping[str, int] = {"auto": 0, "off": 1, **{str(cells): cells for cells in range(2, MOST_CELLS + 1)}}
"""The values of `speculate`, and the numbers of cells that they mean; 0 adapts it."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig(DecodingConfig):
    """What to draw from a prior."""

    n: int = option(1, "Number of pictures.", low=1, flag="-n")
    seed: int = option(0, "Random seed. The pictures do not depend on the batch size.", low=0, high=2**63 - 1)
    class_name: str | None = option(
        None,
        "Class to draw: its name, '#N' for class number N from 0, or N if classes have no names. Default: any class.",
        flag="--class",
    )
    size: Size | None = option(
        None, "Size of the pictures in pixels. Default: the size of the condition map, or the training size."
    )
    candidates: int = option(
        1,
        "With --complete: completions drawn per picture; the one that best fits the part below it is kept.",
        low=1,
    )
    keep: Literal["pixels", "codes"] = option(
        "pixels",
        "With --complete: `pixels` keeps the known pixels and matches the colours of the new ones to them; `codes` "
        "keeps the known codes and decodes the whole picture.",
    )
    accept_rate: float = option(
        1.0,
        "Rejection sampling: draw n / rate pictures and keep the n in which --classifier finds the class with the "
        "highest probability; 1: keep all.",
        low=1e-4,
        high=1,
    )
    classifier: str = option(
        "efficientnet-lite0",
        "Classifier for --accept-rate: efficientnet-lite0 (no download), or one of torchvision's, such as resnet50.",
        metavar="NAME",
    )
    stride: int = option(
        0, "Columns that share a window: 1 is the paper's procedure, more is faster; 0: half the window.", low=0
    )
    speculate: str = option(
        "auto",
        "With a raster prior: guess the next codes, and draw up to N codes of a window in one forward pass; N is 2 to "
        "64. `auto` adapts N, `off` draws code by code. The pictures are the same, up to "
        "rounding.",
        metavar="auto|off|N",
    )
    sample_steps: int = option(
        32, "With a prior for any order: forward passes per picture, one after the other; fewer are faster.", low=8
    )
    batch_size: int = option(16, "Windows computed at once; affects memory and speed, not the pictures.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.speculate not in SPECULATE:
            raise UsageError(f"speculate is {self.speculate!r}; use auto, off, or 2 to {MOST_CELLS}")

    @property
    def cells_ahead(self) -> int:
        """The number of cells of each window that a forward pass computes: 0 adapts it, and 1 draws one by one."""
        return SPECULATE[self.speculate]
