"""Table 2: pictures from held-out label maps, and the bound that the codec sets."""

from pathlib import Path

from commands import Commands
from held_out import label_flags, split
from published import TABLE2
from request import Request
from runs import best, facts
from stage import (
    data_line,
    distance,
    distance_column,
    few_line,
    reconstruction_distance,
    sample,
    tokenize,
    train_codec,
    train_prior,
)
from table import Column, Table

from taming_cli.errors import UsageError

TOP_K = 100
"""Of the paper."""


def make(request: Request, commands: Commands) -> Table:
    """Train codecs of pictures and of maps and a prior; draw a picture for each held-out map."""
    maps = _maps(request)
    parts = split(request.images, request.out, maps)
    images, train_maps = parts.train / "images", parts.train / "segmentation"
    codec = train_codec(request, commands, images, "codec", *request.length)
    of_maps = ("--kind", "segmentation", *label_flags(maps), "--codebook-size", "256", *request.length)
    map_codec = train_codec(request, commands, train_maps, "map-codec", *of_maps)
    conditions = ("--cond", f"segmentation={train_maps}", "--cond-ckpt", str(best(map_codec)))
    tokens = tokenize(request, commands, images, codec, "tokens", *conditions)
    flags = ("--cond", "segmentation", *parts.held_of_training)
    prior = train_prior(request, commands, tokens, "prior", *flags, *request.network)
    held = parts.held / "images"
    drawn = sample(
        request, commands, prior, "samples", "--cond", str(parts.held / "segmentation"), "--top-k", str(TOP_K)
    )
    measured = distance(request, commands, "samples", held)
    bound = reconstruction_distance(request, commands, codec, held)
    return Table(
        title="Table 2: pictures from label maps",
        protocol=[
            data_line(request, parts),
            f"Each training takes {request.minutes:g} min; all other settings are defaults. One sample for each "
            f"held-out map, top-k {TOP_K}.",
            few_line(parts),
            "The reconstructions of the held-out pictures bound what a prior on these codes can reach.",
        ],
        columns=(
            Column("pictures", "pictures"),
            Column("count", "count", ",d"),
            distance_column(measured["metric"]),
        ),
        rows=[
            {"pictures": "samples of held-out maps", "count": len(drawn.values), "distance": measured["value"]},
            {"pictures": "reconstructions", "count": parts.counts[1], "distance": bound["value"]},
        ],
        trainings=[facts("codec", codec), facts("codec of maps", map_codec), facts("prior", prior)],
        published=TABLE2,
        more={"measured": measured["protocol"]},
    )


def _maps(request: Request) -> Path:
    """The label maps: as given, else the folder beside the pictures. UsageError if there are none."""
    beside = request.images.resolve().parent / "segmentation"
    if request.segmentation is None and not beside.is_dir():
        raise UsageError(f"table2 needs label maps of {request.images}: give --segmentation FOLDER")
    return beside if request.segmentation is None else request.segmentation
