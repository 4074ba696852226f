"""The result of a measurement, with everything needed to repeat and compare it: inputs, network, settings, versions;
and the warnings that apply to it."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor

import taming_cli
from taming_cli.config.size import Size
from taming_cli.data.batches import Skipped

MANY = 10_000
"""Number of images below which a distance between distributions is unreliable: its bias falls with their number."""

_PACKAGES = ("torch", "torchvision", "torch-fidelity", "timm", "pillow", "numpy")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A result: the metric's name, its values (the first is the main one), the protocol, and warnings."""

    metric: str
    values: Mapping[str, float]
    protocol: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """The values broken down by image, class or position."""

    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    """Drawings by file name, uint8 (3, H, W)."""

    def to_dict(self) -> dict[str, Any]:
        """Everything but the drawings, for JSON."""
        return {
            "metric": self.metric,
            **self.values,
            "protocol": dict(self.protocol),
            **({"details": dict(self.details)} if self.details else {}),
            "warnings": list(self.warnings),
            "skipped": dict(self.skipped),
        }


def metric_name(short: str, general: str, network: Mapping[str, Any]) -> str:
    """`fid`, `fid-clean`, `fd-efficientnet-lite0`: only Inception features get the published short name.

    `network` is the stamp of the feature network.
    """
    name = short if network["name"] == "inception-v3-compat" else f"{general}-{network['name']}"
    return name if network["resize"] == "tf1" else f"{name}-{network['resize']}"


def versions() -> dict[str, str]:
    """The versions of this tool, of Python and of the numerical packages."""
    installed = {"taming": taming_cli.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:  # a source tree on the path
            installed[package] = "unknown"
    return installed


def warnings_for(
    sides: Mapping[str, Mapping[str, Any]],
    network: Mapping[str, Any],
    *,
    gaussian: bool = False,
    size: Size | None = None,
) -> tuple[str, ...]:
    """The warnings for a comparison.

    `sides` are the protocols of the image sets by role ("generated", "reference"), `network` is the stamp of the
    feature network. `gaussian`: features are reduced to mean and covariance. `size`: all images were cropped to it.
    """
    warnings = []
    for role, side in sides.items():
        count = side.get("count")
        if count is not None and count < MANY:
            warnings.append(f"the {role} side has {count} pictures: scores of fewer than {MANY:,} are not comparable")
        if gaussian and count is not None and count <= network["dimensions"]:
            singular = f"{count} pictures, {network['dimensions']} features"
            warnings.append(f"the covariance of the {role} side is singular: {singular}")
        if side["form"] == "statistics":
            warnings.append(f"{side['name']} does not record how its statistics were computed")
    formats = {role: set(str(side["form"]).split()) for role, side in sides.items()}
    for role, own in formats.items():
        others = set().union(*(other for name, other in formats.items() if name != role))
        if "jpeg" in own and others and "jpeg" not in others and others != {"statistics"}:
            warnings.append(f"the {role} side is JPEG and the other is not: compression artefacts count as differences")
    warnings += _size_warnings(sides, size)
    if not network["known"]:
        digest = network["sha256"][:12]
        warnings.append(f"the weights of {network['name']} are not the published ones (sha256 {digest})")
    return tuple(warnings)


def _size_warnings(sides: Mapping[str, Mapping[str, Any]], size: Size | None) -> list[str]:
    extremes = {
        role: [Size.parse(side[end]) for end in ("smallest", "largest")]
        for role, side in sides.items()
        if "smallest" in side
    }
    every = [each for pair in extremes.values() for each in pair]
    warnings = []
    if size is None and len({each.width / each.height for each in every}) > 1:
        warnings.append("pictures of different aspect ratios are stretched to a square; crop them with --size WxH")
    if "reference" in extremes:
        smallest = extremes["reference"][0]
        compared = size or (extremes["generated"][0] if "generated" in extremes else None)
        if compared is not None and smallest.width * smallest.height < compared.width * compared.height:
            warnings.append(f"reference pictures of {smallest} are enlarged to {compared} and lack detail")
    return warnings
