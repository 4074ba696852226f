"""Figure 7: the same prior on codes that stand for more and more pixels."""

import time
from functools import partial
from pathlib import Path
from typing import Any

from commands import Commands
from held_out import Parts, split
from published import FIGURE7
from request import Request
from runs import best, facts
from sheet import Strip, svg
from stage import data_line, distance, distance_column, few_line, sample, tokenize, train_codec, train_prior
from table import Column, Table

from taming_cli.errors import UsageError
from taming_cli.sampling.pipeline import Pipeline

CODECS = {
    1: ("--preset", "palette"),
    2: ("--preset", "tiny", "--patch-size", "1", "--ch-mult", "1,2"),
    8: ("--preset", "tiny"),
    16: ("--preset", "tiny", "--ch-mult", "1,2,2,4"),
}
"""Flags of the codec for each f. The palette has a length of its own."""
WINDOW = 16
TOP_K = 100
"""Of the paper, as the window."""
TIMED = 16
SHOWN = 4
"""Samples in each column."""


def make(request: Request, commands: Commands) -> Table:
    """Train codecs and priors; draw, measure, and write the SVG."""
    largest = max(CODECS)
    if request.size.width % largest or request.size.height % largest:
        raise UsageError(f"size is {request.size}; figure7 needs multiples of {largest}, its largest f")
    parts = split(request.images, request.out)
    rows, trainings, strips, metric = [], [], [], ""
    for f in CODECS:
        codec, prior = _trained(request, commands, parts, f)
        trainings += [facts(f"codec, f = {f}", codec), facts(f"prior, f = {f}", prior)]
        name = f"samples-{f}"
        flags = ("--top-k", str(TOP_K), "--seed", "0")
        drawn = sample(request, commands, prior, name, "-n", str(request.samples), *flags)
        measured = distance(request, commands, name, parts.held / "images")
        metric = measured["metric"]
        speed = commands.keep(f"speed-{f}", partial(timed, request, prior))
        rows.append(
            {
                "f": f,
                "codes": f"{request.size.width // f} x {request.size.height // f}",
                "count": len(drawn.values),
                "distance": measured["value"],
                "seconds_per_picture": speed["seconds_per_picture"],
            }
        )
        strips.append(Strip([Path(value["path"]) for value in drawn.values[:SHOWN]], _words(rows[-1], metric)))
    first = rows[0]["seconds_per_picture"]
    for row in rows:
        row["times_as_fast"] = first / row["seconds_per_picture"]
    (request.out / "figure7.svg").write_text(svg(strips, request.size), encoding="utf-8")
    return Table(
        title="Figure 7: pixels per code",
        protocol=[
            data_line(request, parts),
            f"Each prior takes {request.minutes:g} min, and so does each codec, except the palette (f = 1), which "
            "is found by k-means. The priors have the same network, of raster order, without conditions, and a window "
            f"of at most {WINDOW} x {WINDOW} codes.",
            f"Samples: temperature 1, top-k {TOP_K}, the default stride of the window.",
            few_line(parts),
            f"Seconds per picture: of up to {TIMED} pictures that are drawn at once, decoding included, without the "
            "start of the program.",
        ],
        columns=(
            Column("f", "f", "d"),
            Column("codes", "codes"),
            Column("count", "samples", ",d"),
            distance_column(metric),
            Column("seconds_per_picture", "seconds per picture", ".3f"),
            Column("times_as_fast", "times as fast as f = 1", ".2f"),
        ),
        rows=rows,
        trainings=trainings,
        published=FIGURE7,
    )


def timed(request: Request, prior: Path) -> dict[str, Any]:
    """Seconds for each of up to `TIMED` pictures that are drawn at once, after a first picture."""
    pipeline = Pipeline.load(best(prior))
    count = min(TIMED, request.samples)
    pipeline.sample(n=1, size=str(request.size), top_k=TOP_K)
    began = time.perf_counter()
    pipeline.sample(n=count, size=str(request.size), top_k=TOP_K)
    return {"count": count, "seconds_per_picture": (time.perf_counter() - began) / count}


def _trained(request: Request, commands: Commands, parts: Parts, f: int) -> tuple[Path, Path]:
    """The run folders of codec and prior."""
    images = parts.train / "images"
    length = () if "palette" in CODECS[f] else request.length
    codec = train_codec(request, commands, images, f"codec-{f}", *CODECS[f], *length)
    tokens = tokenize(request, commands, images, codec, f"tokens-{f}")
    flags = ("--arch", "modern", "--cond", "none", "--window", f"{WINDOW}x{WINDOW}", *parts.held_of_training)
    prior = train_prior(request, commands, tokens, f"prior-{f}", *flags, *request.network)
    return codec, prior


def _words(row: dict[str, object], metric: str) -> list[str]:
    return [
        f"f = {row['f']}, {row['codes']} codes",
        f"{metric} {row['distance']:.1f}",
        f"{row['seconds_per_picture']:.3g} s per picture",
    ]
