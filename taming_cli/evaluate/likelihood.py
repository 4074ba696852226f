"""Negative log-likelihood of a token file's codes under a prior: nats/token, by class and by position."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taming_cli.data.tokens.file import TokenFile
from taming_cli.data.tokens.levels import open_level
from taming_cli.errors import UsageError
from taming_cli.evaluate.plots import heat_map
from taming_cli.evaluate.protocol import Measurement, versions
from taming_cli.prior.layout import NOT_GIVEN
from taming_cli.prior.likelihood import log_likelihood
from taming_cli.prior.model import Network, prior_from
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.gpt import GPT
from taming_cli.runtime.checkpoint import load_model
from taming_cli.runtime.device import autocast, pick_device, pick_precision, precision_name
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.model_files import named
from taming_cli.runtime.weights import sha256


def nll(
    prior: Path,
    tokens: Path,
    *,
    rows: Sequence[int] | None = None,
    stride: int = 1,
    order: str = "plan",
    sample_steps: int = 0,
    batch_size: int = 16,
    device: str = "auto",
    precision: str = "fp32",
    world: World = ALONE,
    on_item: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Mean -log p(code) over all cells of a token file (the first view of each image), or of the images `rows`.

    Conditions come from the file. For a raster prior, `stride` selects the windows, as for sampling; 1 is the published
    procedure. For a prior for any order, cells are read one at a time in the `order` of sampling ("plan") or in
    "raster" order; with `sample_steps`, in the groups of so many steps, which costs what drawing them at once costs.
    `on_item` is called with (cells read, cells in total) of this process. Bits/dim count the codes only: nats/token x
    tokens / (ln 2 x 3 H W). UsageError if another codec made the tokens, a condition of the prior is missing, or a
    class is unknown to the prior.
    """
    where = pick_device(device)
    dtype = pick_precision(precision, where)
    prior = named(prior)
    model = load_model(prior, "taming-prior")
    gpt = prior_from(model, str(prior)).to(where, dtype)
    file = open_level(tokens, gpt.config.level)
    header = file.header
    if model.about.get("codec_sha256") != header.codec_sha256:
        raise UsageError(f"{tokens} was made with another codec than {prior}; tokenize with the prior's codec")
    if not len(file):
        raise UsageError(f"{tokens} holds no pictures; tokenize some first")
    kinds = [spec.kind for spec in gpt.config.conditions]
    for kind in kinds:
        if kind not in ("class", *header.conditions):
            raise UsageError(f"{tokens} has no {kind} codes, which {prior} is conditioned on; tokenize with --cond")
        learned = model.about.get("conditions", {}).get(kind, {}).get("codec_sha256")
        if learned is not None and learned != header.conditions[kind].codec_sha256:
            raise UsageError(f"{tokens} has {kind} codes of another codec than {prior} learned; tokenize with its own")
    if "class" in kinds and not file.label_names:
        raise UsageError(
            f"{tokens} has no classes, which {prior} is conditioned on; tokenize pictures in class folders"
        )
    classes = _classes(file, list(model.about.get("label_names", ())), gpt.config.num_classes)

    size = (header.height, header.width)
    procedure = _procedure(gpt, size, stride, order, sample_steps)
    sums = _Sums(torch.zeros(header.height, header.width, dtype=torch.float64), {}, {}, 0)
    selected = (range(len(file)) if rows is None else rows)[world.rank :: world.size]
    cells = len(selected) * header.height * header.width

    def report(before: int, done: int, _: int) -> None:
        if on_item is not None:
            on_item(before + done, cells)

    for start in range(0, len(selected), batch_size):
        batch = list(selected[start : start + batch_size])
        conditions: dict[str, Tensor] = {
            kind: torch.from_numpy(file.condition(kind, batch)[:, 0]) for kind in kinds if kind != "class"
        }
        labels = [int(file.labels[row]) for row in batch]
        if "class" in kinds:
            conditions["class"] = torch.tensor([classes[label] for label in labels])[:, None]
        codes = torch.from_numpy(file.codes(batch)[:, 0])
        with autocast(where, dtype):
            nats = -log_likelihood(
                gpt,
                codes,
                conditions=conditions,
                stride=stride,
                order=order,
                steps=sample_steps,
                batch_size=batch_size,
                on_progress=partial(report, start * header.height * header.width),
            )
        sums.add(nats, [file.label_names[label] if label >= 0 else None for label in labels])
    return _measurement(_Sums.merged(world.gather(sums)), prior, file, procedure, precision_name(dtype))


def _procedure(network: Network, size: tuple[int, int], stride: int, order: str, steps: int) -> dict[str, Any]:
    """How codes on a grid of `size` are read, for the protocol."""
    if isinstance(network, AnyOrder):
        cells = size[0] * size[1]
        return {"order": order, "sample_steps": min(steps or cells, cells)}
    return {"stride": stride} if isinstance(network, GPT) else {}


class _Sums:
    """Sums of nats by cell (h, w) and by class, with the number of images in each."""

    def __init__(self, cells: Tensor, nats: dict[str, float], counts: dict[str, int], count: int) -> None:
        self.cells, self.nats, self.counts, self.count = cells, nats, counts, count

    def add(self, nats: Tensor, labels: list[str | None]) -> None:
        self.cells += nats.sum(0)
        self.count += len(nats)
        for picture, label in zip(nats.mean((1, 2)).tolist(), labels, strict=True):
            if label is not None:
                self.nats[label] = self.nats.get(label, 0.0) + picture
                self.counts[label] = self.counts.get(label, 0) + 1

    @classmethod
    def merged(cls, parts: "list[_Sums]") -> "_Sums":
        names = sorted({name for part in parts for name in part.counts})
        return cls(
            torch.stack([part.cells for part in parts]).sum(0),
            {name: sum(part.nats.get(name, 0.0) for part in parts) for name in names},
            {name: sum(part.counts.get(name, 0) for part in parts) for name in names},
            sum(part.count for part in parts),
        )


def _classes(file: TokenFile, names: list[str], count: int) -> dict[int, int]:
    """The prior's class for each label of the file: by name, or by number if the prior has no names."""
    known = {name: number for number, name in enumerate(names)} or {str(number): number for number in range(count)}
    classes = {-1: NOT_GIVEN}
    for label, name in enumerate(file.label_names):
        if count and name not in known:
            raise UsageError(f"{file.path} has the class {name!r}, which the prior does not have")
        classes[label] = known.get(name, NOT_GIVEN)
    return classes


def _measurement(
    sums: _Sums, prior: Path, file: TokenFile, procedure: Mapping[str, Any], precision: str
) -> Measurement:
    header = file.header
    positions = sums.cells / sums.count
    per_token = float(positions.mean())
    pixels = 3 * header.frame.size.width * header.frame.size.height
    protocol: dict[str, Any] = {
        "prior": {"name": str(prior), "sha256": sha256(prior)},
        "tokens": {"name": str(file.path), "sha256": sha256(file.path), "count": sums.count, "views": header.views},
        **procedure,
        "precision": precision,
        **({"unlabelled": sums.count - sum(sums.counts.values())} if sums.counts else {}),
        "versions": versions(),
    }
    by_class = {name: sums.nats[name] / sums.counts[name] for name in sums.counts}
    return Measurement(
        metric="nats/token",
        values={
            "value": per_token,
            "bits/dim": per_token * header.height * header.width / (math.log(2) * pixels),
        },
        protocol=protocol,
        details={"by_class": by_class, "by_position": positions.tolist()},
        pictures={"by_position.png": heat_map(positions, "nats/token")},
    )
