"""`info`, `tokens`, `presets`, `demo-data`: what looks at files, or makes the ones to begin with."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from taming_cli.cli import options as o
from taming_cli.cli.console import Output
from taming_cli.config.presets import PRESETS, preset
from taming_cli.config.size import Size
from taming_cli.errors import BadFileError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("info", rich_help_panel="Look")(info)
    tokens = typer.Typer(help="Check and join token files.", rich_markup_mode="rich")
    tokens.command("verify")(tokens_verify)
    tokens.command("merge")(tokens_merge)
    app.add_typer(tokens, name="tokens", rich_help_panel="Use")
    presets = typer.Typer(help="The named sets of settings.", rich_markup_mode="rich")
    presets.command("ls")(presets_ls)
    presets.command("show")(presets_show)
    app.add_typer(presets, name="presets", rich_help_panel="Look")
    app.command("demo-data", rich_help_panel="Look")(demo_data)


def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A model file, a token file, a published checkpoint.")],
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="The yaml that came with a published checkpoint.")
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Say what a file is and holds: a model, tokens, or a published checkpoint."""
    output = Output(json=json, quiet=quiet)
    values = _describe(file, config)
    lines = [f"{name.replace('_', ' '):<20} {_shown(value)}" for name, value in values.items()]
    output.result("\n".join(lines), values, short=values["kind"])
    return 0


def _describe(file: Path, config: Path | None) -> dict[str, Any]:
    from taming_cli.runtime.model_files import named

    file = named(file)
    if not file.exists():
        raise BadFileError(f"{file} does not exist")
    if file.suffix in (".h5", ".hdf5"):
        from dataclasses import asdict

        from taming_cli.data.tokens.file import TokenFile

        with TokenFile(file) as tokens:
            return {
                "kind": "token file",
                "pictures": len(tokens),
                "labels": len(tokens.label_names),
                **asdict(tokens.header),
            }
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


def _shown(value: Any) -> str:
    if value in ({}, [], None, ""):
        return "-"
    if isinstance(value, dict):
        return "\n" + "\n".join(
            f"    {name:<18} {_shown(inner).replace(chr(10), chr(10) + '    ')}" for name, inner in value.items()
        )
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(str, value[:8])) + (f", ... ({len(value)})" if len(value) > 8 else "")
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def tokens_verify(
    file: Annotated[Path, typer.Argument(metavar="TOKENS", help="Token file.")],
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Read every part of a token file: checksums, ranges, counts."""
    output = Output(json=json, quiet=quiet)
    from dataclasses import asdict

    from taming_cli.data.tokens.file import verify

    summary = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(verify(file)).items()}
    text = ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in summary.items() if value)
    output.result(f"{file} is whole: {text}", summary, short=str(file))
    return 0


def tokens_merge(
    files: Annotated[list[Path], typer.Argument(metavar="TOKENS...", help="Token files of one codec and size.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The token file to write.")],
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Join token files into one."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.data.tokens.merge import merge

    finished = merge(files, out)
    output.result(
        f"{finished.path}: {finished.count} pictures",
        {"path": str(finished.path), "count": finished.count},
        short=str(finished.path),
    )
    return 0


def presets_ls(json: o.Json = False, quiet: o.Quiet = False, debug: o.Debug = False) -> int:
    """List the presets."""
    output = Output(json=json, quiet=quiet)
    output.result(
        "\n".join(f"{name:<12} {value.about}" for name, value in PRESETS.items()),
        {name: value.about for name, value in PRESETS.items()},
        short="\n".join(PRESETS),
    )
    return 0


def presets_show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="|".join(PRESETS))],
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Print every setting of a preset, as a file that --config takes."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.config.codec import CodecConfig, CodecTrainConfig, DiscriminatorConfig
    from taming_cli.config.fields import to_dict
    from taming_cli.config.prior import PriorConfig, PriorTrainConfig
    from taming_cli.config.resolve import Layer, resolve

    chosen = preset(name)
    stages = {
        "train-vqgan": ((CodecConfig, DiscriminatorConfig, CodecTrainConfig), chosen.codec),
        "train-prior": ((PriorConfig, PriorTrainConfig), chosen.prior),
    }
    values: dict[str, dict[str, Any]] = {}
    for command, (classes, layer) in stages.items():
        values[command] = {}
        for config in resolve(classes, [Layer(f"preset {name}", layer)]).configs:
            values[command] |= to_dict(config)
    lines = []
    for command, settings in values.items():
        lines.append(f"[{command}]")
        lines += [f"{key} = {_toml(value)}" for key, value in settings.items() if value is not None]
    output.result("\n".join(lines), values, short="\n".join(lines))
    return 0


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def demo_data(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    count: Annotated[int, o.number("-n", "--count", low=1, help="Scenes.")] = 200,
    size: Annotated[
        str, o.option("--size", metavar="WxH", help="Size of the pictures. Default 256x256.", panel=None)
    ] = "256x256",
    seed: Annotated[int, o.number("--seed", low=0, help="Seed of the scenes.")] = 0,
    kind: Annotated[Literal["landscape", "figure"] | None, typer.Option("--kind", help="Only these.")] = None,
    workers: Annotated[
        int | None,
        o.number(
            "--workers",
            low=0,
            help="Processes that draw; else as many as pay.",
            envvar="TAMING_WORKERS",
        ),
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Draw a small data set of landscapes and figures, with segmentation, depth and pose maps and classes."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.scenes.folder import workers_for, write

    with output.bar("drawing", count, "scenes") as bar:
        folder = write(
            out,
            count=count,
            size=Size.parse(size),
            seed=seed,
            kind=kind,
            workers=workers_for(count) if workers is None else workers,
            on_item=lambda done, total: bar.update(done, total=total),
        )
    output.result(
        f"{folder}: {count} scenes; pictures in {folder / 'images'}",
        {"path": str(folder), "images": str(folder / "images"), "count": count},
        short=str(folder / "images"),
    )
    return 0
