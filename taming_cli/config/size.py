"""Width x height, as people write it on a command line."""

import re
from dataclasses import dataclass

from taming_cli.errors import UsageError


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """A picture's size in pixels, or a grid's in cells; written `WxH`."""

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

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a picture of `size` pixels lies on a grid of cells of `f` x `f` pixels that covers it: its upper left
    pixel is pixel `corner` (x, y) of the grid, which lies in the first cell."""

    size: Size
    f: int
    corner: tuple[int, int] = (0, 0)

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
        return Size(self.f * self.grid.width, self.f * self.grid.height)

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the grid's pixels that are the picture's."""
        left, top = self.corner
        return slice(top, top + self.size.height), slice(left, left + self.size.width)
