"""`train-prior`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taming_cli.cli import options as o
from taming_cli.cli.console import Output
from taming_cli.cli.dry_run import say_estimate
from taming_cli.cli.launch import launched
from taming_cli.cli.training import architecture_of, last_word, take_up, teller
from taming_cli.config.prior import PriorConfig, PriorTrainConfig

if TYPE_CHECKING:
    from taming_cli.runtime.run.folder import Place


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train-prior", rich_help_panel="Train")(train_prior)


@o.with_flags(Training=PriorTrainConfig, Architecture=PriorConfig)
def train_prior(
    tokens: Annotated[
        list[Path] | None,
        typer.Argument(metavar="TOKENS...", help="Token files of one codec.", show_default=False),
    ] = None,
    codec: Annotated[
        Path | None, typer.Option("--codec", metavar="FILE", help="The codec, where the token file does not find it.")
    ] = None,
    cond_ckpt: Annotated[
        list[Path] | None,
        typer.Option("--cond-ckpt", metavar="FILE", help="A condition's codec, where the token file does not find it."),
    ] = None,
    preset: o.PresetName = None,
    config: o.Config = None,
    out: o.Out = None,
    name: o.Name = None,
    resume: o.Resume = False,
    dry_run: o.DryRun = False,
    nproc: o.Nproc = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
    *,
    flags: dict[str, Any],
) -> int:
    """Train a prior on token files: a run folder with its checkpoints, curves and samples."""
    if (code := launched(nproc, flags["device"], dry_run)) is not None:
        return code
    from taming_cli.codec.condition import renders
    from taming_cli.codec.locate import codec_for, condition_codecs
    from taming_cli.codec.tiling.tiles import pictures
    from taming_cli.data.tokens.file import TokenFile
    from taming_cli.prior.train import COMMAND, fit
    from taming_cli.report.page import write_report
    from taming_cli.runtime.distributed import world
    from taming_cli.runtime.processes import started
    from taming_cli.runtime.run.folder import Place

    output = Output(json=json, quiet=quiet, silent=not started().first)
    place = Place(out=out, name=name, resume=resume)
    usage = "name the token files to train on: taming train-prior tokens.h5"
    files, recorded = take_up(output, COMMAND, place, tokens, usage)
    resolved = o.settle(
        (PriorConfig, PriorTrainConfig),
        flags,
        command=COMMAND,
        preset_name=preset,
        config_file=config,
        recorded=recorded,
        fixed=architecture_of(flags["init"], "prior"),
    )
    prior_config, train = resolved.configs
    if dry_run:
        return _dry_run(output, files, prior_config, train, place, nproc)
    with TokenFile(files[0]) as first_file:
        network, model, path = codec_for(first_file.header, files[0], codec)
        conditions = condition_codecs(first_file.header, files[0], cond_ckpt or [], train.cond)
        shown = renders(first_file.header.conditions, conditions)
    output.note(f"codec: {path}")
    with world() as together, output.bar("training", total=1.0) as bar:
        trained = fit(
            files,
            prior=prior_config,
            train=train,
            codec=model,
            conditions=conditions,
            place=place,
            render=lambda codes: pictures(network, codes.cpu()),
            render_conditions=shown,
            origins=resolved.origins,
            on_step=teller(bar),
            write_report=write_report,
            world=together,
        )
    for note in trained.notes:
        output.note(note)
    last_word(output, trained)
    return 0


def _dry_run(
    output: Output, files: Sequence[Path], prior: PriorConfig, train: PriorTrainConfig, place: "Place", nproc: int
) -> int:
    from taming_cli.prior.batches import TokenSet
    from taming_cli.prior.estimate import estimate
    from taming_cli.prior.state import first_prior, fitted, saved_prior
    from taming_cli.prior.train import COMMAND, identity
    from taming_cli.runtime.device import pick_device, pick_precision
    from taming_cli.runtime.model_files import recorded
    from taming_cli.runtime.run.folder import inspect_run
    from taming_cli.runtime.run.resume import read_trainer

    data = TokenSet(files, kinds=train.cond)
    train = replace(train, init=recorded(train.init))
    found = inspect_run(COMMAND, place, **identity(files, prior, train, data))
    if found.folder is not None and found.saved:
        trainer = found.folder / "trainer.pt"
        prior = saved_prior(read_trainer(trainer, ("prior",)), train, str(trainer)).config
    else:
        prior = fitted(prior, data) if train.init is None else first_prior(prior, train, data).config
    device = pick_device(train.device)
    dtype = pick_precision(train.precision, device)
    rows, _ = data.split(train.held)
    tokens = prior.prefix_length + prior.cells - 1
    values = {"pictures": len(rows), "tokens_per_window": tokens, "tokens_per_step": tokens * train.batch_size}
    kinds = ", ".join(spec.kind for spec in prior.conditions) or "nothing"
    said = f"{len(rows)} pictures, windows of {prior.window} codes and {tokens} tokens, conditioned on {kinds}"
    return say_estimate(output, said, values, estimate(prior, train, dtype), train, device, dtype, nproc)
