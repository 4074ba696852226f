"""What every result carries, so that it can be made again and compared: both sides, the network, the way, the versions;
and warnings where the field would warn."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor

import taming_cli
from taming_cli.config.size import Size
from taming_cli.data.batches import Skipped

FEW = 10_000
"""Pictures below which a distance of distributions is known to say too much: its bias falls with their number."""

_PACKAGES = ("torch", "torchvision", "torch-fidelity", "timm", "pillow", "numpy")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A result: `metric` as it may be quoted, its `values` by name, the first of which is the one that counts; the
    protocol; and what a reader of the number has to know besides."""

    metric: str
    values: Mapping[str, float]
    protocol: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """What stands behind the values: by picture, by class, by position."""

    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    """File names, and uint8 (3, H, W) drawings of it."""

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "metric": self.metric,
            **self.values,
            "protocol": dict(self.protocol),
            **({"details": dict(self.details)} if self.details else {}),
            "warnings": list(self.warnings),
            "skipped": dict(self.skipped),
        }


def named(short: str, general: str, network: Mapping[str, Any]) -> str:
    """`fid`, `fid-clean`, `fd-efficientnet-lite0`: the field's short name only where Inception saw the pictures.

    `network` is the stamp of what did.
    """
    own = short if network["name"] == "inception-v3-compat" else f"{general}-{network['name']}"
    return own if network["resize"] == "tf1" else f"{own}-{network['resize']}"


def versions() -> dict[str, str]:
    """Of this tool and of what computes."""
    found = {"taming": taming_cli.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree on the path
            found[package] = "unknown"
    return found


def warnings(
    sides: Mapping[str, Mapping[str, Any]],
    network: Mapping[str, Any],
    *,
    gaussian: bool = False,
    size: Size | None = None,
) -> tuple[str, ...]:
    """Of `sides` by their role (generated, reference), as they are in the protocol, seen by that network.

    `gaussian`: they are summed up by mean and covariance. `size`: all pictures were first cut to it.
    """
    said = []
    for role, side in sides.items():
        count = side.get("count")
        if count is not None and count < FEW:
            said.append(f"the {role} side has {count} pictures: scores of fewer than {FEW:,} do not compare")
        if gaussian and count is not None and count <= network["dimensions"]:
            said.append(f"the {role} side's covariance is singular: {count} pictures, {network['dimensions']} features")
        if side["form"] == "statistics":
            said.append(f"{side['name']} does not say how its statistics were taken")
    forms = {role: set(str(side["form"]).split()) for role, side in sides.items()}
    for role, form in forms.items():
        others = set().union(*(other for name, other in forms.items() if name != role))
        if "jpeg" in form and others and "jpeg" not in others and others != {"statistics"}:
            said.append(f"the {role} side is JPEG and the other is not: what JPEG leaves behind counts as a difference")
    said += _of_sizes(sides, size)
    if not network["known"]:
        said.append(f"the weights of {network['name']} are not the published ones (sha256 {network['sha256'][:12]})")
    return tuple(said)


def _of_sizes(sides: Mapping[str, Mapping[str, Any]], size: Size | None) -> list[str]:
    ends = {
        role: [Size.parse(side[end]) for end in ("smallest", "largest")]
        for role, side in sides.items()
        if "smallest" in side
    }
    every = [each for pair in ends.values() for each in pair]
    said = []
    if size is None and len({each.width / each.height for each in every}) > 1:
        said.append("pictures of several shapes are each stretched to a square; --size WxH cuts them alike first")
    if "reference" in ends:
        low = ends["reference"][0]
        asked = size or (ends["generated"][0] if "generated" in ends else None)
        if asked is not None and low.width * low.height < asked.width * asked.height:
            said.append(f"reference pictures of {low} are compared at {asked}: enlarged ones lack detail")
    return said
