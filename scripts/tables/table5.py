"""Table 5: reconstructions by codecs of several kinds, trained for equal minutes."""

from commands import Commands
from held_out import split
from published import TABLE5
from request import Request
from runs import facts
from stage import data_line, distance_column, errors_and_use, few_line, reconstruction_distance, train_codec
from table import Column, Table

CODECS = {"VQGAN": "tiny", "VQ-VAE": "vq-vae", "dVAE": "dvae", "VQ-VAE-2": "vq-vae-2"}
"""The preset of each codec."""
COLUMNS = (
    Column("psnr", "PSNR, dB", ".2f"),
    Column("bits_per_pixel", "bits/pixel", ".4f"),
    Column("codes_used", "codes in use", ".1%"),
    Column("perplexity", "perplexity", ".1f"),
    Column("top_codes_used", "codes in use, top level", ".1%"),
    Column("top_perplexity", "perplexity, top level", ".1f"),
)


def make(request: Request, commands: Commands) -> Table:
    """Train each codec, and measure it on the held-out pictures."""
    parts = split(request.images, request.out)
    held = parts.held / "images"
    rows, trainings, metric = [], [], ""
    for name, preset in CODECS.items():
        run = train_codec(request, commands, parts.train / "images", preset, "--preset", preset, *request.length)
        trainings.append(facts(name, run))
        distance = reconstruction_distance(request, commands, run, held)
        metric = distance["metric"]
        values = errors_and_use(request, commands, run, held)
        own = {column.key: values[column.key] for column in COLUMNS if column.key in values}
        rows.append({"codec": name, "distance": distance["value"], **own})
    return Table(
        title="Table 5: reconstructions",
        protocol=[
            data_line(request, parts),
            f"Each training takes {request.minutes:g} min, by the preset of its kind: "
            f"{', '.join(f'{name} by {preset}' for name, preset in CODECS.items())}.",
            few_line(parts),
            "Codes in use and their perplexity are those of all codes of the held-out pictures, of which few pictures "
            "have few. Of VQ-VAE-2, the first figures are those of the bottom level.",
        ],
        columns=(Column("codec", "codec"), distance_column(metric), *COLUMNS),
        rows=rows,
        trainings=trainings,
        published=TABLE5,
    )
