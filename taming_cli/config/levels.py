"""The levels of a codec's codes, of which a prior models one."""

from typing import Literal

Level = Literal["single", "top", "bottom"]
TOP_CONDITION = "top"
"""The condition of the bottom level: the top level's code at each cell."""
SCALE = 2
"""Cells of the bottom level along each side of a cell of the top level."""
