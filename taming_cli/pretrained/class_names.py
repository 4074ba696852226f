"""Match a prior's labels to a classifier's classes: by a mapping, by name, by WordNet id, or by number."""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taming_cli.config.fields import one_of
from taming_cli.errors import UsageError
from taming_cli.pretrained.classifiers import Classifier

_WORDNET = re.compile(r"n\d{8}(?!\d)")
_SPACES = re.compile(r"[\s_-]+")


def match(
    labels: Sequence[str],
    classifier: Classifier,
    mapping: Mapping[str, str | int] | None = None,
    *,
    needed: Collection[int] | None = None,
) -> Tensor:
    """A prior's labels -> int64 (len(labels),): the classifier's class for each.

    The first rule that yields exactly one class applies:
    1. `mapping`, from a label (or `#` and its number) to a class, by number or by rules 2 and 3; see `read_mapping`;
    2. the name of a class, otherwise one of its synonyms. Spaces, underscores and hyphens are equivalent, and so is
       case unless that makes the name ambiguous (a Cardigan is a dog, a cardigan is knitted);
    3. the WordNet id at the start of the label (`n02123045`, `n02085620-Chihuahua`);
    4. a decimal number, if the labels are exactly the numbers of all classes, as for priors trained on ImageNet.
    If no label matches, the classes have no names but numbers, and there are as many labels as classes, both are
    assumed to have the same order, since both come from sorted folders.

    `needed` are the numbers of the labels that must have a class; None means all. Other labels without a class are -1.
    UsageError reports the number of unmatched labels, the first one and the remedy, or the invalid entry of the
    mapping.
    """
    names = _Names(classifier)
    given = _resolve(mapping or {}, labels, names)
    numbered = len(labels) == len(classifier.classes)
    counted = {label for label in labels if label.isascii() and label.isdecimal()}
    numbers = {int(label) for label in counted} == set(range(len(classifier.classes)))
    matched = []
    for label in labels:
        classes = {given[label]} if label in given else names.find(label, numbers=numbers)
        matched.append(classes.pop() if len(classes) == 1 else -1)
    if numbered and max(matched, default=-1) < 0 and not classifier.wordnet:
        matched = list(range(len(labels)))

    requested = range(len(labels)) if needed is None else sorted(set(needed))
    without = [number for number in requested if matched[number] < 0]
    if without:
        first = labels[without[0]]
        unclear = [classifier.classes[index] for index in sorted(names.find(first, numbers=numbers))]
        several = f" (it can be {' or '.join(map(repr, unclear))})" if unclear else ""
        raise UsageError(
            f"{len(without)} of the {len(requested)} requested classes are not classes of the classifier"
            f" {classifier.name}, which has {len(classifier.classes)}; the first is {first!r}{several}: map it with"
            f' --class-map FILE, JSON like {{{json.dumps(first)}: "{classifier.classes[0]}"}}; see: '
            "taming guide any-size"
        )
    return torch.tensor(matched, dtype=torch.int64)


def read_mapping(path: Path) -> dict[str, str | int]:
    """A `--class-map` file: a JSON object from the prior's labels to a classifier's classes, each a name or a number.

    UsageError for a file that is not that.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise UsageError(f"--class-map {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, a duplicate label
        raise UsageError(f"--class-map {path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f'--class-map {path} is not a JSON object; write {{"a label": "its class", ...}}')
    for label, value in content.items():
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise UsageError(
                f"--class-map {path}: the class of {label!r} is {json.dumps(value)[:40]}; give the name of a class or"
                " its number, counted from 0"
            )
    return content


class _Names:
    """The names of classes as tables from a word to the classes it may mean, from the strictest to the loosest."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        first = [(name,) for name in classifier.classes]
        every = [(*words, ", ".join(words)) for words in classifier.synonyms]
        self.tables = [(fold, _table(words, fold)) for words in (first, every) for fold in (False, True)]
        self.wordnet = {key: index for index, key in enumerate(classifier.wordnet)}

    def find(self, label: str, *, numbers: bool) -> set[int]:
        """The classes that match a label: none, one, or several. `numbers`: decimal numbers are classes too."""
        for fold, table in self.tables:
            if classes := table.get(_plain(label, fold)):
                return set(classes)
        wordnet = _WORDNET.match(label)
        if wordnet and wordnet[0] in self.wordnet:
            return {self.wordnet[wordnet[0]]}
        if numbers and label.isascii() and label.isdecimal() and int(label) < len(self.classifier.classes):
            return {int(label)}
        return set()

    def numbered(self, text: str) -> set[int]:
        """The class named by `#` and a number."""
        number = text.removeprefix("#")
        fits = text != number and number.isascii() and number.isdecimal() and int(number) < len(self.classifier.classes)
        return {int(number)} if fits else set()


def _table(words: Sequence[tuple[str, ...]], fold: bool) -> dict[str, set[int]]:
    table: dict[str, set[int]] = defaultdict(set)
    for index, of_one in enumerate(words):
        for word in of_one:
            table[_plain(word, fold)].add(index)
    return dict(table)


def _plain(word: str, fold: bool) -> str:
    spaced = _SPACES.sub(" ", word).strip()
    return spaced.casefold() if fold else spaced


def _resolve(mapping: Mapping[str, str | int], labels: Sequence[str], names: _Names) -> dict[str, int]:
    """A mapping in numbers: the label as the prior spells it -> the class."""
    known, classes = set(labels), names.classifier.classes
    by_number = {f"#{number}": label for number, label in enumerate(labels)}
    resolved = {}
    for given, value in mapping.items():
        label = given if given in known else by_number.get(given, given)
        if label in resolved:
            raise UsageError(f"--class-map: {label!r} and {given!r} are the same label; map it once")
        if label not in known:
            raise UsageError(f"--class-map: {label!r} is not a label of the prior; {one_of(labels, label)}")
        if isinstance(value, int):
            if not 0 <= value < len(classes):
                raise UsageError(
                    f"--class-map: {label!r} is class {value}, but the classifier {names.classifier.name} has 0 to"
                    f" {len(classes) - 1}"
                )
            resolved[label] = value
            continue
        candidates = names.find(value, numbers=False) or names.numbered(value)
        if len(candidates) != 1:
            wrong = f"may be any of {sorted(candidates)}; give the number" if candidates else one_of(classes, value)
            raise UsageError(
                f"--class-map: {value!r}, for {label!r}, is not one class of {names.classifier.name}; {wrong}"
            )
        resolved[label] = candidates.pop()
    return resolved


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. ValueError for a label that occurs twice, of which JSON would keep the last."""
    content: dict[str, Any] = {}
    for label, value in pairs:
        if label in content:
            raise ValueError(f"{label!r} occurs twice")
        content[label] = value
    return content
