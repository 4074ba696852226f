"""Settings of `taming annotate`, one class for each kind of condition map."""

from dataclasses import dataclass
from typing import ClassVar

from taming_cli.config.fields import check, option
from taming_cli.config.kinds import CodecKind


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """Label maps by a torchvision network."""

    kind: ClassVar[CodecKind] = "segmentation"

    model: str = option(
        "deeplabv3_resnet50",
        "torchvision segmentation network: deeplabv3_resnet50, deeplabv3_resnet101, deeplabv3_mobilenet_v3_large, "
        "fcn_resnet50, fcn_resnet101 or lraspp_mobilenet_v3_large.",
        metavar="NAME",
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Depth maps by a transformers model."""

    kind: ClassVar[CodecKind] = "depth"

    model: str = option(
        "depth-anything/Depth-Anything-V2-Small-hf",
        "transformers depth model in safetensors format: a folder, or a name on the Hugging Face hub.",
        metavar="FOLDER|NAME",
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class PoseConfig:
    """Skeletons by torchvision's keypoint R-CNN."""

    kind: ClassVar[CodecKind] = "pose"

    score: float = option(0.75, "Draw persons with a higher probability than this.", low=0, high=1)
    joint_score: float = option(
        2.0, "Draw joints with a higher heatmap logit than this; a lower value includes hidden joints."
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class EdgesConfig:
    """Edges by the same rule as in `tokenize`."""

    kind: ClassVar[CodecKind] = "edges"


AnnotateConfig = SegmentationConfig | DepthConfig | PoseConfig | EdgesConfig
