"""For `scripts/recipes`: recipes of training a codec, compared on pictures of one's own."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from at_once import run_all
from commands import STOPPED, Commands, FailedError, note
from comparison import Measured, Stages, best_codecs, table
from decoders import DECODERS, best_with_prior, measure_decoder
from held_out import Parts, link, split
from PIL import Image
from request import FREE_FEATURES, Parser, RecipesRequest
from runs import best, facts
from sheet import Row, png
from stage import distance, errors_and_use, reconstruction_distance, sample, tokenize, train_codec, train_prior
from table import Table
from variants import DEFAULT, VARIANTS, chosen

from taming_cli.config.size import Size
from taming_cli.data.images import apply, centre_crop, read_rgb, save_png
from taming_cli.data.sources import list_items
from taming_cli.errors import TamingError, UsageError

SHOWN = 8
"""Held-out pictures on the sheet."""
Values = dict[str, Any]
"""What was measured with a variant and a seed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure, write and print the tables. -> The exit code: 0; 1 if variants are left out because they failed;
    or that of the error, which is printed as one line."""
    try:
        request = read(arguments)
        os.environ["OMP_NUM_THREADS"] = "1"  # for the commands
        written = make(request, Commands(request.out, logs=request.jobs > 1))
    except TamingError as error:
        print(f"recipes: {error}", file=sys.stderr)
        return error.exit_code
    print(written.markdown(), end="")
    note(f"written: {request.out / 'recipes'}.md and .json; pictures: recipes.png beside them")
    for name, why in written.more["failed"].items():
        print(f"recipes: {name} is left out: {why}", file=sys.stderr)
    return 1 if written.more["failed"] else 0


def read(arguments: Sequence[str] | None) -> RecipesRequest:
    """The request of a command line. UsageError for what is not one."""
    parser = Parser(
        prog="recipes",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    names = ", ".join(VARIANTS)
    parser.add_argument("images", type=Path, metavar="IMAGES", help="a folder of pictures")
    parser.add_argument("--variants", metavar="NAME,NAME", help=f"some of {names}; default is always compared")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME=FLAGS", help="one of your own")
    parser.add_argument("--minutes", type=float, default=8, help="time of each training of a codec")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each variant")
    parser.add_argument("--size", default="128x128", metavar="WxH", help="size of all pictures")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: runs/recipes/NAME, that of IMAGES")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trainings at once, each with one thread")
    parser.add_argument("--weights", type=Path, metavar="FILE", help=f"of Inception; else features of {FREE_FEATURES}")
    parser.add_argument("--priors", type=int, default=0, metavar="N", help="also train priors of the N best variants")
    parser.add_argument("--prior-minutes", type=float, metavar="M", help="time of each; default: that of a codec")
    parser.add_argument("--samples", type=int, default=200, metavar="N", help="samples of each prior")
    parser.add_argument(
        "--decoder-minutes", type=float, default=0, metavar="M", help="also train the best codec's decoder further"
    )
    asked = parser.parse_args(arguments)
    if asked.weights is not None and not asked.weights.exists():
        raise UsageError(f"{asked.weights} does not exist")
    if asked.prior_minutes is None:
        asked.prior_minutes = asked.minutes
    least = {"seeds": 1, "jobs": 1, "priors": 0, "samples": 2}
    for name, low in least.items():
        if getattr(asked, name) < low:
            raise UsageError(f"{name} is {getattr(asked, name)}; use at least {low}")
    if min(asked.minutes, asked.prior_minutes) <= 0:
        raise UsageError(f"minutes is {asked.minutes:g} and prior-minutes {asked.prior_minutes:g}; use more than 0")
    if asked.decoder_minutes < 0 or (asked.decoder_minutes and not asked.priors):
        raise UsageError(f"decoder-minutes is {asked.decoder_minutes:g}; use more than 0, with --priors")
    values = vars(asked) | {
        "table": "recipes",
        "variants": chosen(asked.variants, asked.variant),
        "size": Size.parse(asked.size),
        "out": asked.out or Path("runs/recipes") / asked.images.resolve().name,
    }
    del values["variant"]
    return RecipesRequest(**values)


def make(request: RecipesRequest, commands: Commands) -> Table:
    """Train and measure codecs, then priors, then decoders. Whenever all of a seed are measured, the tables are
    written."""
    parts = split(request.images, request.out)
    shown = _shown(request, parts)
    codecs = over_seeds(
        request,
        list(request.variants),
        partial(measure_codec, request, commands, parts, shown),
        lambda codecs: _write(request, parts, Stages(codecs)),
    )
    if not request.priors:
        return _write(request, parts, Stages(codecs))
    priors = over_seeds(
        request,
        best_codecs(codecs, request.priors),
        partial(measure_prior, request, commands, parts, codecs),
        lambda priors: _write(request, parts, Stages(codecs, priors)),
    )
    if not request.decoder_minutes:
        return _write(request, parts, Stages(codecs, priors))
    of = best_with_prior(priors)
    decoders = over_seeds(
        request,
        list(DECODERS),
        partial(measure_decoder, request, commands, parts, priors, of),
        lambda decoders: _write(request, parts, Stages(codecs, priors, decoders, of)),
    )
    return _write(request, parts, Stages(codecs, priors, decoders, of))


def over_seeds(
    request: RecipesRequest,
    names: Sequence[str],
    measure: Callable[[str, int], Values],
    seed_done: Callable[[Measured], Any],
) -> Measured:
    """Measure variants with all seeds. Seeds are the outer loop, so that a machine that slows down slows all variants.
    `seed_done` is called whenever all variants of a seed are measured.

    A variant that fails is left out, and not tried with further seeds; an error of the default is raised, and so is an
    interruption.
    """
    failed: dict[str, str] = {}
    values: dict[tuple[int, str], Values] = {}

    def attempt(name: str, seed: int) -> Values | None:
        if name in failed:
            return None
        try:
            return measure(name, seed)
        except FailedError as error:
            if name == DEFAULT or error.exit_code in STOPPED:
                raise
            failed[name] = str(error)
            note(f"{name} is left out: {error}")
            return None

    def measured() -> Measured:
        left = [name for name in names if name not in failed]
        seeds = [seed for seed in range(request.seeds) if all((seed, name) in values for name in left)]
        return Measured(seeds, {name: [values[seed, name] for seed in seeds] for name in left}, failed)

    def done(key: tuple[int, str], result: Values | None) -> None:
        if result is not None:
            values[key] = result
            note(f"{len(values)} of {len(tasks)} measured: {key[1]}, seed {key[0]}")
        if key[0] in (now := measured()).seeds:
            seed_done(now)

    tasks = {(seed, name): partial(attempt, name, seed) for seed in range(request.seeds) for name in names}
    run_all(tasks, request.jobs, done)
    return measured()


def measure_codec(
    request: RecipesRequest, commands: Commands, parts: Parts, shown: Path, name: str, seed: int
) -> Values:
    """Train a codec, and measure it on the held-out pictures; that of the first seed also reconstructs the pictures of
    the sheet."""
    held = parts.held / "images"
    flags = ("--preset", "tiny", *request.flags(name), *request.length, "--seed", str(seed))
    run = train_codec(request, commands, parts.train / "images", _codec(name, seed), *flags)
    found = reconstruction_distance(request, commands, run, held)
    errors = errors_and_use(request, commands, run, held)
    network = (errors["protocol"]["perceptual"] or {}).get("name")
    if seed == 0:
        size = ("--size", request.size)
        out = request.out / "pictures" / name
        commands.run(f"{run.name}-pictures", "reconstruct", shown, "-o", out, "--ckpt", best(run), *size)
    training = facts(f"{name}, seed {seed}", run)
    return {
        "metric": found["metric"],
        "distance": found["value"],
        "perceptual_network": network,
        **({} if network is None else {"perceptual": errors[network]}),
        **{key: errors[key] for key in ("psnr", "ssim", "codes_used", "perplexity", "bits_per_pixel")},
        "steps": training["steps"],
        "training": training,
    }


def measure_prior(
    request: RecipesRequest, commands: Commands, parts: Parts, codecs: Measured, name: str, seed: int
) -> Values:
    """Train a prior on the codes of a codec, and compare its samples with the held-out pictures."""
    images = parts.train / "images"
    suffix = f"{name}-{seed}"
    tokens = tokenize(request, commands, images, request.out / _codec(name, seed), f"tokens-{suffix}")
    longer = replace(request, minutes=request.prior_minutes)
    prior = train_prior(longer, commands, tokens, f"prior-{suffix}", *parts.held_of_training, "--seed", str(seed))
    sample(request, commands, prior, f"samples-{suffix}", "-n", str(request.samples), "--seed", str(seed))
    found = distance(request, commands, f"samples-{suffix}", parts.held / "images")
    return {
        "metric": found["metric"],
        "distance": found["value"],
        "codec": codecs.values[name][codecs.seeds.index(seed)]["distance"],
        "training": facts(f"prior of {name}, seed {seed}", prior),
    }


def _codec(name: str, seed: int) -> str:
    return f"codec-{name}-{seed}"


def _shown(request: RecipesRequest, parts: Parts) -> Path:
    """A folder of links to the pictures of the sheet, numbered."""
    folder = request.out / "shown"
    for number, item in enumerate(list_items([parts.held / "images"]).items[:SHOWN]):
        link(folder / f"{number}{item.path.suffix}", item.path)
    return folder


def _write(request: RecipesRequest, parts: Parts, stages: Stages) -> Table:
    written = table(request, parts, stages)
    written.write(request.out, "recipes")
    if 0 in stages.codecs.seeds:
        save_png(request.out / "recipes.png", _sheet(request, stages.codecs))
    return written


def _sheet(request: RecipesRequest, codecs: Measured) -> Image.Image:
    """Held-out pictures, and below them their reconstructions by the first seed's codec of each variant."""
    rebuilt = {name: request.out / "pictures" / name for name in codecs.values}
    paths = sorted((request.out / "shown").iterdir())
    paths = [path for path in paths if all((folder / f"{path.stem}.png").exists() for folder in rebuilt.values())]
    originals = [read_rgb(path.read_bytes(), str(path)) for path in paths]
    cropped = [apply(image, centre_crop(Size(*image.size), request.size)) for image in originals]
    rows = [Row("held-out pictures", cropped)]
    for name, folder in rebuilt.items():
        pictures = [read_rgb((folder / f"{path.stem}.png").read_bytes(), path.stem) for path in paths]
        rows.append(Row(f"{name} {request.variants[name]}", pictures))
    return png(rows, request.size)


if __name__ == "__main__":
    raise SystemExit(main())
