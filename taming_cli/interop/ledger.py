"""Accounting for a file's tensors: each is taken, or dropped for a reason; a remaining tensor is an error."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from taming_cli.errors import BadFileError
from taming_cli.runtime.checkpoint import ModelFile
from taming_cli.runtime.stored import Stored


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A converted model: `model` without tensors, `tensors` by their new names, still in the original file, and the
    number of dropped tensors by reason."""

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
        """Remove and return the tensors whose names start with one of `prefixes`."""
        taken = {name: tensor for name, tensor in self.tensors.items() if name.startswith(prefixes)}
        for name in taken:
            del self.tensors[name]
        return taken

    def drop(self, pattern: str, reason: str) -> None:
        """Drop the tensors whose full names match `pattern`."""
        for name in [name for name in self.tensors if re.fullmatch(pattern, name)]:
            del self.tensors[name]
            self.dropped[reason] += 1

    def close(self) -> dict[str, int]:
        """The number of dropped tensors by reason. BadFileError if a tensor is not accounted for."""
        if self.tensors:
            names = ", ".join(sorted(self.tensors)[:3])
            more = f" and {len(self.tensors) - 3} more" if len(self.tensors) > 3 else ""
            raise BadFileError(f"{self.where} has tensors that belong to no supported model: {names}{more}")
        return dict(self.dropped)
