"""`train-prior`, `sample`."""

import json as json_module
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taming_cli.cli import options as o
from taming_cli.cli.console import Output, say
from taming_cli.cli.dry_run import say_estimate, would_sample
from taming_cli.cli.launch import launched
from taming_cli.cli.training import architecture_of, last_word, take_up, teller
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.sampling import SampleConfig
from taming_cli.config.shard import Shard
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.runtime.run.folder import Place
    from taming_cli.sampling.files import Sampled
    from taming_cli.sampling.inpainting import Known
    from taming_cli.sampling.pipeline import Pipeline
    from taming_cli.sampling.rejection import Scorer


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("train-prior", rich_help_panel="Train")(train_prior)
    app.command("sample", rich_help_panel="Use")(sample)


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


@o.reads_pictures
@o.with_flags(Sampling=SampleConfig)
def sample(
    ckpt: o.Ckpt = None,
    codec: Annotated[
        Path | None,
        typer.Option("--codec", metavar="FILE", help="Codec with a decoder trained further, in place of the prior's."),
    ] = None,
    cond: Annotated[
        list[str] | None,
        typer.Option(
            "--cond",
            metavar="FILE",
            help="Condition map, or a folder with one for each picture; KIND=FILE where the prior takes several kinds. "
            "people.json:NAME chooses one picture's keypoints.",
        ),
    ] = None,
    complete: Annotated[
        Path | None,
        typer.Option("--complete", metavar="IMAGE", help="Complete this picture; a larger --size continues it around."),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask", metavar="FILE", help="What to make of it is white; `upper-half` keeps that and makes the lower."
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="X,Y", help="Its upper left corner in a larger --size; by default in the middle."),
    ] = None,
    class_map: Annotated[
        Path | None,
        typer.Option(
            "--class-map", metavar="FILE", help="JSON from the prior's classes to the classifier's, where names differ."
        ),
    ] = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
    out: o.Out = None,
    name: o.Name = None,
    first: Annotated[
        int, o.number("--first", low=0, help="Number of the first sample: --first 17 -n 1 is the 18th of any set.")
    ] = 0,
    tokens: Annotated[
        Path | None, typer.Option("--tokens", metavar="FILE", help="Also write the codes, as a token file.")
    ] = None,
    npz: Annotated[
        Path | None,
        typer.Option("--npz", metavar="FILE", help="Also write the pictures as one array, as the ADM suite reads it."),
    ] = None,
    shard: o.ShardText = None,
    config: o.Config = None,
    device: o.Device = "auto",
    precision: Annotated[
        str,
        o.in_precision("Arithmetic; by default auto: bf16 for priors from 1024 channels where it is fast, else fp32."),
    ] = "auto",
    memory: o.Memory = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
    *,
    flags: dict[str, Any],
) -> int:
    """Draw new pictures: PNGs and a grid, in the folder -o (by default under runs/sample/)."""
    output = Output(json=json, quiet=quiet)
    from taming_cli.cli.models import prior_path
    from taming_cli.runtime.run.folder import Place, find_run, next_folder
    from taming_cli.sampling.files import plan_of, sample_to, write_npz
    from taming_cli.sampling.pipeline import Pipeline
    from taming_cli.sampling.rejection import accepted

    resolved = o.settle((SampleConfig,), flags, command="sample", config_file=config)
    part = o.own_part(output, shard)
    path = prior_path(output, ckpt)
    pipeline = Pipeline.load(path, codec=codec, device=device, precision=precision, memory=memory)
    used = _precision(output, pipeline, precision)
    resolved = o.suggest(resolved, pipeline.suggested(bool(cond)))
    (settings,) = resolved.configs
    hole = _hole(pipeline, settings, complete, mask, at)
    asked = pipeline.ask(settings, _maps(pipeline.kinds, cond or []), hole)
    pipeline.classes(settings, [first], asked)  # a wrong one is refused before anything is made
    if resolved.origins["n"] == "default":
        settings = replace(settings, n=max(1, len(asked.names)))
    if pipeline.repeats(asked.latent):
        output.note(
            f"this prior learned whole pictures of {pipeline.learned} codes: one of {asked.latent} will repeat itself"
        )
    place = find_run("sample", Place(out=out, name=name))
    _check_part(part, gathers=bool(tokens or npz) or settings.accept_rate < 1, out=place)
    if dry_run:
        return would_sample(output, pipeline, settings, asked, part, place)
    scorer = _scorer(output, pipeline, settings, class_map, weights, offline) if settings.accept_rate < 1 else None
    stamp = None if scorer is None else scorer.stamp
    numbers: Sequence[int] = range(first, first + settings.n)
    made = "" if npz is None else _free_way(npz, {**plan_of(pipeline, settings, asked, numbers), "judge": stamp})
    folder = place or next_folder(Path("runs") / "sample")
    count = 0
    with output.bar("sampling", unit="cells") as bar:

        def on_progress(done: int, total: int) -> None:
            bar.update(done, total=total)

        numbers = numbers[part.places]
        if scorer is not None:
            numbers = accepted(pipeline, settings, folder, scorer, asked=asked, first=first, on_progress=on_progress)
        for picture in sample_to(
            pipeline,
            settings,
            folder,
            asked=asked,
            numbers=numbers,
            tokens=tokens,
            ckpt=path,
            on_progress=on_progress,
            on_decode=bar.within,
        ):
            count += 1
            if json:
                _tell(picture, settings.seed, used)
    if npz is not None and numbers:
        pictures = [folder / f"{number:06d}.png" for number in numbers]
        write_npz(npz, pictures, pipeline.classes(settings, numbers, asked), made)
    if not json:
        together = f"; together in {folder / 'grid.png'}" if count else ""
        said = f", {part.spelled()}" if part.count > 1 else ""
        output.result(f"{folder}: {count} pictures{said}{together}", {}, short=str(folder))
    return 0


