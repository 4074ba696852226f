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
    locations = {name: entry.locate(given=_given(weights, entry, table)) for name, entry in table.items()}
    text = StyledText()
    for name, entry in table.items():
        _block(text, entry, locations[name])
    present = [str(each.path) for each in locations.values() if each.path is not None]
    values = {name: _values(entry, locations[name]) for name, entry in table.items()}
    output.result(text, values, short=present)
    more = "" if every else "; --all lists torchvision's other networks too"
    output.note(f"{len(present)} of {len(table)} are on this machine; `taming weights fetch NAME` downloads one{more}")
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
        for number, (name, entry) in enumerate(chosen.items()):
            bar.update(number, name)
            location = entry.locate(given=_given(weights, entry, chosen), verify=True)
            if location.state == "missing" and not names and name not in common:
                continue
            _print_verified(output, entry, location)
            wrong = location.state == "wrong sha256" or (location.state == "missing" and names is not None)
            failed |= wrong
            if wrong:
                output.warn(f"{name} {_remedy(entry, location)}")
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
    for entry in chosen:
        if every and isinstance(entry, catalogue.ManualWeights):
            output.note(f"{entry.name} is left out: it has no published checksum, and is used by --weights FILE only")
            continue
        try:
            fetched = _fetch(output, entry, out, offline)
        except (MissingWeightsError, BadFileError) as error:
            failures[entry.name] = error
            continue
        text = f"{fetched.path}: {'downloaded and verified' if fetched.created else 'exists already'}"
        output.result(
            text, {"name": entry.name, "path": str(fetched.path), "made": fetched.created}, short=str(fetched.path)
        )
    if len(failures) > 1:
        first = next(iter(failures.values()))
        raise MissingWeightsError(f"{len(failures)} of {len(chosen)} are missing: {', '.join(failures)}; {first}")
    if failures:
        raise next(iter(failures.values()))
    return 0


def _fetch(output: Output, entry: "Weights", out: Path | None, offline: bool) -> "FetchResult":
    """Download one file, with a bar."""
    if entry.own_bars:
        shown = output.errors.is_terminal and not output.quiet
        return entry.fetch(out, offline=offline, on_bytes=(lambda done, total: None) if shown else None)
    with output.bar(f"fetching {entry.name}", unit="MB") as bar:
        return entry.fetch(
            out,
            offline=offline,
            on_bytes=lambda done, total: bar.update(done / 1e6, total=None if total is None else total / 1e6),
        )


def _given(weights: Path | None, entry: "Weights", chosen: Mapping[str, "Weights"]) -> Path | None:
    """The path of `--weights` for one of the `chosen` entries: a folder applies to all, a file to the only entry or to
    the one with its name. UsageError for a file with another name."""
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
    return weights if weights.name == entry.file else None


def _block(text: StyledText, entry: "Weights", location: "Location") -> None:
    """Three lines: name, size and state; use; the file, or its source."""
    state: str = location.state
    where = f" in {_PLACES[location.origin]}" if location.origin in ("cache", "package") else ""
    if location.origin in ("given", "folder"):
        where = f" by {_PLACES[location.origin]}"
    text.line((f"{entry.name:<{_NAME}}", "bold"), f"{_megabytes(entry.size):>8}  ", (state, STYLES[state]), where)
    text.line("    for ", wrapped="; ".join(entry.used_for))
    source = entry.source if entry.source.endswith(entry.file) else f"{entry.file}: {entry.source}"
    text.line("    ", (str(location.path or source), "dim"))


def _print_verified(output: Output, entry: "Weights", location: "Location") -> None:
    state: str = location.state
    text = StyledText()
    path = str(location.path or entry.file)
    if location.state == "present":
        path += " (no published checksum to compare with)"
    text.line((f"{state:<12}", STYLES[state]), f"  {entry.name:<{_NAME}}  ", wrapped=path)
    quietly = str(location.path) if location.state in ("verified", "present") else None
    if not output.quiet or output.json or quietly:
        output.result(text, {"name": entry.name, **_values(entry, location)}, short=quietly)


def _remedy(entry: "Weights", location: "Location") -> str:
    """What to do about wrong or missing weights."""
    if location.state == "missing":
        return f"is missing; `taming weights fetch {entry.name}` downloads it"
    return f"differs from the published file: remove {location.path}, then run `taming weights fetch {entry.name}`"


def _values(entry: "Weights", location: "Location") -> dict[str, Any]:
    return {
        "state": location.state,
        "path": None if location.path is None else str(location.path),
        "origin": location.origin,
        "file": entry.file,
        "bytes": entry.size,
        "used_for": list(entry.used_for),
        "source": entry.source,
    }


def _megabytes(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


WEIGHTS = Group("weights", "List, verify and download pretrained weights.", (ls, verify, fetch))
