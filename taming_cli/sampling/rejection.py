"""Rejection sampling: draw more samples than requested, and accept those whose class a classifier finds most likely.

After Razavi, van den Oord, Vinyals 2019 (section 3.4) and Esser, Rombach, Ommer 2021 (table 4): of n / rate candidates,
the n are accepted whose class has the highest probability under a classifier.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import torch
from torch import Tensor

from taming_cli.config.parsing import parse_json
from taming_cli.data.disk import make_folder, refusals
from taming_cli.errors import UsageError
from taming_cli.runtime.interrupt import StopRequest
from taming_cli.sampling.draw import draw_chunks
from taming_cli.sampling.model import OnProgress
from taming_cli.sampling.request import Request

if TYPE_CHECKING:
    from taming_cli.pretrained.classifiers import Classifier

SCORES = "candidates.jsonl"
"""In the folder of the pictures: the scores of the candidates drawn so far, from which an interrupted job resumes."""


class Scorer(NamedTuple):
    """A classifier, and its class for each class of the prior, (num_classes,) int64."""

    classifier: "Classifier"
    classes: Tensor

    @property
    def stamp(self) -> dict[str, Any]:
        """Identifies the scorer."""
        return {"classifier": self.classifier.stamp, "classes": self.classes.tolist()}


def load_scorer(request: Request, on_bytes: Callable[[int, int | None], None] | None = None) -> Scorer:
    """The classifier that the request names, matched with the prior's classes. `on_bytes` receives (bytes, total) of a
    download. Raises UsageError for an unknown classifier and for classes that it does not have."""
    from taming_cli.pretrained.class_names import match, read_mapping
    from taming_cli.pretrained.classifiers import build  # slow to import: other requests do not wait for torchvision

    model, name = request.model, request.config.class_name
    classifier = build(
        request.config.classifier, weights=request.weights, offline=request.offline, on_bytes=on_bytes
    ).to(model.device)
    labels = [model.label(index) for index in range(model.gpt.config.num_classes)]
    needed = None if name is None else [model.class_index(name)]
    mapping = None if request.class_map is None else read_mapping(request.class_map)
    return Scorer(classifier, match(labels, classifier, mapping, needed=needed))


def accepted(request: Request, folder: Path, scorer: Scorer, on_progress: OnProgress | None = None) -> list[int]:
    """The numbers of the `config.n` samples to keep, of all `request.numbers`, in ascending order.

    Each candidate is drawn and scored once. Scores are recorded in `folder`, from which the same call resumes.
    Candidates of several classes compete within their class: the same share of each is accepted, as far as complete
    numbers allow. `on_progress` receives (cells drawn, cells in total). Raises UsageError if the folder holds
    candidates drawn with other settings; Interrupted after a signal.
    """
    numbers, classes, path = request.numbers, torch.tensor(request.classes), folder / SCORES
    settings = {**scorer.stamp, **json.loads(request.settings_of(numbers.start, None))}
    if hashes := request.hashes(range(max(1, len(request.maps.names)))):  # of all maps: a later call may draw more
        settings["asked"] = hashes
    scores = _recorded(path, settings)
    make_folder(folder)
    with refusals(path), path.open("a") as stream, StopRequest() as stop:
        if not scores and stream.tell() == 0:
            _append(stream, [json.dumps(settings)])
        chunks = draw_chunks(
            request, numbers, lambda _, chunk: [n for n in chunk if n not in scores], on_progress=on_progress
        )
        for chunk in chunks:
            if chunk.drawn is not None:
                targets = scorer.classes[classes[[number - numbers.start for number in chunk.missing]]]
                values = _log_probs(scorer.classifier, chunk.drawn.images, targets)
                scores |= zip(chunk.missing, values, strict=True)
                _append(stream, [json.dumps([number, scores[number]]) for number in chunk.missing])
            if stop.requested and chunk.numbers[-1] != numbers[-1]:
                raise stop.interrupted(
                    f"stopped; {len(scores)} candidates are recorded in {folder}: repeat the command to continue"
                )
    in_order = torch.tensor([scores[number] for number in numbers], dtype=torch.float64)
    best = best_of_classes(in_order, classes, request.config.n)
    return [numbers[index] for index in best.tolist()]


def best_of_classes(scores: Tensor, classes: Tensor, count: int) -> Tensor:
    """The indices of the `count` best of N candidates, given scores and classes (N,), in ascending order. The best have
    the smallest rank relative to the size of their class; the first of equal ranks counts as better."""
    share = torch.empty(len(scores), dtype=torch.float64)
    for index in sorted(set(classes.tolist())):
        members = torch.nonzero(classes == index)[:, 0]
        order = torch.sort(scores[members], descending=True, stable=True).indices
        share[members[order]] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return torch.sort(torch.sort(share, stable=True).indices[:count]).values


def _log_probs(classifier: "Classifier", images: Tensor, classes: Tensor, batch_size: int = 16) -> list[float]:
    """Log-probability of each picture's class: images (n, 3, H, W), classes (n,)."""
    with torch.inference_mode():
        parts = [
            classifier(part).cpu().gather(1, targets[:, None])[:, 0]
            for part, targets in zip(torch.split(images, batch_size), torch.split(classes, batch_size), strict=True)
        ]
    return [float(value) for value in torch.cat(parts)]


def _recorded(path: Path, settings: object) -> dict[int, float]:
    """The scores recorded so far, number -> log-probability. A last line cut short by a kill is removed."""
    if not path.exists():
        return {}
    text = path.read_text()
    complete = text[: text.rfind("\n") + 1]
    lines = [parse_json(line) for line in complete.splitlines()]
    if lines and lines[0] != json.loads(json.dumps(settings)):
        raise UsageError(f"{path} holds candidates drawn with other settings; give another --out")
    if complete != text:
        os.truncate(path, len(complete.encode()))
    return dict(lines[1:])


def _append(stream: TextIO, lines: Sequence[str]) -> None:
    stream.write("".join(f"{line}\n" for line in lines))
    stream.flush()
    os.fsync(stream.fileno())
