"""`import`: other people's model files."""

from pathlib import Path
from typing import Annotated

import typer

from taming_cli.cli import options as o
from taming_cli.cli.console import Output
from taming_cli.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("import", rich_help_panel="Use")(import_)


def import_(
    file: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A published checkpoint.")],
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="The yaml that came with it, which a prior needs.")
    ] = None,
    out: o.Out = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Turn a published checkpoint into a model file; nothing in it is run, and every tensor is accounted for."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.interop.load import import_file
    from taming_cli.runtime.checkpoint import save_model

    target = out or Path(file.name).with_suffix(".safetensors")
    if target.exists():
        raise UsageError(f"{target} exists; name another file with -o")
    found = import_file(file, config)
    save_model(target, found.model, found.tensors)
    kept = sum(name.startswith("extra.") for name in found.tensors)
    counts = [f"{len(found.tensors) - kept} tensors taken"]
    counts += [f"{kept} kept for an export"] if kept else []
    counts += [f"{count} left out ({reason})" for reason, count in found.dropped.items()]
    kind = found.model.format.removeprefix("taming-")
    output.result(
        f"{target}: a {kind}; {', '.join(counts)}",
        {
            "path": str(target),
            "kind": kind,
            "taken": len(found.tensors) - kept,
            "kept": kept,
            "dropped": dict(found.dropped),
        },
        short=str(target),
    )
    return 0
