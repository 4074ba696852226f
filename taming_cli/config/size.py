"""Sizes, width x height, and the position of a picture on a grid of cells."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taming_cli.errors import UsageError


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """The size of a picture in pixels, or of a grid in cells; written `WxH`."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise UsageError(f"size {self.width}x{self.height}: both sides must be at least 1")

    @classmethod
    def parse(cls, text: str) -> "Size":
        """`"1280x832"` -> Size(1280, 832); a single number is a square. UsageError for anything else."""
        match = re.fullmatch(r"\s*(\d{1,7})(?:\s*[xX×]\s*(\d{1,7}))?\s*", text)  # noqa: RUF001 - people paste the sign
        if match is None:
            raise UsageError(f"size {text!r} is not WIDTHxHEIGHT; write it as 256x256 or 1280x832")
        return cls(int(match[1]), int(match[2] or match[1]))

    def times(self, f: int) -> "Size":
        """The size with both sides multiplied by f."""
        return Size(f * self.width, f * self.height)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Frame:
    """The position of a picture of `size` pixels on a grid of cells of `f` x `f` pixels that covers it. Its upper left
    pixel is pixel `corner` (x, y) of the grid, in the first cell."""

    size: Size
    f: int
    corner: tuple[int, int] = (0, 0)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], f: int, grid: Size) -> "Frame":
        """The inverse of `to_values`; other values are ignored. Without a frame on this grid, the picture fills the
        grid."""
        try:
            x, y = values["corner"]
            frame = cls(Size.parse(values["size"]), f, (int(x), int(y)))
            return frame if frame.grid == grid and min(x, y) >= 0 and max(x, y) < f else cls(grid.times(f), f)
        except (KeyError, OverflowError, TypeError, ValueError, UsageError):
            return cls(grid.times(f), f)

    def to_values(self) -> dict[str, Any]:
        """The frame as a token file records it; nothing for pictures that fill the grid."""
        return {} if self.size == self.whole else {"size": str(self.size), "corner": list(self.corner)}

    @property
    def grid(self) -> Size:
        """The smallest grid that covers the picture, in cells."""
        width, height = (
            -(-(start + side) // self.f)
            for start, side in zip(self.corner, (self.size.width, self.size.height), strict=True)
        )
        return Size(width, height)

    @property
    def whole(self) -> Size:
        """The grid in pixels."""
        return self.grid.times(self.f)

    @property
    def place(self) -> tuple[slice, slice]:
        """The rows and columns of the picture among the grid's pixels."""
        left, top = self.corner
        return slice(top, top + self.size.height), slice(left, left + self.size.width)
