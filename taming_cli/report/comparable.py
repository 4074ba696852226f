"""Which values of several runs may be compared: those that were measured alike; the best of them; and why others may
not."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from taming_cli.report.figures import Better, best_line, figure, in_order, validated
from taming_cli.report.record import RunRecord

Conditions = Mapping[str, str]
"""On what a value was measured, by name; a sha256 stands for what would be too long to say."""
NOT_KNOWN = "not known"
_OF_THE_RUN = ("codec", "prior", "versions")
"""Parts of a protocol that say what was measured, and with which packages, rather than on what."""


class Verdict(NamedTuple):
    """Of the values of several runs, by number: which are the best of those measured alike, and in what the others,
    which compare with none of these, were measured otherwise."""

    best: frozenset[int]
    unlike: Mapping[int, str]


def verdict(values: Sequence[float | None], conditions: Sequence[Conditions], better: Better) -> Verdict:
    """Compare what was measured under the same conditions most often (of two that occur as often, the first). None is
    no value. Nothing is best alone."""
    alike: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for n, value in enumerate(values):
        if value is not None:
            alike.setdefault(tuple(sorted(conditions[n].items())), []).append(n)
    if not alike:
        return Verdict(frozenset(), {})
    most = max(alike.values(), key=len)
    unlike = {n: _differs(conditions[n], conditions[most[0]]) for of in alike.values() if of is not most for n in of}
    if not better or len(most) == 1:
        return Verdict(frozenset(), unlike)
    reached = {n: value for n in most if (value := values[n]) is not None}
    top = max(reached.values()) if better == "higher" else min(reached.values())
    return Verdict(frozenset(n for n, value in reached.items() if value == top), unlike)


def figures_of(records: Sequence[RunRecord]) -> Mapping[str, Sequence[float | None]]:
    """The held-out figures of the runs' best models, by name in the order of tables: a value for each run, or None."""
    of_each = [validated(best_line(record), record) for record in records]
    names = in_order(dict.fromkeys(name for values in of_each for name in values))
    return {name: [values.get(name) for values in of_each] for name in names}


def verdicts(records: Sequence[RunRecord]) -> Mapping[str, Verdict]:
    """How those figures compare. Nothing is said of what only describes."""
    return {
        name: verdict(values, measured_on(records, name), figure(name).better)
        if figure(name).better
        else Verdict(frozenset(), {})
        for name, values in figures_of(records).items()
    }


def measured_on(records: Sequence[RunRecord], name: str) -> list[Conditions]:
    """On what each run's validation took the figure of that name."""
    exact = all("held_sha256" in record.about.get("data", {}) for record in records)
    return [
        _of_prior(record) if record.command == "train-prior" else _of_codec(record, name, exact) for record in records
    ]


def of_protocol(protocol: Mapping[str, Any]) -> Conditions:
    """On what, and by which network, a result of `taming eval` was taken."""
    found = {}
    for role, said in protocol.items():
        if role in _OF_THE_RUN:
            continue
        if not isinstance(said, Mapping):
            found[role] = str(said)
        elif role in ("features", "perceptual"):
            more = [str(said["resize"])] if "resize" in said else []
            found["network"] = f"{said.get('name')} ({', '.join([str(said.get('sha256'))[:8], *more])})"
        else:
            found[f"number of {role}"] = str(said.get("count", NOT_KNOWN))
            if role != "generated":  # which are the run's own
                found[role] = str(said.get("list_sha256") or said.get("sha256") or NOT_KNOWN)
    return found


def _of_codec(record: RunRecord, name: str, exact: bool) -> Conditions:
    about, train = record.about, record.config.get("train", {})
    data, perceptual = about.get("data", {}), about.get("perceptual") or {}
    found = {
        "held-out pictures": str(data["held_sha256"]) if exact else _split_of(record),
        "number of pictures": str(best_line(record).get("count", NOT_KNOWN)),
        "size": str(about.get("size") or train.get("size", NOT_KNOWN)),
    }
    if name in ("perceptual", "texture"):
        network = str(perceptual.get("name") or train.get("perceptual", NOT_KNOWN))
        found["network"] = f"{network} ({perceptual['sha256'][:8]})" if "sha256" in perceptual else network
    if name in ("codes_used", "codebook_perplexity"):
        found["codebook size"] = str(record.config.get("codec", {}).get("codebook_size", NOT_KNOWN))
    if name in ("accuracy", "cross_entropy"):
        found["labels"] = str(train.get("labels", NOT_KNOWN))
    return found


def _of_prior(record: RunRecord) -> Conditions:
    return {
        "tokens": _split_of(record),
        "number of windows": str(best_line(record).get("windows", NOT_KNOWN)),
        "window": str(record.config.get("prior", {}).get("window", NOT_KNOWN)),
    }


def _split_of(record: RunRecord) -> str:
    """A sha256 of what says which data were held out: those that it learned from, and how much of them it did not. The
    data's own sha256 covers names, and of tokens the codec; without a model file there are only the paths."""
    data, train = record.about.get("data", {}), record.config.get("train", {})
    said = (data.get("sha256") or list(record.inputs), data.get("held"), train.get("val"), train.get("held"))
    return hashlib.sha256(repr(said).encode("utf-8", "surrogateescape")).hexdigest()


def _differs(mine: Conditions, theirs: Conditions) -> str:
    said = []
    for name in dict.fromkeys((*mine, *theirs)):
        own, other = mine.get(name, NOT_KNOWN), theirs.get(name, NOT_KNOWN)
        if own != other:
            said.append(f"other {name}" if 64 in (len(own), len(other)) else f"{name} {own}, not {other}")
    return "; ".join(said)
