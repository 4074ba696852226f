"""Facts about finished trainings, from their run folders."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors import safe_open

NATS = "val_nats_per_token"


class Point(NamedTuple):
    """A validation: optimiser steps, seconds of training, and held-out nats/token."""

    step: int
    seconds: float
    nats: float


def best(run: Path) -> Path:
    """The model to use."""
    return run / "checkpoints" / "best.safetensors"


def parameters(model: Path) -> int:
    """Of a codec's file, all parameters; of a prior's file, those of the prior."""
    with safe_open(model, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    of_prior = {name: shape for name, shape in shapes.items() if name.startswith("prior.")}
    chosen = of_prior or {name: shape for name, shape in shapes.items() if not name.startswith("extra.")}
    return sum(map(math.prod, chosen.values()))


def facts(name: str, run: Path) -> dict[str, Any]:
    """A row of the table of trainings: parameters, optimiser steps, pictures seen, minutes."""
    last = _lines(run)[-1]
    return {
        "training": name,
        "parameters": parameters(best(run)),
        "steps": last["step"],
        "pictures_seen": last["images"],
        "minutes": last["seconds"] / 60,
    }


def curve(run: Path) -> list[Point]:
    """The validations of a prior's training, in order."""
    return [
        Point(line["step"], line["seconds"], line[NATS])
        for line in _lines(run)
        if line["kind"] == "validation" and NATS in line
    ]


def at(points: Sequence[Point], place: float, by: Literal["step", "seconds"]) -> float | None:
    """Nats/token at a step or a second, linear between two validations; None before the first one. After the last one,
    that of the last."""
    if not points or place < getattr(points[0], by):
        return None
    for left, right in pairwise(points):
        start, end = getattr(left, by), getattr(right, by)
        if start <= place <= end:
            return left.nats + (right.nats - left.nats) * (0.0 if start == end else (place - start) / (end - start))
    return points[-1].nats


def lowest(points: Sequence[Point], place: float, by: Literal["step", "seconds"]) -> float | None:
    """The lowest nats/token until a step or a second, as a training keeps its best model; None before the first
    validation."""
    here = at(points, place, by)
    return None if here is None else min(here, *(point.nats for point in points if getattr(point, by) <= place))


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
