"""A line of metrics.jsonl: its `kind`, where in the training it is from, and figures by name."""

import math
from collections.abc import Mapping
from typing import Any

_PLACE = ("kind", "step", "images", "seconds")


def figures_in(line: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a line that are finite numbers."""
    return {name: value for name, value in line.items() if name not in _PLACE and is_number(value)}


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
