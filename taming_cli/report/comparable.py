"""Compares the values of several runs that were measured under the same conditions: finds the best of them, and why the
others are not comparable."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from taming_cli.report.figures import Better, figure, in_order, validated
from taming_cli.report.record import RunRecord

Conditions = Mapping[str, str]
"""The conditions of a measurement by name; long lists are replaced by their sha256."""
UNKNOWN = "not known"
_SUBJECT = ("codec", "prior", "versions")
"""Parts of a protocol that name the measured model and the packages, not the conditions."""


class Ranking(NamedTuple):
    """Of the values of several runs, by index: the best of the comparable ones, and how the conditions of the others
    differ from theirs."""

    best: frozenset[int]
    different: Mapping[int, str]


UNRANKED = Ranking(frozenset(), {})


class Row(NamedTuple):
    """A row of a table: one text per column, or per run; a ranking of the runs, if it has values of theirs."""

    title: str
    texts: Sequence[str]
    unit: str = ""
    ranking: Ranking = UNRANKED


def rank(values: Sequence[float | None], conditions: Sequence[Conditions], better: Better) -> Ranking:
    """Compare the values measured under the most frequent conditions (of two equally frequent ones, the first). None
    stands for no value. A single value is not the best of anything."""
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for n, value in enumerate(values):
        if value is not None:
            groups.setdefault(tuple(sorted(conditions[n].items())), []).append(n)
    largest = max(groups.values(), key=len, default=[])
    others = [n for group in groups.values() if group is not largest for n in group]
    different = {n: _difference(conditions[n], conditions[largest[0]]) for n in others}
    if not better or len(largest) < 2:
        return Ranking(frozenset(), different)
    comparable = {n: value for n in largest if (value := values[n]) is not None}
    best = (max if better == "higher" else min)(comparable.values())
    return Ranking(frozenset(n for n, value in comparable.items() if value == best), different)


def ranked_figures(records: Sequence[RunRecord]) -> Mapping[str, tuple[Sequence[float | None], Ranking]]:
    """The held-out figures of the runs' best models, in the order of tables: one value per run, or None, and their
    ranking, if the figure has a better direction."""
    columns = [validated(record.best_line, record) for record in records]
    ranked = {}
    for name in in_order(name for column in columns for name in column):
        values = [column.get(name) for column in columns]
        better = figure(name).better
        ranked[name] = values, rank(values, validation_conditions(records, name), better) if better else UNRANKED
    return ranked


def validation_conditions(records: Sequence[RunRecord], name: str) -> list[Conditions]:
    """The conditions under which each run's validation measured the figure `name`."""
    exact = all("held_sha256" in record.about.get("data", {}) for record in records)
    return [_validation(record, name, exact) for record in records]


def protocol_conditions(protocol: Mapping[str, Any]) -> Conditions:
    """The conditions of a result of `taming eval`, with the network that measured it."""
    conditions = {}
    for role, value in protocol.items():
        if role in _SUBJECT:
            continue
        if not isinstance(value, Mapping):
            conditions[role] = str(value)
        elif role in ("features", "perceptual"):
            details = [str(value.get("sha256"))[:8], *([str(value["resize"])] if "resize" in value else [])]
            conditions["network"] = f"{value.get('name')} ({', '.join(details)})"
        else:
            conditions[f"number of {role}"] = str(value.get("count", UNKNOWN))
            if role != "generated":  # the run's own samples
                conditions[role] = str(value.get("list_sha256") or value.get("sha256") or UNKNOWN)
    return conditions


def _validation(record: RunRecord, name: str, exact: bool) -> Conditions:
    about, config, line = record.about, record.config, record.best_line
    if record.command == "train-prior":
        window = str(config.get("prior", {}).get("window", UNKNOWN))
        return {"tokens": _split(record), "number of windows": str(line.get("windows", UNKNOWN)), "window": window}
    train, perceptual = config.get("train", {}), about.get("perceptual") or {}
    conditions = {
        "held-out pictures": str(about["data"]["held_sha256"]) if exact else _split(record),
        "number of pictures": str(line.get("count", UNKNOWN)),
        "size": str(about.get("size") or train.get("size", UNKNOWN)),
    }
    if name in ("perceptual", "texture"):
        network = str(perceptual.get("name") or train.get("perceptual", UNKNOWN))
        conditions["network"] = f"{network} ({perceptual['sha256'][:8]})" if "sha256" in perceptual else network
    if name.removeprefix("top_") in ("codes_used", "codebook_perplexity"):
        conditions["codebook size"] = str(config.get("codec", {}).get("codebook_size", UNKNOWN))
    if name in ("accuracy", "cross_entropy"):
        conditions["labels"] = str(train.get("labels", UNKNOWN))
    return conditions


def _split(record: RunRecord) -> str:
    """A sha256 that identifies the held-out data: the training data and the share held out. The data's own sha256
    covers names, and for tokens the codec; without a model file only the paths are known."""
    data, train = record.about.get("data", {}), record.config.get("train", {})
    split = (data.get("sha256") or list(record.inputs), data.get("held"), train.get("val"), train.get("held"))
    return hashlib.sha256(repr(split).encode("utf-8", "surrogateescape")).hexdigest()


def _difference(ours: Conditions, theirs: Conditions) -> str:
    """`size 64x64, not 128x128; other held-out pictures`: the latter for a sha256, 64 characters long."""
    differences = []
    for name in dict.fromkeys((*ours, *theirs)):
        own, other = ours.get(name, UNKNOWN), theirs.get(name, UNKNOWN)
        if own != other:
            differences.append(f"other {name}" if 64 in (len(own), len(other)) else f"{name} {own}, not {other}")
    return "; ".join(differences)
