"""What every result carries, so that it can be made again and compared: both sides, the network, the way, the versions;
and warnings where the field would warn."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor

import taming_cli
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


def versions() -> dict[str, str]:
    """Of this tool and of what computes."""
    found = {"taming": taming_cli.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree on the path
            found[package] = "unknown"
    return found


def warnings(sides: Mapping[str, Mapping[str, Any]], network: Mapping[str, Any], *, gaussian: bool) -> tuple[str, ...]:
    """Of `sides` by their role (generated, reference), as they are in the protocol, seen by that network; `gaussian`
    where they are summed up by mean and covariance, whose distance is biased in small sets."""
    said = []
    for role, side in sides.items() if gaussian else ():
        if side.get("count", FEW) < FEW:
            said.append(f"the {role} side has {side['count']} pictures: below {FEW:,} the distance is biased upwards")
        if side.get("count", network["dimensions"] + 1) <= network["dimensions"]:
            said.append(
                f"the {role} side's covariance is singular: {side['count']} pictures, {network['dimensions']} features"
            )
    forms = {role: set(str(side["form"]).split()) for role, side in sides.items()}
    for role, form in forms.items():
        others = set().union(*(other for name, other in forms.items() if name != role))
        if "jpeg" in form and others and "jpeg" not in others and others != {"statistics"}:
            said.append(f"the {role} side is JPEG and the other is not: what JPEG leaves behind counts as a difference")
    generated, reference = sides.get("generated", {}), sides.get("reference", {})
    if "smallest" in reference and "smallest" in generated:
        low, high = _area(reference["smallest"]), _area(generated["smallest"])
        if low < high:
            said.append(
                f"reference pictures of {reference['smallest']} are compared with generated ones of "
                f"{generated['smallest']}: enlarged ones lack detail"
            )
    if not network["known"]:
        said.append(f"the weights of {network['name']} are not the published ones (sha256 {network['sha256'][:12]})")
    return tuple(said)


def _area(size: str) -> int:
    width, height = size.split("x")
    return int(width) * int(height)
