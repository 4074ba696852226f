"""`weights`: the pretrained weights that commands ask for, which of them are here, and getting them."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taming_cli.cli import options as o
from taming_cli.cli.console import Output
from taming_cli.cli.sheet import Sheet
from taming_cli.errors import BadFileError, Interrupted, MissingWeightsError, TamingError, UsageError

if TYPE_CHECKING:
    from taming_cli.pretrained.catalogue import Weights
    from taming_cli.runtime.weights import FetchResult, Location

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="As `taming weights ls` names them.", show_default=False),
]
STYLES = {"verified": "green", "present": "green", "missing": "yellow", "wrong sha256": "bold red"}
_PLACES = {"given": "--weights", "folder": "$TAMING_WEIGHTS_DIR", "cache": "the cache", "package": "its package"}
_NAME = 25
"""Characters of the usual names at the most."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Pretrained weights: list, verify and fetch them.", rich_markup_mode="rich")
    group.command("ls")(ls)
    group.command("verify")(verify)
    group.command("fetch")(fetch)
    app.add_typer(group, name="weights", rich_help_panel="Look")


def ls(
    every: Annotated[bool, typer.Option("--all", help="torchvision's other networks too.")] = False,
    weights: o.Weights = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """List the weights that commands ask for: what each is for, its file, and where it is."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.pretrained import catalogue

    table = catalogue.every() if every else catalogue.usual()
    found = {name: one.locate(given=_given(weights, one, table)) for name, one in table.items()}
    sheet = Sheet()
    for name, one in table.items():
        _block(sheet, one, found[name])
    here = [str(each.path) for each in found.values() if each.path is not None]
    values = {name: _values(one, found[name]) for name, one in table.items()}
    output.result(str(sheet), values, short="\n".join(here))
    more = "" if every else ", and --all lists torchvision's other networks"
    output.note(f"{len(here)} of {len(table)} are here; `taming weights fetch NAME` gets one{more}")
    return 0


def verify(
    names: Names = None,
    weights: o.Weights = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Read the weights that are here, compare their sha256: exit code 1 for one that is wrong, or named and missing."""
    output = Output(json=json, quiet=quiet)
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
            _say_verified(output, one, found)
            wrong = found.state == "wrong sha256" or (found.state == "missing" and names is not None)
            failed |= wrong
            if wrong:
                output.warn(f"{name} {_remedy(one, found)}")
    return 1 if failed else 0


def fetch(
    names: Names = None,
    every: Annotated[bool, typer.Option("--all", help="All that `taming weights ls` lists.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FOLDER", help="Folder for them, such as $TAMING_WEIGHTS_DIR; else torch's cache."
        ),
    ] = None,
    offline: o.Offline = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Download weights and verify them; what is here already is left, or copied to the folder of -o."""
    output = Output(json=json, quiet=quiet)
    if bool(names) == every:
        raise UsageError("name what to fetch (`taming weights ls` lists it), or give --all, one of the two")
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder")
    from taming_cli.pretrained import catalogue

    table = catalogue.usual() if every else catalogue.every()
    chosen = [catalogue.named(name, table) for name in names or table]
    failures: dict[str, TamingError] = {}
    for one in chosen:
        if every and isinstance(one, catalogue.ManualWeights):
            output.note(f"{one.name} is left out: it has no published checksum, and is taken by --weights FILE only")
            continue
        try:
            fetched = _fetch(output, one, out, offline)
        except (MissingWeightsError, BadFileError) as error:
            failures[one.name] = error
            continue
        text = f"{fetched.path}: {'fetched, and whole' if fetched.created else 'was there'}"
        output.result(
            text, {"name": one.name, "path": str(fetched.path), "made": fetched.created}, short=str(fetched.path)
        )
    if len(failures) > 1:
        first = next(iter(failures.values()))
        raise MissingWeightsError(f"{len(failures)} of {len(chosen)} are not here: {', '.join(failures)}; {first}")
    if failures:
        raise next(iter(failures.values()))
    return 0


def _fetch(output: Output, one: "Weights", out: Path | None, offline: bool) -> "FetchResult":
    """One of them, with a bar."""
    if one.own_bars:
        shown = output.errors.is_terminal and not output.quiet
        with _stopped_by_signals():
            return one.fetch(out, offline=offline, on_bytes=(lambda done, total: None) if shown else None)
    with _stopped_by_signals(), output.bar(f"fetching {one.name}", unit="MB") as bar:
        return one.fetch(
            out,
            offline=offline,
            on_bytes=lambda done, total: bar.update(done / 1e6, total=None if total is None else total / 1e6),
        )


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Meanwhile Ctrl-C and TERM end the work with an error, so that what is half written is removed."""

    def stop(number: int, frame: object) -> None:
        raise Interrupted("stopped; of this file nothing is kept: run the same again", 128 + number)

    before: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _given(weights: Path | None, one: "Weights", chosen: Mapping[str, "Weights"]) -> Path | None:
    """What `--weights` is for one of them: a folder is for all, a file for the one that is named alone, or so.
    UsageError where a file is for none."""
    if weights is None:
        return None
    if not weights.exists():
        raise UsageError(f"--weights {weights} does not exist; give a file, or a folder of files")
    if weights.is_dir() or len(chosen) == 1:
        return weights
    if weights.name not in {each.file for each in chosen.values()}:
        raise UsageError(
            f"--weights {weights} is not named as any of the files are; say what it is: "
            f"taming weights verify NAME --weights {weights}"
        )
    return weights if weights.name == one.file else None


def _block(sheet: Sheet, one: "Weights", found: "Location") -> None:
    """Three lines: name, size and state; what it is for; the file, or where it comes from."""
    state: str = found.state
    where = f" in {_PLACES[found.origin]}" if found.origin in ("cache", "package") else ""
    if found.origin in ("given", "folder"):
        where = f" by {_PLACES[found.origin]}"
    sheet.line((f"{one.name:<{_NAME}}", "bold"), f"{_megabytes(one.size):>8}  ", (state, STYLES[state]), where)
    sheet.line("    for ", says="; ".join(one.used_for))
    source = one.source if one.source.endswith(one.file) else f"{one.file}: {one.source}"
    sheet.line("    ", (str(found.path or source), "dim"))


def _say_verified(output: Output, one: "Weights", found: "Location") -> None:
    state: str = found.state
    sheet = Sheet()
    says = str(found.path or one.file)
    if found.state == "present":
        says += " (nothing is published to compare it with)"
    sheet.line((f"{state:<12}", STYLES[state]), f"  {one.name:<{_NAME}}  ", says=says)
    quietly = str(found.path) if found.state in ("verified", "present") else None
    if not output.quiet or output.json or quietly:
        output.result(str(sheet), {"name": one.name, **_values(one, found)}, short=quietly)


def _remedy(one: "Weights", found: "Location") -> str:
    """What to do about weights that are wrong, or missing."""
    if found.state == "missing":
        return f"is missing; `taming weights fetch {one.name}` gets it"
    return f"has other bytes than are published: remove {found.path}, then run `taming weights fetch {one.name}`"


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
