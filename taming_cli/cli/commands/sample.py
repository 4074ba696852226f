"""`sample`: draw new pictures from a prior."""

import json as json_module
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taming_cli.cli import options as o
from taming_cli.cli.command import Panel, command
from taming_cli.cli.console import Output, print_line
from taming_cli.cli.dry_run import would_sample
from taming_cli.cli.inputs import prior_path
from taming_cli.cli.processes import own_part
from taming_cli.cli.settings import Settings, suggest
from taming_cli.config.sampling import SampleConfig
from taming_cli.config.shard import Shard
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.sampling.files import Sampled
    from taming_cli.sampling.inpainting import Known
    from taming_cli.sampling.pipeline import Pipeline
    from taming_cli.sampling.rejection import Scorer

FIRST = ("n", "class_name", "size", "cond", "complete", "mask", "ckpt", "out", "seed")


@command("sample", first=FIRST, reads_pictures=True)
def sample(
    output: Output,
    flags: Annotated[Settings, Panel("Sampling", SampleConfig)],
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
    device: o.Device = "auto",
    precision: Annotated[
        str,
        o.in_precision("Arithmetic; by default auto: bf16 for priors from 1024 channels where it is fast, else fp32."),
    ] = "auto",
    memory: o.Memory = None,
    dry_run: o.DryRun = False,
) -> int:
    """Draw new pictures. Writes PNGs and a grid to the folder -o (by default under runs/sample/)."""
    from taming_cli.runtime.run.folder import Place, find_run, next_folder
    from taming_cli.sampling.files import plan_of, sample_to, write_npz
    from taming_cli.sampling.pipeline import Pipeline
    from taming_cli.sampling.rejection import accepted

    resolved = flags.resolve(SampleConfig)
    part = own_part(output, shard)
    path = prior_path(output, ckpt)
    pipeline = Pipeline.load(path, codec=codec, device=device, precision=precision, memory=memory)
    used = _precision(output, pipeline, precision)
    resolved = suggest(resolved, pipeline.suggested(bool(cond)))
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
            if output.json:
                _tell(picture, settings.seed, used)
    if npz is not None and numbers:
        pictures = [folder / f"{number:06d}.png" for number in numbers]
        write_npz(npz, pictures, pipeline.classes(settings, numbers, asked), made)
    if not output.json:
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
    print_line(json_module.dumps(line, ensure_ascii=False))


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
