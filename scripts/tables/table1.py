"""Table 1: a transformer and a PixelSNAIL of about as many parameters, on the same codes, at equal steps and at equal
time; and a prior for any order."""

from pathlib import Path
from typing import NamedTuple

import torch
from commands import Commands
from held_out import split
from published import TABLE1
from request import Request
from runs import NATS, Point, curve, facts, lowest
from stage import data_line, tokenize, train_codec, train_prior
from table import Column, Table

from taming_cli.config.prior import PriorConfig
from taming_cli.config.size import Size
from taming_cli.data.tokens.file import TokenFile
from taming_cli.prior.model import new_network

HEADS = 4
NAMES = {"modern": "transformer", "pixelsnail": "PixelSNAIL", "any-order": "any order"}
COLUMNS = (
    Column("prior", "prior"),
    Column("parameters", "parameters", ",d"),
    Column("at_equal_steps", "nats/token at equal steps", ".4f"),
    Column("at_equal_time", "nats/token at equal time", ".4f"),
    Column("last", "last nats/token", ".4f"),
)


class Codes(NamedTuple):
    """What a token file's codes demand of a prior."""

    grid: Size
    codebook_size: int


def make(request: Request, commands: Commands) -> Table:
    """Train, and read the validations."""
    parts = split(request.images, request.out)
    codec = request.codec
    trainings = []
    if codec is None:
        codec = train_codec(request, commands, parts.train / "images", "codec", *request.length)
        trainings.append(facts("codec", codec))
    tokens = tokenize(request, commands, request.images, codec, "tokens")
    codes = codes_of(tokens)
    common = ("--cond", "none", "--window", str(codes.grid), "--held", f"{parts.fraction:.15f}", "--val-every", "0.05")
    sizes = dict.fromkeys(NAMES, (*request.network, "--n-head", str(HEADS)))
    width = pixelsnail_width(codes, request.n_layer, request.n_embd)
    sizes["pixelsnail"] = ("--n-layer", str(request.n_layer), "--n-embd", str(width), "--n-head", str(HEADS))
    curves: dict[str, list[Point]] = {}
    for arch, name in NAMES.items():
        run = train_prior(request, commands, tokens, arch, "--arch", arch, *sizes[arch], *common)
        trainings.append(facts(name, run))
        curves[arch] = curve(run)
    steps = min(points[-1].step for points in curves.values())
    seconds = min(points[-1].seconds for points in curves.values())
    counts = {row["training"]: row["parameters"] for row in trainings}
    rows = [
        {
            "prior": NAMES[arch],
            "parameters": counts[NAMES[arch]],
            "at_equal_steps": lowest(points, steps, "step"),
            "at_equal_time": lowest(points, seconds, "seconds"),
            "last": points[-1].nats,
        }
        for arch, points in curves.items()
    ]
    return Table(
        title="Table 1: transformer and PixelSNAIL",
        protocol=[
            data_line(request, parts),
            f"Codes of {codes.grid} cells, K = {codes.codebook_size}, by "
            + ("the codec trained on the training pictures." if request.codec is None else f"{request.codec}."),
            f"Priors without conditions, {request.minutes:g} min each, all other settings the defaults of "
            f"`train-prior`. The PixelSNAIL has {request.n_layer} blocks, and the width with which its number of "
            f"parameters is nearest to the transformer's, {width}.",
            "Held-out nats/token of whole pictures by the chain rule, as the validations of each training measure "
            "them, interpolated between two of them: the lowest until the steps or the time, as a training keeps its "
            "best model. A last one far above the lowest means too few pictures for the time.",
            f"Equal steps: {steps}. Equal time: {seconds / 60:.2f} minutes. The learning rate falls until the end of "
            "each training, so at equal steps the prior that trained for more steps is at a higher one.",
        ],
        columns=COLUMNS,
        rows=rows,
        trainings=trainings,
        published=TABLE1,
        more={
            "equal_steps": steps,
            "equal_seconds": seconds,
            "curves": {
                NAMES[arch]: [{"step": p.step, "seconds": p.seconds, NATS: p.nats} for p in points]
                for arch, points in curves.items()
            },
        },
    )


def codes_of(tokens: Path) -> Codes:
    """Read a token file's header."""
    with TokenFile(tokens) as file:
        header = file.header
    return Codes(Size(header.width, header.height), header.codebook_size)


def count(codes: Codes, arch: str, n_layer: int, n_embd: int) -> int:
    """The parameters of a prior."""
    config = PriorConfig(
        arch=arch,  # type: ignore[arg-type]  # the config checks it
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=HEADS,
        window=codes.grid,
        codebook_size=codes.codebook_size,
    )
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in new_network(config).parameters())


def pixelsnail_width(codes: Codes, n_layer: int, n_embd: int) -> int:
    """The width with which a PixelSNAIL of `n_layer` blocks is nearest in size to the transformer of `n_embd`."""
    wanted = count(codes, "modern", n_layer, n_embd)
    step = 2 * HEADS  # half of the width is a multiple of the heads
    width = step
    while (more := count(codes, "pixelsnail", n_layer, width + step)) < wanted:
        width += step
    less = count(codes, "pixelsnail", n_layer, width)
    return width if abs(less - wanted) <= abs(more - wanted) else width + step
