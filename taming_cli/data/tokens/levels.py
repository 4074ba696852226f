"""One level of a token file of two levels of codes, for a prior of that level."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taming_cli.config.levels import SCALE, TOP_CONDITION, Level
from taming_cli.data.tokens.file import Rows, TokenFile
from taming_cli.data.tokens.header import RULE, TOP, ConditionHeader
from taming_cli.errors import UsageError


class LevelFile(TokenFile):
    """The codes of one level as if they were all of the file. The top level has no maps; to the bottom level, the top
    level's codes are a condition, on 2 x 2 cells each. Raises `UsageError` for a file of one level."""

    def __init__(self, path: str | os.PathLike[str], level: Level) -> None:
        super().__init__(path)
        self.level, header = level, self.header
        self._top_size = header.top_codebook_size
        if not header.top_codebook_size:
            raise UsageError(f"{self.path} has one level of codes; leave --level out")
        if level == "top":
            self.header = replace(
                header,
                height=header.height // SCALE,
                width=header.width // SCALE,
                codebook_size=header.top_codebook_size,
                downsample_factor=header.downsample_factor * SCALE,
                top_codebook_size=0,
                conditions={},
            )
        else:
            top = ConditionHeader(codec_sha256=f"{RULE}{TOP_CONDITION}", codebook_size=header.top_codebook_size)
            self.header = replace(header, conditions={**header.conditions, TOP_CONDITION: top})

    def codes(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Return (n, V, h, w) int64 codes of the level, of the samples at `rows`."""
        return self._codes_of_top(rows) if self.level == "top" else super().codes(rows)

    def condition(self, kind: str, rows: Rows) -> npt.NDArray[np.int64]:
        """As of `TokenFile`."""
        if self.level == "bottom" and kind == TOP_CONDITION:
            return self._codes_of_top(rows).repeat(SCALE, axis=2).repeat(SCALE, axis=3)
        return super().condition(kind, rows)

    def _codes_of_top(self, rows: Rows) -> npt.NDArray[np.int64]:
        return self._codes(TOP, rows, self._top_size)

    def __reduce__(self) -> tuple[Any, ...]:
        return LevelFile, (self.path, self.level)


def open_level(path: Path, level: Level) -> TokenFile:
    """A token file, or one level of it. UsageError where the file has two levels and `level` is "single", or one level
    and `level` is another."""
    if level != "single":
        return LevelFile(path, level)
    file = TokenFile(path)
    if file.header.top_codebook_size:
        raise UsageError(f"{path} has two levels of codes; a prior is for one: --level top, or --level bottom")
    return file
