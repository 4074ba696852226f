"""`import` and `export`: model files of other programs, in and out."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from taming_cli.cli import options as o
from taming_cli.cli.command import command
from taming_cli.cli.console import Output
from taming_cli.errors import UsageError


@command("import", first=("out",))
def import_(
    output: Output,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="CHECKPOINT...", help="A published checkpoint; of a dVAE, its encoder and its decoder."),
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The YAML file published with it; a prior needs it."),
    ] = None,
    codec: Annotated[
        Path | None,
        typer.Option(
            "--codec", metavar="FILE", help="Codec of a prior that was published without it: a model file of taming."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        o.written_to("Model file to write. Default: CHECKPOINT's name with .safetensors, in the current folder."),
    ] = None,
    allow_non_finite: Annotated[
        bool, o.option("--allow-non-finite", help="Accept weights that are NaN or infinite.", panel=None)
    ] = False,
) -> int:
    """Convert a published checkpoint to a model file. Code in it is never run; every tensor is accounted for."""
    from taming_cli.interop.load import import_file
    from taming_cli.runtime.checkpoint import save_model
    from taming_cli.runtime.finite import marked

    file, *more = files
    target = out or Path(file.name).with_suffix(".safetensors")
    if target.exists():
        raise UsageError(f"{target} exists; name another file with -o")
    imported = import_file(file, config, more=more, codec=codec, allow_non_finite=allow_non_finite)
    save_model(target, imported.model, imported.tensors)
    if names := marked(imported.model.about):
        output.warn(f"{file}: {len(names)} tensors are not finite: {', '.join(names)}")
    kept = sum(name.startswith("extra.") for name in imported.tensors)
    taken = len(imported.tensors) - kept
    counts = [f"{taken} tensors imported"]
    counts += [f"{kept} kept for an export"] if kept else []
    counts += [f"{count} left out ({reason})" for reason, count in imported.dropped.items()]
    kind = imported.model.format.removeprefix("taming-")
    output.result(
        f"{target}: a {kind}; {', '.join(counts)}",
        {"path": str(target), "kind": kind, "taken": taken, "kept": kept, "dropped": dict(imported.dropped)},
        short=str(target),
    )
    return 0


@command("export")
def export(
    output: Output,
    file: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file of taming.")],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="PATH", help="The .ckpt file to write; for diffusers, a folder."),
    ],
    to: Annotated[
        Literal["compvis", "diffusers"],
        typer.Option("--to", help="The layout: that of the published code, or diffusers' VQModel."),
    ] = "compvis",
) -> int:
    """Write a model file in the layout of another program."""
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
