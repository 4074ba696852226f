"""What to draw from a prior, and how a token is chosen from its logits."""

from dataclasses import dataclass
from typing import Literal

from taming_cli.config.fields import check, option
from taming_cli.config.size import Size


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """From logits to a token: `prior/decoding.py` is the only reader."""

    temperature: float = option(1.0, "Divides the logits: below 1 safer, above 1 wilder.", low=0.01, high=100)
    top_k: int = option(0, "Keep the k most likely codes; 0: all.", low=0)
    top_p: float = option(
        1.0, "Keep the most likely codes that together reach this probability; 1: all.", low=0, high=1
    )
    min_p: float = option(0.0, "Keep codes at least this share as likely as the most likely one.", low=0, high=1)
    guidance: float = option(
        1.0, "Pull towards the condition: unconditional + guidance x (conditional - unconditional); 1: none.", low=0
    )
    greedy: bool = option(False, "Always take the most likely code.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class SampleConfig(DecodingConfig):
    """What to draw."""

    n: int = option(1, "How many pictures.", low=1, flag="-n")
    seed: int = option(0, "Same seed, same pictures, whatever the batch size.", low=0, high=2**63 - 1)
    class_name: str | None = option(
        None,
        "Class to draw: its name, or '#N' for number N from 0, or N where classes have no names; none: any.",
        flag="--class",
    )
    size: Size | None = option(None, "Of the pictures, in pixels, any; none: as their map, or as in training.")
    candidates: int = option(
        1, "With --complete: so many fillings are drawn, and the one kept that what comes after it fits best.", low=1
    )
    keep: Literal["pixels", "codes"] = option(
        "pixels",
        "With --complete: `pixels` leaves what is known as it is, and fits the colours beside it; `codes` keeps its "
        "codes, and decodes all.",
    )
    accept_rate: float = option(
        1.0, "Draw n / rate and keep the n that --classifier gives their class the most; 1: all.", low=1e-4, high=1
    )
    classifier: str = option(
        "efficientnet-lite0",
        "That classifier: efficientnet-lite0 (no download) or one of torchvision, such as resnet50.",
        metavar="NAME",
    )
    stride: int = option(
        0, "Columns that share a window: 1 is the paper's procedure, more is faster; 0: half the window's.", low=0
    )
    batch_size: int = option(16, "Windows computed at once; changes memory and speed, not the pictures.", low=1)
