"""`weights`: list, verify and download the pretrained weights that commands need."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taming_cli.cli import options as o
from taming_cli.cli.command import Group, command
from taming_cli.cli.console import Output
from taming_cli.cli.styled_text import StyledText
from taming_cli.errors import BadFileError, MissingWeightsError, TamingError, UsageError

if TYPE_CHECKING:
    from taming_cli.pretrained.catalogue import Weights
    from taming_cli.runtime.weights import FetchResult, Location

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Names as in `taming weights ls`."),
]
STYLES = {"verified": "green", "present": "green", "missing": "yellow", "wrong sha256": "bold red"}
_PLACES = {"given": "--weights", "folder": "$TAMING_WEIGHTS_DIR", "cache": "the cache", "package": "its package"}
_NAME = 25
"""Width of the column of names."""


@command("ls")
def ls(
    output: Output,
    every: Annotated[bool, typer.Option("--all", help="Include torchvision's other networks.")] = False,
    weights: o.Weights = None,
) -> int:
    """List the weights that commands need: what each is for, its file, and where it is."""
    from taming_cli.pretrained import catalogue

    table = catalogue.every() if every else catalogue.usual()
    found = {name: one.locate(given=_given(weights, one, table)) for name, one in table.items()}
    text = StyledText()
    for name, one in table.items():
        _block(text, one, found[name])
    here = [str(each.path) for each in found.values() if each.path is not None]
    values = {name: _values(one, found[name]) for name, one in table.items()}
    output.result(str(text), values, short="\n".join(here))
    more = "" if every else "; --all lists torchvision's other networks too"
    output.note(f"{len(here)} of {len(table)} are on this machine; `taming weights fetch NAME` downloads one{more}")
    return 0


@command("verify")
def verify(output: Output, names: Names = None, weights: o.Weights = None) -> int:
    """Verify the sha256 of weights on this machine. Exit code 1 for a wrong file, or a named one that is missing."""
    from taming_cli.pretrained import catalogue

    table = catalogue.every()
    chosen = {name: catalogue.named(name, table) for name in names or table}
    common = catalogue.usual()
    failed = False
    with output.bar("reading", len(chosen), "files") as bar:
        for number, (name, one) in enumerate(chosen.items()):
            bar.update(number, name)
            found = one.locate(given=_given(weights, one, chosen), verify=True)
            if found.state == "missing" and not names and name not in common:
                continue
            _print_verified(output, one, found)
            wrong = found.state == "wrong sha256" or (found.state == "missing" and names is not None)
            failed |= wrong
            if wrong:
                output.warn(f"{name} {_remedy(one, found)}")
    return 1 if failed else 0


@command("fetch")
def fetch(
    output: Output,
    names: Names = None,
    every: Annotated[bool, typer.Option("--all", help="Everything that `taming weights ls` lists.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="Folder to write, such as $TAMING_WEIGHTS_DIR. Default: torch's cache.",
        ),
    ] = None,
    offline: o.Offline = False,
) -> int:
    """Download and verify weights. Files on this machine are not downloaded again; -o copies them."""
    if bool(names) == every:
        raise UsageError("name the weights to fetch (see `taming weights ls`), or give --all; one of the two")
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder")
    from taming_cli.pretrained import catalogue

    table = catalogue.usual() if every else catalogue.every()
    chosen = [catalogue.named(name, table) for name in names or table]
    failures: dict[str, TamingError] = {}
    for one in chosen:
        if every and isinstance(one, catalogue.ManualWeights):
            output.note(f"{one.name} is left out: it has no published checksum, and is used by --weights FILE only")
            continue
        try:
            fetched = _fetch(output, one, out, offline)
        except (MissingWeightsError, BadFileError) as error:
            failures[one.name] = error
            continue
        text = f"{fetched.path}: {'downloaded and verified' if fetched.created else 'exists already'}"
        output.result(
            text, {"name": one.name, "path": str(fetched.path), "made": fetched.created}, short=str(fetched.path)
        )
    if len(failures) > 1:
        first = next(iter(failures.values()))
        raise MissingWeightsError(f"{len(failures)} of {len(chosen)} are missing: {', '.join(failures)}; {first}")
    if failures:
        raise next(iter(failures.values()))
    return 0


def _fetch(output: Output, one: "Weights", out: Path | None, offline: bool) -> "FetchResult":
    """Download one file, with a bar."""
    if one.own_bars:
        shown = output.errors.is_terminal and not output.quiet
        return one.fetch(out, offline=offline, on_bytes=(lambda done, total: None) if shown else None)
    with output.bar(f"fetching {one.name}", unit="MB") as bar:
        return one.fetch(
            out,
            offline=offline,
            on_bytes=lambda done, total: bar.update(done / 1e6, total=None if total is None else total / 1e6),
        )


def _given(weights: Path | None, one: "Weights", chosen: Mapping[str, "Weights"]) -> Path | None:
    """The path of `--weights` for one of `chosen`: a folder is for all, a file for the only one or the one of its name.
    UsageError for a file of no such name."""
    if weights is None:
        return None
    if not weights.exists():
        raise UsageError(f"--weights {weights} does not exist; give a file, or a folder of files")
    if weights.is_dir() or len(chosen) == 1:
        return weights
    if weights.name not in {each.file for each in chosen.values()}:
        raise UsageError(
            f"--weights {weights} has the name of none of the files; say which it is: "
            f"taming weights verify NAME --weights {weights}"
        )
    return weights if weights.name == one.file else None


def _block(text: StyledText, one: "Weights", found: "Location") -> None:
    """Three lines: name, size and state; use; the file, or its source."""
    state: str = found.state
    where = f" in {_PLACES[found.origin]}" if found.origin in ("cache", "package") else ""
    if found.origin in ("given", "folder"):
        where = f" by {_PLACES[found.origin]}"
    text.line((f"{one.name:<{_NAME}}", "bold"), f"{_megabytes(one.size):>8}  ", (state, STYLES[state]), where)
    text.line("    for ", wrapped="; ".join(one.used_for))
    source = one.source if one.source.endswith(one.file) else f"{one.file}: {one.source}"
    text.line("    ", (str(found.path or source), "dim"))


def _print_verified(output: Output, one: "Weights", found: "Location") -> None:
    state: str = found.state
    text = StyledText()
    path = str(found.path or one.file)
    if found.state == "present":
        path += " (no published checksum to compare with)"
    text.line((f"{state:<12}", STYLES[state]), f"  {one.name:<{_NAME}}  ", wrapped=path)
    quietly = str(found.path) if found.state in ("verified", "present") else None
    if not output.quiet or output.json or quietly:
        output.result(str(text), {"name": one.name, **_values(one, found)}, short=quietly)


def _remedy(one: "Weights", found: "Location") -> str:
    """What to do about wrong or missing weights."""
    if found.state == "missing":
        return f"is missing; `taming weights fetch {one.name}` downloads it"
    return f"differs from the published file: remove {found.path}, then run `taming weights fetch {one.name}`"


def _values(one: "Weights", found: "Location") -> dict[str, Any]:
    return {
        "state": found.state,
        "path": None if found.path is None else str(found.path),
        "origin": found.origin,
        "file": one.file,
        "bytes": one.size,
        "used_for": list(one.used_for),
        "source": one.source,
    }


def _megabytes(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


WEIGHTS = Group("weights", "List, verify and download pretrained weights.", (ls, verify, fetch))
