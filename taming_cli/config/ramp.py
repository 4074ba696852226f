"""A number that changes in the course of sampling, from its value at the first step to that at the last."""

import re
from dataclasses import dataclass

from taming_cli.errors import UsageError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True, slots=True)
class Ramp:
    """From `start` to `end`, linearly; written `START:END`."""

    start: float
    end: float

    @classmethod
    def parse(cls, text: str) -> "Ramp | float":
        """`"0.7:1"` -> Ramp(0.7, 1.0); a single number is that number. UsageError for anything else."""
        match = re.fullmatch(rf"\s*({_NUMBER})(?:\s*:\s*({_NUMBER}))?\s*", text)
        if match is None:
            raise UsageError(f"{text!r} is not a number; write it as 0.7, or as 0.7:1 where it changes")
        return float(match[1]) if match[2] is None else cls(float(match[1]), float(match[2]))

    def at(self, share: float) -> float:
        """The value at a share of the way, 0 to 1."""
        return self.start + (self.end - self.start) * share

    @staticmethod
    def value(given: "Ramp | float", share: float) -> float:
        """The value of a setting that may change, at a share of the way, 0 to 1."""
        return given.at(share) if isinstance(given, Ramp) else float(given)

    def __str__(self) -> str:
        return f"{self.start:g}:{self.end:g}"
