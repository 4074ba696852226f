"""The commands that several tables share."""

from pathlib import Path
from typing import Any

from commands import Commands, Done
from held_out import Parts
from request import Request
from runs import best
from table import Column


def train_codec(request: Request, commands: Commands, images: Path, name: str, *flags: object) -> Path:
    """Train a codec. -> Its run folder."""
    run = request.out / name
    commands.run(name, "train-vqgan", images, "-o", run, "--size", request.size, *flags)
    return run


def tokenize(request: Request, commands: Commands, images: Path, codec: Path, name: str, *flags: str) -> Path:
    """Encode pictures by the best model of a run, or by a model file. -> The token file."""
    tokens = request.out / f"{name}.h5"
    model = best(codec) if codec.is_dir() else codec
    commands.run(name, "tokenize", images, "--ckpt", model, "--size", request.size, "-o", tokens, *flags)
    return tokens


def train_prior(request: Request, commands: Commands, tokens: Path, name: str, *flags: str) -> Path:
    """Train a prior, without drawing samples at its validations. -> Its run folder."""
    run = request.out / name
    commands.run(name, "train-prior", tokens, "-o", run, *request.length, "--samples", "0", *flags)
    return run


def sample(request: Request, commands: Commands, prior: Path, name: str, *flags: object) -> Done:
    """Draw pictures into the folder `name`."""
    return commands.run(name, "sample", "--ckpt", best(prior), "--size", request.size, "-o", request.out / name, *flags)


def distance(request: Request, commands: Commands, name: str, reference: Path) -> dict[str, Any]:
    """The Frechet distance between the pictures of the folder `name` and others: `metric`, `value`, `protocol`."""
    generated = request.out / name
    flags = ("--size", request.size, *request.features)
    return commands.run(f"{name}-distance", "eval", "fid", generated, reference, *flags).value


def reconstruction_distance(request: Request, commands: Commands, codec: Path, pictures: Path) -> dict[str, Any]:
    """The same between pictures and their reconstructions."""
    flags = ("--size", request.size, *request.features)
    return commands.run(f"{codec.name}-distance", "eval", "rfid", best(codec), pictures, *flags).value


def errors_and_use(request: Request, commands: Commands, codec: Path, pictures: Path) -> dict[str, Any]:
    """The errors of reconstructions and the use of the codebook: the values of `eval recon`, with its protocol, and
    those of `eval codebook`."""
    size = ("--size", request.size)
    errors = commands.run(f"{codec.name}-recon", "eval", "recon", best(codec), pictures, *size).value
    use = commands.run(f"{codec.name}-codebook", "eval", "codebook", best(codec), pictures, *size).value
    return {**use, **errors}


def distance_column(metric: str) -> Column:
    """The column of a distance, under its own name: only that of Inception is called FID."""
    return Column("distance", metric.upper() if metric in ("fid", "rfid") else metric, ".2f")


def data_line(request: Request, parts: Parts) -> str:
    """The data, for the protocol."""
    train, held = parts.counts
    return (
        f"{request.images}: {train} pictures for training and {held} held-out ones, a tenth by the hashes of their "
        f"names; centre crops of {request.size}."
    )


def few_line(parts: Parts) -> str:
    """Who reads a distance must know the number of pictures."""
    return (
        f"The reference of each distance is the {parts.counts[1]} held-out pictures. Distances with few pictures are "
        "large; compare those of this table only."
    )
