"""An account of a file's tensors: each one is taken, or dropped for a reason that is told; what is left is an error."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from taming_cli.errors import BadFileError
from taming_cli.runtime.checkpoint import ModelFile
from taming_cli.runtime.stored import Stored


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A foreign model as ours: `model` without tensors; the `tensors` by the names of our file, still in theirs; and
    how many of the file's tensors were dropped, by reason."""

    model: ModelFile
    tensors: Mapping[str, Stored]
    dropped: Mapping[str, int]


@dataclass
class Ledger:
    """The tensors of the file `where` that are not yet accounted for."""

    where: str
    tensors: dict[str, Stored]
    dropped: Counter[str] = field(default_factory=Counter)

    def take(self, *prefixes: str) -> dict[str, Stored]:
        """All whose names begin with one of `prefixes`, by their names."""
        found = {name: tensor for name, tensor in self.tensors.items() if name.startswith(prefixes)}
        for name in found:
            del self.tensors[name]
        return found

    def drop(self, pattern: str, reason: str) -> None:
        """Leave out all whose whole names match."""
        for name in [name for name in self.tensors if re.fullmatch(pattern, name)]:
            del self.tensors[name]
            self.dropped[reason] += 1

    def close(self) -> dict[str, int]:
        """How many were dropped, by reason. BadFileError where one is not accounted for."""
        if self.tensors:
            names = ", ".join(sorted(self.tensors)[:3])
            more = f" and {len(self.tensors) - 3} more" if len(self.tensors) > 3 else ""
            raise BadFileError(f"{self.where} holds tensors that belong to no model known here: {names}{more}")
        return dict(self.dropped)
