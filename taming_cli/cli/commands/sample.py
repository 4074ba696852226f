"""`sample`: draw new pictures from a prior, or complete a picture."""

import json as json_module
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taming_cli.cli import options as o
from taming_cli.cli.command import Panel, command
from taming_cli.cli.console import Output, print_text
from taming_cli.cli.dry_run import would_sample
from taming_cli.cli.inputs import prior_path
from taming_cli.cli.processes import own_part, part_text
from taming_cli.cli.settings import Settings
from taming_cli.config.sampling import SampleConfig
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.sampling.files import SampleFile

FIRST = ("n", "class_name", "size", "cond", "complete", "mask", "redraw", "at", "ckpt", "out")
"""Parameters that `--help` lists first."""


def _corner(text: object) -> tuple[int, int]:
    """`X,Y` in pixels. Raises UsageError for anything else."""
    match = re.fullmatch(r"(\d+),(\d+)", str(text))
    if match is None:
        raise UsageError(f"--at is {text!r}; give two numbers of pixels, like 64,0")
    return int(match[1]), int(match[2])


@command("sample", first=FIRST, reads_pictures=True)
def sample(
    output: Output,
    flags: Annotated[Settings, Panel("Sampling", SampleConfig)],
    cond: Annotated[
        list[str] | None,
        typer.Option(
            "--cond",
            metavar="FILE",
            help="Condition map, or a folder with one for each picture; KIND=FILE if the prior has several kinds. "
            "people.json:NAME selects the keypoints of one picture.",
        ),
    ] = None,
    complete: Annotated[
        Path | None,
        typer.Option("--complete", metavar="IMAGE", help="Complete this picture; a larger --size extends it."),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            metavar="FILE",
            help="Mask: white parts are drawn; `upper-half` keeps the upper half of the picture.",
        ),
    ] = None,
    redraw: Annotated[
        str | None,
        typer.Option(
            "--redraw",
            metavar="MASK",
            help="With --complete SAMPLE: redraw the white parts of a picture that sample drew; its other codes stay.",
        ),
    ] = None,
    at: Annotated[
        Any,
        typer.Option(
            "--at",
            metavar="X,Y",
            parser=_corner,
            help="Upper left corner of the picture within a larger --size. Default: centred.",
        ),
    ] = None,
    ckpt: o.Ckpt = None,
    codec: Annotated[
        Path | None,
        typer.Option(
            "--codec", metavar="FILE", help="Codec with a fine-tuned decoder, instead of the prior's own codec."
        ),
    ] = None,
    above: Annotated[
        Path | None,
        typer.Option(
            "--above", metavar="FILE", help="With a prior of the bottom level of codes: the prior of the top level."
        ),
    ] = None,
    class_map: Annotated[
        Path | None,
        typer.Option(
            "--class-map",
            metavar="FILE",
            help="JSON that maps the prior's classes to the classifier's, if names differ.",
        ),
    ] = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
    out: Annotated[Path | None, o.written_to("Folder to write. Default: the next number under runs/sample/.")] = None,
    name: o.Name = None,
    first: Annotated[
        int, o.number("--first", low=0, help="Number of the first sample: --first 17 -n 1 draws sample 17 alone.")
    ] = 0,
    tokens: Annotated[
        Path | None, typer.Option("--tokens", metavar="FILE", help="Also write the codes, as a token file.")
    ] = None,
    npz: Annotated[
        Path | None,
        typer.Option("--npz", metavar="FILE", help="Also write the pictures as one array, in the ADM suite's format."),
    ] = None,
    shard: o.ShardText = None,
    device: o.Device = "auto",
    precision: Annotated[
        str,
        o.in_precision("auto: bf16 for priors with 1024 channels or more if the device supports it, else fp32."),
    ] = "auto",
    memory: o.Memory = None,
    dry_run: o.DryRun = False,
) -> int:
    """Draw new pictures. Writes a folder with PNGs and a grid of them."""
    from taming_cli.runtime.device import precision_name
    from taming_cli.runtime.run.folder import Place, find_run
    from taming_cli.sampling.files import write_samples
    from taming_cli.sampling.pipeline import Pipeline
    from taming_cli.sampling.request import resolve_request

    settings = flags.resolve(SampleConfig)
    part = own_part(output, shard)
    pipeline = Pipeline.load(
        prior_path(output, ckpt), codec=codec, above=above, device=device, precision=precision, memory=memory
    )
    used = precision_name(pipeline.precision)
    if precision == "auto" and used != "fp32":
        output.note(
            f"precision: {used}, faster here; --precision fp32 draws the same codes on every machine, up to rounding"
        )
    request = resolve_request(
        pipeline,
        settings,
        cond=cond,
        complete=complete,
        mask=mask,
        redraw=redraw,
        at=at,
        first=first,
        shard=part,
        folder=find_run("sample", Place(out=out, name=name)),
        tokens=tokens,
        npz=npz,
        class_map=class_map,
        weights=weights,
        offline=offline,
    )
    if request.repeats:
        learned = pipeline.trained_grid
        output.note(f"this prior learned whole pictures of {learned} codes: one of {request.grid} will repeat itself")
    if dry_run:
        return would_sample(output, request)

    shared = {"seed": request.config.seed, "precision": used}

    def print_json(file: "SampleFile") -> None:
        print_text(json_module.dumps(file.to_json(**shared), ensure_ascii=False))

    with output.bar("sampling", unit="cells") as bar:
        written = write_samples(
            request,
            on_sample=print_json if output.json else None,
            on_progress=lambda done, total: bar.update(done, total=total),
            on_decode=bar.within,
            on_bytes=bar.fetching,
        )
    if not output.json:
        grid = f"; together in {written.folder / 'grid.png'}" if written.files else ""
        output.result(
            f"{written.folder}: {len(written.files)} pictures{part_text(part)}{grid}", {}, short=str(written.folder)
        )
    return 0
