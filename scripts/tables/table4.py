"""Table 4: rejection sampling by a classifier, at several acceptance rates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from commands import Commands
from held_out import Parts, split
from published import TABLE4
from request import Request
from runs import facts
from stage import data_line, distance, distance_column, few_line, sample, tokenize, train_codec, train_prior
from table import Column, Table

from taming_cli.data.images import read_image
from taming_cli.data.sources import list_items
from taming_cli.errors import UsageError
from taming_cli.pretrained.class_names import match, read_mapping
from taming_cli.pretrained.classifiers import Classifier, build

RATES = (1.0, 0.5, 0.25, 0.05)


class Judge(NamedTuple):
    """A classifier, and its class for each of our labels."""

    classifier: Classifier
    classes: dict[str, int]


class Labelled(NamedTuple):
    """A picture, and its class."""

    path: Path
    label: str


def make(request: Request, commands: Commands) -> Table:
    """Train a codec and a prior by class; draw at each rate."""
    parts = split(request.images, request.out)
    judge = _judge(request, parts)
    images = parts.train / "images"
    codec = train_codec(request, commands, images, "codec", *request.length)
    tokens = tokenize(request, commands, images, codec, "tokens")
    prior = train_prior(request, commands, tokens, "prior", *parts.held_of_training, *request.network)
    classifier = ["--classifier", request.classifier]
    classifier += [] if request.class_map is None else ["--class-map", str(request.class_map)]
    held = parts.held / "images"
    rows = []
    for rate in RATES:
        name = f"samples-{rate:g}"
        flags = ("-n", str(request.samples), "--accept-rate", f"{rate:g}", *(classifier if rate < 1 else ()))
        done = sample(request, commands, prior, name, *flags)
        drawn = [Labelled(Path(value["path"]), value["class"]) for value in done.values]
        rows.append(
            {
                "pictures": f"acceptance rate {rate:g}",
                "count": len(drawn),
                "distance": distance(request, commands, name, held)["value"],
                **_agreement(commands, judge, name, drawn),
            }
        )
    metric = distance(request, commands, name, held)["metric"]
    true = [Labelled(item.path, item.label) for item in list_items([held]).items if item.label in judge.classes]
    agreed = _agreement(commands, judge, "held-out", true)
    rows.append({"pictures": "held-out pictures", "count": len(true), "distance": None, **agreed})
    return Table(
        title="Table 4: rejection sampling",
        protocol=[
            data_line(request, parts),
            f"Each training takes {request.minutes:g} min; all other settings are defaults. {request.samples} "
            f"samples are kept at each rate, of {request.samples} / rate candidates of random classes, the same share "
            "of each class.",
            few_line(parts),
            f"Classifier of the rejection and of the agreement: {request.classifier}"
            + (f", its classes by {request.class_map}" if request.class_map else "")
            + ". Agreement: the share of pictures whose own class it finds the likeliest of the "
            f"{len(set(judge.classes.values()))} that the pictures have.",
        ],
        columns=(
            Column("pictures", "pictures"),
            Column("count", "count", ",d"),
            distance_column(metric),
            Column("agreement", "agreement", ".1%"),
        ),
        rows=rows,
        trainings=[facts("codec", codec), facts("prior", prior)],
        published=TABLE4,
    )


def _judge(request: Request, parts: Parts) -> Judge:
    """UsageError if there are no classes, or the classifier does not know them."""
    if len(parts.labels) < 2:
        raise UsageError(f"table4 needs classes: put the pictures of {request.images} into a folder for each class")
    classifier = build(request.classifier)
    mapping = None if request.class_map is None else read_mapping(request.class_map)
    return Judge(classifier, dict(zip(parts.labels, match(parts.labels, classifier, mapping).tolist(), strict=True)))


def _agreement(commands: Commands, judge: Judge, name: str, pictures: Sequence[Labelled]) -> dict[str, Any]:
    return commands.keep(f"{name}-agreement", lambda: {"agreement": agreement(judge, pictures)})


@torch.no_grad()
def agreement(judge: Judge, pictures: Sequence[Labelled]) -> float:
    """The share of pictures whose own class is the likeliest of all labels' classes; labels may share one."""
    candidates = torch.tensor(sorted(set(judge.classes.values())))
    right = 0
    for path, label in pictures:
        image = read_image(path.read_bytes(), str(path))
        scores = judge.classifier(image[None])[0, candidates]
        right += int(candidates[scores.argmax()]) == judge.classes[label]
    return right / len(pictures)
