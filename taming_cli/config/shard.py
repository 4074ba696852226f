"""One part of a job that is split among several processes or machines: `--shard i/n`."""

import re
from dataclasses import dataclass

from taming_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` (from 1) of `count`: either every `count`-th item, so that parts take about the same time, or a
    contiguous range, so that parts can be joined in order."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(f"shard {self}: the first number is 1 to {max(1, self.count)}, as in 1/4, 2/4, 3/4, 4/4")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`"2/4"` -> Shard(2, 4). UsageError for anything else."""
        match = re.fullmatch(r"\s*(\d{1,7})\s*/\s*(\d{1,7})\s*", text)
        if match is None:
            raise UsageError(f"shard {text!r} is not I/N; write it as 1/4, 2/4, 3/4 or 4/4")
        return cls(int(match[1]), int(match[2]))

    @property
    def places(self) -> slice:
        """The items of this part in a list: every `count`-th one."""
        return slice(self.index - 1, None, self.count)

    def stretch(self, total: int) -> range:
        """The contiguous range of this part among `total` items; the ranges of all parts are nearly equally long."""
        return range((self.index - 1) * total // self.count, self.index * total // self.count)

    def spelled(self) -> str:
        """The part in words: `part 2 of 4`."""
        return f"part {self.index} of {self.count}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
