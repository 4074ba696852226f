"""`info`: describe a file."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from taming_cli.cli.command import command
from taming_cli.cli.console import Output
from taming_cli.cli.formatting import value_text
from taming_cli.errors import BadFileError


@command("info")
def info(
    output: Output,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A model file, a token file, a published checkpoint.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The YAML file published with a checkpoint."),
    ] = None,
) -> int:
    """Describe a file: a model, tokens, or a published checkpoint."""
    values = _describe(file, config)
    lines = [f"{name.replace('_', ' '):<20} {value_text(value)}" for name, value in values.items()]
    output.result("\n".join(lines).split("\n"), values, short=values["kind"])
    return 0


def _describe(file: Path, config: Path | None) -> dict[str, Any]:
    from taming_cli.runtime.model_files import named

    file = named(file)
    if not file.exists():
        raise BadFileError(f"{file} does not exist")
    if file.suffix in (".h5", ".hdf5"):
        return _describe_tokens(file)
    from taming_cli.runtime.checkpoint import is_ours, load_model

    if not is_ours(file):
        from taming_cli.interop.load import describe

        return describe(file, config)
    model = load_model(file)
    parameters: Counter[str] = Counter()
    for name, tensor in model.tensors.items():
        if not name.startswith("extra."):
            part = "codec" if model.format == "taming-codec" else name.partition(".")[0]
            parameters[part] += tensor.numel()
    return {
        "kind": model.format.removeprefix("taming-"),
        **{f"{part}_parameters": count for part, count in sorted(parameters.items())},
        **model.about,
        "config": dict(model.config),
    }


def _describe_tokens(file: Path) -> dict[str, Any]:
    from taming_cli.data.tokens.file import TokenFile

    with TokenFile(file) as tokens:
        return {
            "kind": "token file",
            "pictures": len(tokens),
            "labels": len(tokens.label_names),
            **tokens.header.to_values(),
        }
