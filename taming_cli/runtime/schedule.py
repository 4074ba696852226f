"""How long a training lasts, and the learning rate along the way."""

import math
from dataclasses import dataclass

from taming_cli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A training's length in optimiser steps, in minutes of wall clock, or the first of both; 0 is no limit."""

    steps: int
    minutes: float

    def __post_init__(self) -> None:
        if not self.steps and not self.minutes:
            raise UsageError("steps and minutes are both 0: say how long to train with --steps or --minutes")

    def spent(self, step: int, seconds: float) -> float:
        """The share used after `step` steps and `seconds`: 0 at the start, at least 1 when it is time to stop."""
        return max(
            step / self.steps if self.steps else 0.0,
            seconds / (60 * self.minutes) if self.minutes else 0.0,
        )


def warm_up(step: int, warmup_steps: int) -> float:
    """Linear from 1/warmup to 1 over the first `warmup_steps` steps (step counts from 0)."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def cosine(spent: float, final: float) -> float:
    """Half a cosine from 1 at `spent` = 0 to `final` at 1 (Loshchilov & Hutter 2017, one cycle)."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, spent))))
