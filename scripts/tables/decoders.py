"""For `scripts/recipes`: decoders that are trained further, compared by the samples that they decode."""

from dataclasses import replace
from typing import Any

from commands import Commands
from comparison import Measured, ranked
from held_out import Parts
from request import RecipesRequest
from runs import best, facts
from stage import distance, reconstruction_distance, sample, train_codec
from variants import DEFAULT

DECODERS = {DEFAULT: "", "true": "", "near": "--perturb 0.5", "prior": "--perturb 0.5 --prior PRIOR"}
"""Flags of a decoder's further training; PRIOR is the file of its prior. The default is the decoder as it was."""


def best_with_prior(priors: Measured) -> str:
    """The variant whose reconstructions have the lowest mean distance, of those with priors."""
    return ranked(priors.of("codec"))[0]


def measure_decoder(
    request: RecipesRequest, commands: Commands, parts: Parts, priors: Measured, of: str, name: str, seed: int
) -> dict[str, Any]:
    """Train the decoder of variant `of` further, decode the samples of its prior with it, and compare these with the
    held-out pictures. The samples have the same codes with all decoders."""
    before = priors.values[of][priors.seeds.index(seed)]
    if name == DEFAULT:
        return {key: before[key] for key in ("metric", "distance", "codec")}
    suffix, images, held = f"{of}-{seed}", parts.train / "images", parts.held / "images"
    prior = request.out / f"prior-{suffix}"
    flags = [str(best(prior)) if word == "PRIOR" else word for word in DECODERS[name].split()]
    start = ("--init", best(request.out / f"codec-{suffix}"), "--train", "decoder", *flags)
    length = replace(request, minutes=request.decoder_minutes).length
    run = train_codec(
        request, commands, images, f"decoder-{name}-{suffix}", "--preset", "tiny", *start, *length, "--seed", str(seed)
    )
    rebuilt = reconstruction_distance(request, commands, run, held)
    drawn = f"decoded-{name}-{suffix}"
    sample(request, commands, prior, drawn, "--codec", best(run), "-n", str(request.samples), "--seed", str(seed))
    found = distance(request, commands, drawn, held)
    return {
        "metric": found["metric"],
        "distance": found["value"],
        "codec": rebuilt["value"],
        "training": facts(f"decoder of {of}, {name}, seed {seed}", run),
    }