def _precision(output: Output, pipeline: "Pipeline", asked: str) -> str:
    """The precision that is used, said where it was chosen and another machine would draw another picture."""
    from taming_cli.runtime.device import precision_name

    used = precision_name(pipeline.precision)
    if asked == "auto" and used != "fp32":
        output.note(f"precision: {used}, faster here; --precision fp32 draws the same codes on every machine")
    return used


def _hole(
    pipeline: "Pipeline", settings: SampleConfig, complete: Path | None, mask: str | None, at: str | None
) -> "Known | None":
    """What is known of a picture to complete; None where none is named."""
    from taming_cli.sampling.inpainting import known

    if complete is not None:
        return known(pipeline.codec, complete, mask, size=settings.size, at=_corner(at), budget=pipeline.space.encode)
    if mask or at:
        raise UsageError("--mask and --at belong to a picture that is completed; name it with --complete")
    return None


def _check_part(part: Shard, *, gathers: bool, out: Path | None) -> None:
    """UsageError where a part of the samples is to be drawn by a command that needs all of them."""
    if part.count > 1 and (gathers or out is None):
        raise UsageError(
            "--shard draws a part of one folder, named with -o; --npz and --tokens gather all of it: give them to the "
            "same command without --shard afterwards, and --accept-rate there too"
        )


def _tell(picture: "Sampled", seed: int, precision: str) -> None:
    """A line of JSON."""
    from taming_cli.codec.reconstruct import DECODING, decoding

    line = {"path": str(picture.path), "sample": picture.sample, "seed": seed, "class": picture.label}
    line |= {"size": str(picture.size), "precision": precision, DECODING: decoding(picture.exact)}
    line |= {"cond": picture.map} if picture.map is not None else {}
    say(json_module.dumps(line, ensure_ascii=False))


def _free_way(npz: Path, plan: dict[str, Any]) -> str:
    """What an array of these pictures says that it was made of. UsageError where something else is in its way."""
    from hashlib import sha256

    from taming_cli.data.arrays import made_of

    made = sha256(json_module.dumps(plan).encode()).hexdigest()
    if npz.is_dir():
        raise UsageError(f"{npz} is a folder; name a file for the array")
    if npz.exists() and made_of(npz) != made:
        raise UsageError(f"{npz} exists and holds other pictures; name another file or remove it")
    return made


def _maps(kinds: Sequence[str], given: Sequence[str]) -> dict[str, Path]:
    """`KIND=FILE`, or FILE alone where the prior takes but one kind of map."""
    from taming_cli.data.conditions.pairs import chosen

    maps: dict[str, Path] = {}
    for text in given:
        kind, equals, path = text.partition("=")
        if not equals or (kind not in kinds and chosen(Path(text)).file.exists()):
            if len(kinds) != 1:
                has = f"several kinds of map; say which: {kinds[0]}={text}" if kinds else "no map: leave --cond out"
                raise UsageError(f"this prior takes {has}")
            kind, path = kinds[0], text
        if kind in maps:
            raise UsageError(f"{kind} maps are given twice: {maps[kind]} and {path}")
        if not chosen(Path(path)).file.exists():
            raise UsageError(f"{path}: no such file or folder")
        maps[kind] = Path(path)
    return maps


def _corner(text: str | None) -> tuple[int, int] | None:
    """`X,Y` in pixels."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+),(\d+)", text)
    if found is None:
        raise UsageError(f"--at is {text!r}; give two numbers of pixels, like 64,0")
    return int(found[1]), int(found[2])


def _scorer(
    output: Output,
    pipeline: "Pipeline",
    settings: SampleConfig,
    class_map: Path | None,
    weights: Path | None,
    offline: bool,
) -> "Scorer":
    """The classifier, and its class for each of the prior's that may be drawn."""
    from taming_cli.pretrained.class_names import match, read_mapping
    from taming_cli.pretrained.classifiers import build
    from taming_cli.sampling.rejection import Scorer

    with output.bar("loading") as bar:
        classifier = build(settings.classifier, weights=weights, offline=offline, on_bytes=bar.fetching)
    classifier = classifier.to(pipeline.device)
    labels = [pipeline.label(index) for index in range(pipeline.gpt.config.num_classes)]
    needed = None if settings.class_name is None else [pipeline.class_index(settings.class_name)]
    mapping = read_mapping(class_map) if class_map is not None else None
    return Scorer(classifier, match(labels, classifier, mapping, needed=needed))
