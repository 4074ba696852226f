"""`train-prior`: train a prior on token files."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taming_cli.cli import options as o
from taming_cli.cli.command import Panel, command
from taming_cli.cli.dry_run import print_estimate, where
from taming_cli.cli.processes import launched
from taming_cli.cli.settings import Settings
from taming_cli.cli.training import Training, architecture_of, print_result, progress_printer
from taming_cli.config.prior import PriorConfig, PriorTrainConfig

if TYPE_CHECKING:
    from torch import Tensor

FIRST = ("preset", "scale", "minutes", "steps", "out", "name", "resume")


@command("train-prior", first=FIRST)
def train_prior(
    run: Training,
    settings: Annotated[Settings, Panel("Training", PriorTrainConfig), Panel("Architecture", PriorConfig)],
    tokens: Annotated[
        list[Path] | None,
        typer.Argument(metavar="TOKENS...", help="Token files of one codec."),
    ] = None,
    codec: o.TokensCodec = None,
    cond_ckpt: Annotated[
        list[Path] | None,
        typer.Option("--cond-ckpt", metavar="FILE", help="A condition's codec, if it is not at the recorded path."),
    ] = None,
) -> int:
    """Train a prior on token files. Writes a run folder with checkpoints, curves and samples."""
    if (code := launched(run.nproc, settings.flags["device"], run.dry_run)) is not None:
        return code
    from taming_cli.codec.condition import codebooks, renders
    from taming_cli.codec.locate import codec_for, condition_codecs
    from taming_cli.codec.tiling.tiles import pictures
    from taming_cli.codec.vqgan import level_codebooks, with_top
    from taming_cli.data.tokens.levels import open_level
    from taming_cli.prior.train import COMMAND, fit
    from taming_cli.report.page import write_report
    from taming_cli.runtime.distributed import world

    usage = "name the token files to train on: taming train-prior tokens.h5"
    files, recorded = run.start(COMMAND, tokens, usage)
    resolved = settings.resolve(
        PriorConfig, PriorTrainConfig, recorded=recorded, fixed=architecture_of(settings.flags["init"], "prior")
    )
    prior, train = resolved.configs
    if run.dry_run:
        return _dry_run(run, files, prior, train)
    with open_level(files[0], prior.level) as first_file:
        network, model, path = codec_for(first_file.header, files[0], codec)
        conditions = condition_codecs(first_file.header, files[0], cond_ckpt or [], train.cond)
        shown = renders(first_file.header.conditions, conditions)
    run.output.note(f"codec: {path}")

    def draw(codes: "Tensor", given: "Mapping[str, Tensor]") -> "Tensor":
        return pictures(network, with_top(network, codes.cpu(), given))

    with world() as together, run.output.bar("training", total=1.0) as bar:
        trained = fit(
            files,
            prior=prior,
            train=train,
            codec=model,
            conditions=conditions,
            codebooks={} if train.init else {**level_codebooks(network, prior.level), **codebooks(conditions)},
            place=run.place,
            render=None if prior.level == "top" else draw,
            render_conditions=shown,
            origins=resolved.origins,
            on_step=progress_printer(bar),
            write_report=write_report,
            world=together,
        )
    for note in trained.notes:
        run.output.note(note)
    print_result(run.output, trained)
    return 0


def _dry_run(run: Training, files: Sequence[Path], prior: PriorConfig, train: PriorTrainConfig) -> int:
    from taming_cli.prior.batches import TokenSet
    from taming_cli.prior.estimate import estimate
    from taming_cli.prior.initial import first_prior, fitted, saved_prior
    from taming_cli.prior.train import COMMAND, identity
    from taming_cli.runtime.model_files import recorded
    from taming_cli.runtime.run.folder import inspect_run
    from taming_cli.runtime.run.resume import read_trainer

    data = TokenSet(files, kinds=train.cond, level=prior.level)
    train = replace(train, init=recorded(train.init))
    before = inspect_run(COMMAND, run.place, **identity(files, prior, train, data))
    if before.folder is not None and before.saved:
        trainer = before.folder / "trainer.pt"
        prior = saved_prior(read_trainer(trainer, ("prior",)), train, str(trainer)).config
    else:
        prior = fitted(prior, data) if train.init is None else first_prior(prior, train, data).config
    at = where(run.device_name, train.device, train.precision)
    rows, _ = data.split(train.held)
    tokens = prior.sequence_length
    values = {"pictures": len(rows), "tokens_per_window": tokens, "tokens_per_step": tokens * train.batch_size}
    kinds = ", ".join(spec.kind for spec in prior.conditions) or "nothing"
    text = f"{len(rows)} pictures, windows of {prior.window} codes and {tokens} tokens, conditioned on {kinds}"
    return print_estimate(run.output, text, values, estimate(prior, train, at.dtype), train, at, run.nproc)
