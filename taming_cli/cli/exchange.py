"""`import` and `export`: other people's model files, in and out."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from taming_cli.cli import options as o
from taming_cli.cli.console import Output
from taming_cli.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("import", rich_help_panel="Use")(import_)
    app.command("export", rich_help_panel="Use")(export)


def import_(
    file: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A published checkpoint.")],
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="The yaml that came with it, which a prior needs.")
    ] = None,
    out: o.Out = None,
    allow_non_finite: Annotated[
        bool,
        o.option("--allow-non-finite", help="Import it though weights are NaN or infinite.", panel=None),
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Turn a published checkpoint into a model file; nothing in it is run, and every tensor is accounted for."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.interop.load import import_file
    from taming_cli.runtime.checkpoint import save_model
    from taming_cli.runtime.finite import marked

    target = out or Path(file.name).with_suffix(".safetensors")
    if target.exists():
        raise UsageError(f"{target} exists; name another file with -o")
    found = import_file(file, config, allow_non_finite=allow_non_finite)
    save_model(target, found.model, found.tensors)
    if names := marked(found.model.about):
        output.warn(f"{file}: {len(names)} tensors are not finite: {', '.join(names)}")
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


def export(
    file: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file of taming.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="PATH", help="A .ckpt file, or for diffusers the folder to write.")
    ],
    to: Annotated[
        Literal["compvis", "diffusers"], typer.Option("--to", help="Whose layout: the authors', or diffusers' VQModel.")
    ] = "compvis",
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Write a model in the layout of another program, so that it works there."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.interop import compvis_export, diffusers
    from taming_cli.runtime.checkpoint import load_model

    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UsageError(f"{out} exists; name another place with -o")
    model = load_model(file)
    if to == "diffusers":
        diffusers.export_folder(model, out)
        output.result(f"{out}: a VQModel", {"path": str(out)}, short=str(out))
        return 0
    config = compvis_export.export_checkpoint(model, out)
    output.result(f"{out}, with {config}", {"path": str(out), "config": str(config)}, short=str(out))
    return 0
