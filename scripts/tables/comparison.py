"""The tables of `scripts/recipes`, from what was measured with each variant and seed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from held_out import Parts
from noise import CONFIDENCE, NOISE, degrees_of_freedom, differences, spread
from request import FREE_FEATURES, RecipesRequest
from stage import data_line, distance_column, few_line
from table import Column, Section, Table
from variants import DEFAULT

VARIANT = Column("variant", "variant")


class Measured(NamedTuple):
    """The seeds with which all variants are measured; the values of each of them, in this order, by variant; and, by
    variant, why one is missing."""

    seeds: Sequence[int]
    values: Mapping[str, Sequence[Mapping[str, Any]]]
    failed: Mapping[str, str]

    def of(self, key: str) -> dict[str, list[float]]:
        """One measure."""
        return {name: [row[key] for row in rows] for name, rows in self.values.items()}


class Stages(NamedTuple):
    """What is measured: codecs, priors of the best of them, and further trained decoders of one of these, `of`."""

    codecs: Measured
    priors: Measured | None = None
    decoders: Measured | None = None
    of: str = ""


def measures(first: Mapping[str, Any]) -> tuple[Column, ...]:
    """What is compared of a codec, given the values of one."""
    perceptual = first["perceptual_network"]
    of_network = [Column("perceptual", f"perceptual distance ({perceptual})", ".4f")] if perceptual else []
    return (
        Column("psnr", "PSNR, dB", ".2f"),
        Column("ssim", "SSIM", ".4f"),
        *of_network,
        distance_column(first["metric"]),
        Column("codes_used", "codes in use", ".1%"),
        Column("steps", "steps", ",.0f"),
    )


def ranked(values: Mapping[str, Sequence[float]]) -> list[str]:
    """The variants, the one with the lowest mean first."""
    return sorted(values, key=lambda name: spread(values[name]).mean)


def best_codecs(codecs: Measured, count: int) -> list[str]:
    """The `count` variants whose reconstructions have the lowest mean distance, in the order of the table; and
    `default`."""
    best = ranked(codecs.of("distance"))[:count]
    return [name for name in codecs.values if name in best or name == DEFAULT]


def table(request: RecipesRequest, parts: Parts, stages: Stages) -> Table:
    """The report of what is measured so far, at least one seed."""
    codecs, priors, decoders, of = stages
    first = codecs.values[DEFAULT][0]
    columns = measures(first)
    rows = [
        {
            "variant": name,
            "flags": f"`{request.variants[name]}`" if request.variants[name] else "",
            **{column.key: spread(codecs.of(column.key)[name]) for column in columns},
            "bits_per_pixel": values[0]["bits_per_pixel"],
        }
        for name, values in codecs.values.items()
    ]
    bits = Column("bits_per_pixel", "bits/pixel", ".4f")
    trained = [stage for stage in (codecs, priors, decoders) if stage is not None]
    failed = {name: why for stage in trained for name, why in stage.failed.items()}
    return Table(
        title="Training recipes of a codec",
        protocol=[
            *_lines(request, parts, codecs, first),
            *([] if priors is None else [_prior_line(request, priors)]),
            *([] if decoders is None else [_decoder_line(request, decoders, of)]),
            *(f"{name} is left out: {why}." for name, why in failed.items()),
        ],
        columns=(VARIANT, Column("flags", "flags"), *columns, bits),
        rows=rows,
        sections=[
            *_section("differences", f"Differences from `{DEFAULT}`", codecs, columns),
            *([] if priors is None else _of_samples(priors, first["metric"], "prior", "Priors")),
            *([] if decoders is None else _of_samples(decoders, first["metric"], "decoder", f"Decoders of `{of}`")),
        ],
        trainings=[
            row["training"] for stage in trained for rows in stage.values.values() for row in rows if "training" in row
        ],
        more={
            "seeds": list(codecs.seeds),
            "measured": {name: _by_seed(codecs, values) for name, values in codecs.values.items()},
            **{
                f"measured_{part}": {} if stage is None else {n: _by_seed(stage, v) for n, v in stage.values.items()}
                for part, stage in (("priors", priors), ("decoders", decoders))
            },
            "failed": failed,
        },
    )


def _section(name: str, heading: str, measured: Measured, columns: Sequence[Column]) -> list[Section]:
    """The differences of each variant from the default; nothing where that is the only one."""
    compared = {column.key: differences(measured.of(column.key), DEFAULT) for column in columns}
    rows = [
        {"variant": variant, **{key: found[variant] for key, found in compared.items()}}
        for variant in measured.values
        if variant != DEFAULT
    ]
    return [Section(name, heading, (VARIANT, *columns), rows)] if rows else []


def _of_samples(measured: Measured, metric: str, part: str, heading: str) -> list[Section]:
    """The distances of samples, by the `part` of the model that differs, and of reconstructions by the same codec."""
    of_codec = Column("codec", f"{distance_column(metric).heading} of reconstructions", ".2f")
    of_samples = Column(
        "distance", f"{distance_column(measured.values[DEFAULT][0]['metric']).heading} of samples", ".2f"
    )
    rows = [
        {"variant": name, **{column.key: spread(measured.of(column.key)[name]) for column in (of_codec, of_samples)}}
        for name in measured.values
    ]
    differ = f"Differences of {part}s from that of `{DEFAULT}`"
    return [
        Section(f"{part}s", heading, (VARIANT, of_codec, of_samples), rows),
        *_section(f"{part}_differences", differ, measured, (of_samples,)),
    ]


def _by_seed(measured: Measured, values: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """For the JSON, which has the training already."""
    return {
        str(seed): {key: value for key, value in row.items() if key != "training"}
        for seed, row in zip(measured.seeds, values, strict=True)
    }


def _lines(request: RecipesRequest, parts: Parts, codecs: Measured, first: Mapping[str, Any]) -> list[str]:
    by_free = ["the perceptual distance"] * (first["perceptual_network"] == FREE_FEATURES)
    by_free += ["the Frechet distance"] * (request.weights is None)
    seeds = len(codecs.seeds)
    return [
        data_line(request, parts),
        f"Each training is `taming train-vqgan --preset tiny` with the flags of its variant, for {request.minutes:g} "
        f"min, with one thread, {_jobs(request)}. All variants are trained with one seed before the next seed. "
        f"Finished seeds: {seeds} of {request.seeds}.",
        "The best model of each training is measured on the held-out pictures. PSNR and SSIM are better when higher, "
        "distances when lower." + (f" ± is the sample standard deviation over {seeds} seeds." if seeds > 1 else ""),
        few_line(parts),
        *(
            f"Features of {FREE_FEATURES} give {' and '.join(by_free)}. A distance between the same features is a term "
            "of the training loss, unless a variant changes that; SSIM is no term of it."
            for _ in by_free[:1]
        ),
        _noise_line(len(codecs.values), seeds),
    ]


def _jobs(request: RecipesRequest) -> str:
    return "one at a time" if request.jobs == 1 else f"{request.jobs} at a time"


def _noise_line(variants: int, seeds: int) -> str:
    if variants < 2:
        return "There is one variant, so nothing is compared."
    if seeds < 2:
        return "There is one seed, so nothing can be said about noise: any difference may be noise."
    return (
        f"A difference is the mean over seeds of variant minus `{DEFAULT}`, paired by seed. ± is half the width of its "
        f"two-sided {CONFIDENCE:.0%} interval, t s sqrt(2 / {seeds}): s is the standard deviation, pooled over all "
        f"{variants} variants, of the values without the means of their variant and of their seed, and t is Student's, "
        f"with ({variants} - 1)({seeds} - 1) = {degrees_of_freedom(variants, seeds)} degrees of freedom. It assumes "
        f"that the noise of all variants is equally large. {NOISE} marks an interval that contains 0. Of twenty "
        "differences that are noise alone, about one has no mark."
    )


def _prior_line(request: RecipesRequest, priors: Measured) -> str:
    return (
        f"Priors are trained for {request.prior_minutes:g} min on the codes of each seed's codec, with the defaults of "
        f"`taming train-prior`, one thread and the same seed: of `{DEFAULT}`, and of as many of the variants with the "
        f"lowest mean distance of reconstructions as were asked for, {request.priors}. {request.samples} samples of "
        f"each are compared with the held-out pictures. Finished seeds: {len(priors.seeds)} of {request.seeds}. Noise "
        f"is judged in the same way, over these {len(priors.values)} variants."
    )


def _decoder_line(request: RecipesRequest, decoders: Measured, of: str) -> str:
    return (
        f"Decoders of `{of}` are trained for {request.decoder_minutes:g} min more with `--train decoder`: `true` on "
        "the codes of the pictures; `near` and `prior` with half of the codes replaced by entries near to them, or by "
        f"what the prior puts there. `{DEFAULT}` is the decoder as it was. All decode the same {request.samples} "
        f"samples of each seed's prior. Finished seeds: {len(decoders.seeds)} of {request.seeds}. Noise is judged in "
        f"the same way, over these {len(decoders.values)} decoders."
    )
