"""Rejection sampling: draw more than are wanted, and keep those that a classifier is surest of.

After Razavi, van den Oord, Vinyals 2019 (section 3.4) and Esser, Rombach, Ommer 2021 (table 4): of n / rate candidates
the n are kept to whose asked-for class a classifier gives the highest probability.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
from torch import Tensor

from taming_cli.config.sampling import SampleConfig
from taming_cli.data.disk import refusals
from taming_cli.errors import UsageError
from taming_cli.pretrained.classifiers import Classifier
from taming_cli.runtime.interrupt import StopRequest
from taming_cli.sampling.conditions import Asked
from taming_cli.sampling.files import CHUNK, settings_of
from taming_cli.sampling.pipeline import Pipeline

SEEN = "candidates.jsonl"
"""In the folder of the pictures: what was drawn and what the classifier says of it, so that a killed job goes on."""


class Scorer(NamedTuple):
    """A classifier, and which of its classes each of the prior's is, (num_classes,) int64."""

    classifier: Classifier
    classes: Tensor

    @property
    def stamp(self) -> dict[str, Any]:
        """Tells it from every other scorer."""
        return {"classifier": self.classifier.stamp, "classes": self.classes.tolist()}


def accepted(
    pipeline: Pipeline,
    config: SampleConfig,
    out: Path,
    scorer: Scorer,
    *,
    asked: Asked,
    first: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[int]:
    """The numbers of the `config.n` samples to keep, of ceil(n / accept_rate) from `first` on, in their order.

    Each candidate is drawn and seen once; what the classifier says is kept in the folder `out`, and the same call again
    goes on there. Candidates of several classes compete within their class: of each the same share is kept, as far as
    whole numbers allow. `on_progress` is told (cells drawn, cells in all). Raises UsageError for a prior without
    classes, and where the folder holds candidates drawn otherwise; Interrupted after a signal.
    """
    if not pipeline.gpt.config.num_classes:
        raise UsageError("accept_rate is below 1, but this prior has no classes to score by; use 1")
    numbers = range(first, first + math.ceil(config.n / config.accept_rate))
    classes = [index for index in pipeline.classes(config, numbers, asked) if index is not None]
    if not classes:
        raise UsageError("accept_rate is below 1, but beside a map no class is drawn to score by; name one: --class")
    made = {**scorer.stamp, **json.loads(settings_of(pipeline, config, asked, first, None))}
    if hashes := asked.hashes(range(max(1, len(asked.names)))):  # of all maps: the numbers may grow
        made["asked"] = hashes
    found = _seen(out / SEEN, made)
    cells, at_once = asked.latent.width * asked.latent.height, pipeline.at_once(asked.latent, CHUNK)
    out.mkdir(parents=True, exist_ok=True)
    with refusals(out / SEEN), (out / SEEN).open("a") as stream, StopRequest() as stop:
        if not found and stream.tell() == 0:
            _append(stream, [json.dumps(made)])
        for start in range(0, len(numbers), at_once):
            chunk = [number for number in numbers[start : start + at_once] if number not in found]
            if chunk:
                done = start * cells

                def told(now: int, total: int, done: int = done, chunk: Sequence[int] = chunk) -> None:
                    if on_progress is not None:
                        on_progress(done + now * len(chunk) * cells // max(1, total), len(numbers) * cells)

                drawn = pipeline.draw(config, asked=asked, numbers=chunk, on_progress=told)
                wanted = scorer.classes[[classes[number - first] for number in chunk]]
                for number, value in zip(chunk, _log_probs(scorer.classifier, drawn.images, wanted), strict=True):
                    found[number] = value
                _append(stream, [json.dumps([number, found[number]]) for number in chunk])
            if stop.requested and start + at_once < len(numbers):
                raise stop.interrupted(f"stopped; {len(found)} candidates are noted in {out}: run the same again")
    scores = torch.tensor([found[number] for number in numbers], dtype=torch.float64)
    kept = keep(scores, torch.tensor(classes), config.n)
    return [numbers[index] for index in kept.tolist()]


def keep(scores: Tensor, classes: Tensor, count: int) -> Tensor:
    """The `count` candidates to keep, of scores and classes (N,), as indices in their order: those of the smallest rank
    within their class, as a share of the class; of equals the earlier."""
    share = torch.empty(len(scores), dtype=torch.float64)
    for index in sorted(set(classes.tolist())):
        mine = torch.nonzero(classes == index)[:, 0]
        order = torch.sort(scores[mine], descending=True, stable=True).indices
        share[mine[order]] = (torch.arange(len(mine), dtype=torch.float64) + 0.5) / len(mine)
    return torch.sort(torch.sort(share, stable=True).indices[:count]).values


def _log_probs(classifier: Classifier, images: Tensor, wanted: Tensor, batch_size: int = 16) -> list[float]:
    """Log-probability of the wanted class (n,) of each picture (n, 3, H, W)."""
    with torch.inference_mode():
        parts = [
            classifier(part).cpu().gather(1, of[:, None])[:, 0]
            for part, of in zip(torch.split(images, batch_size), torch.split(wanted, batch_size), strict=True)
        ]
    return [float(value) for value in torch.cat(parts)]


def _seen(path: Path, made: object) -> dict[int, float]:
    """What was noted before: number -> log-probability; a last line that a kill cut short is left out."""
    if not path.exists():
        return {}
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    lines = [json.loads(line) for line in whole.splitlines()]
    if lines and lines[0] != json.loads(json.dumps(made)):
        raise UsageError(f"{path} holds candidates drawn with other settings; give another --out")
    if whole != text:
        os.truncate(path, len(whole.encode()))
    return dict(lines[1:])


def _append(stream: TextIO, lines: Sequence[str]) -> None:
    stream.write("".join(f"{line}\n" for line in lines))
    stream.flush()
    os.fsync(stream.fileno())
