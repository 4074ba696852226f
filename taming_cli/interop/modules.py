"""The weights of a pickled torch module, by their names in its state dict."""

from typing import Any

from taming_cli.errors import BadFileError
from taming_cli.interop.unpickler import Placeholder
from taming_cli.runtime.stored import Stored

DEEPEST = 64
"""Modules inside one another."""
MOST = 100_000
"""Modules in all. A pickle may refer to one module many times."""


def weights_of(module: Placeholder, where: str) -> dict[str, Stored]:
    """The parameters and buffers of a module and of those inside it; empty if it is something else. BadFileError if it
    contains itself, or more modules than any network."""
    found: dict[str, Stored] = {}
    visited = 0

    def visit(one: Any, prefix: str, depth: int) -> None:
        nonlocal visited
        visited += 1
        if depth > DEEPEST or visited > MOST:
            raise BadFileError(f"{where} has more modules inside one another than any network")
        state = one.state if isinstance(one, Placeholder) else {}
        for kind in ("_parameters", "_buffers"):
            of_kind = state.get(kind)
            for name, tensor in of_kind.items() if isinstance(of_kind, dict) else ():
                if isinstance(tensor, Stored):
                    found[f"{prefix}{name}"] = tensor
        modules = state.get("_modules")
        for name, inner in modules.items() if isinstance(modules, dict) else ():
            visit(inner, f"{prefix}{name}.", depth + 1)

    visit(module, "", 0)
    return found
