"""WebDataset's naming: matches label files with pictures, and finds pictures that are companions of another.

A sample's files share a key, which is followed by a field: `0001.jpg`, `0001.cls`, `0001.seg.png`. WebDataset ends the
key at the first dot of the file name. In practice keys contain dots (`scan_v1.5_0000.png`), so names are matched by
the longest stem that they share:

- A `.cls` file belongs to the picture of its stem (`a.b.cls` to `a.b.png`) or of its whole name (`a.png.cls`). Without
  such a picture, fields are removed from its end (`a.fine.cls` belongs to `a.png`), and then it may be shorter than the
  picture's stem (`a.cls` belongs to `a.image.png`).
- `a.seg.png` is a companion of `a.png` where the field is one of FIELDS, or, in a set with labels or captions
  (`a.cls`, `a.json`, `a.txt`), any word that begins with a letter. A picture with a label file of its own stem is not
  a companion.

Files that contradict each other raise an error that names both. The order of the files has no effect.
"""

import codecs
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from taming_cli.errors import BadFileError

LABEL = ".cls"
MARKS = (".cls", ".json", ".txt")
"""Suffixes of labels, metadata and captions; such a file beside a picture identifies a WebDataset."""

_FIELDS_NAMES = """
alpha annotation bbox boxes canny control cond condition densepose depth disparity edge edges flow gt hed instance
instances inpaint keypoint keypoints label labelmap labels lineart map maps mask masks matte mlsd normal normals
openpose panoptic parsing pose saliency scribble seg segm segmap segmentation semantic semseg skeleton sketch
softedge trimap
"""
FIELDS = frozenset(_FIELDS_NAMES.split())
"""Words that mark a picture as a map of another picture. A field may consist of several words and end in a number:
`instance_mask`, `seg2`."""

LONGEST = 4096
"""The largest label file, in bytes."""

_FIELD = re.compile(r"[A-Za-z][\w+-]*")
_WORD = re.compile(r"[a-z]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class WebSamples(NamedTuple):
    """The pictures of a set, without companions."""

    pictures: list[str]
    """Names, in their given order."""

    labels: dict[str, str]
    """Picture -> label, for pictures with a label file."""

    companions: list[str]


def samples(
    pictures: Sequence[str], labels: Mapping[str, bytes], others: Iterable[str], *, captions: bool = True
) -> WebSamples:
    """Match the names of pictures with label files (name -> content), given the names of all `others`.

    Without `captions` only label files identify a WebDataset: a folder of photographs may hold captions, and cut-outs
    beside them. Raises BadFileError for label files that are not a label or contradict each other.
    """
    if not labels and all("." not in PurePosixPath(_stem(name)).name for name in pictures):
        return WebSamples(list(pictures), {}, [])
    files = _Files(pictures)
    labelled = set(map(_stem, labels))
    marks = labelled | {_stem(name) for name in others if captions and name.lower().endswith(MARKS)}
    marked = any(stem in files.of_stem for stem in marks)
    companions = {name for name in pictures if files.is_companion(name, marks if marked else None, labelled)}
    kept = [name for name in pictures if name not in companions]
    if companions:
        files = _Files(kept)
    return WebSamples(kept, _labels(files, labels), [name for name in pictures if name in companions])


def label_text(name: str, data: bytes) -> str:
    """Return the label in a `.cls` file: one line of text. Raises BadFileError for anything else."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding).strip()
    except UnicodeDecodeError:
        raise BadFileError(f"{name} is not utf-8 text; a label file holds the name or number of a class") from None
    if not text:
        raise BadFileError(f"{name} is empty or damaged; write the picture's class into it, or remove it")
    if len(data) > LONGEST or _CONTROL.search(text):
        raise BadFileError(f"{name} holds more than one line of text; a label file holds the name or number of a class")
    return text


class _Files:
    """Pictures by stem, and by each prefix of their stem that ends at a dot."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)
        self.of_stem: dict[str, list[str]] = {}
        self.by_prefix: dict[str, list[str]] = {}
        for name in names:
            stem = _stem(name)
            self.of_stem.setdefault(stem, []).append(name)
            while (shorter := _stem(stem)) != stem:
                self.by_prefix.setdefault(shorter, []).append(name)
                stem = shorter

    def is_companion(self, name: str, marks: set[str] | None, labelled: set[str]) -> bool:
        """Return whether this picture is a map of another one.

        `marks` are the stems of label, metadata and caption files, None outside of a WebDataset; `labelled` those of
        label files.
        """
        stem = _stem(name)
        if stem in labelled or name in labelled:
            return False
        key = stem
        while (shorter := _stem(key)) != key and _FIELD.fullmatch(key[len(shorter) + 1 :]):
            key = shorter
            known = _is_map(stem[len(key) + 1 :])
            if key in self.of_stem and (known or (marks is not None and stem not in marks)):
                return True
            # Without a plain picture another field of the sample may be the picture: a.image.png beside a.seg.png.
            if known and any(_is_fields(rest) and not _is_map(rest) for rest in self._rests(key)):
                return True
        return False

    def _rests(self, key: str) -> Iterator[str]:
        """Yield the rest of the stems that begin with `key`."""
        return (_stem(name)[len(key) + 1 :] for name in self.by_prefix.get(key, ()))


def _labels(files: _Files, labels: Mapping[str, bytes]) -> dict[str, str]:
    exact: dict[str, tuple[str, str]] = {}
    """Picture -> its label file, and the text in it."""
    vague: dict[str, tuple[str, str]] = {}
    """The same for label files whose name is only a prefix of the picture's."""
    for name in sorted(labels):
        text = label_text(name, labels[name])
        named, longer = _claimed(files, name)
        for picture in named:
            _assign(exact, picture, name, text)
        if longer and len(longer) > 1:
            raise BadFileError(
                f"{name} could be the label of {longer[0]} and of {longer[1]}; give it the stem of its picture"
            )
        for picture in longer:
            _assign(vague, picture, name, text)
    labelled = {**vague, **exact}
    for alike in files.of_stem.values():
        for one, other in itertools.pairwise(alike):
            if one in labelled and other in labelled and labelled[one][1] != labelled[other][1]:
                raise BadFileError(
                    f"{labelled[one][0]} and {labelled[other][0]} label {one} and {other}, which have one key, as "
                    f"{labelled[one][1]!r} and {labelled[other][1]!r}; rename one of the pictures"
                )
    return {picture: text for picture, (_, text) in labelled.items()}


def _claimed(files: _Files, name: str) -> tuple[list[str], list[str]]:
    """Return the pictures that a label file names, and otherwise those whose name begins with its stem."""
    key = _stem(name)
    if key in files.names:
        return [key], []
    removed = ""
    while True:
        if alike := files.of_stem.get(key):
            return alike, []
        longer = files.by_prefix.get(key, [])
        if removed:  # the rest of the picture's stem must be fields too, or it is another sample
            longer = [each for each in longer if _is_fields(_stem(each)[len(key) + 1 :])]
        if longer:
            return [], longer
        shorter = _stem(key)
        removed = key[len(shorter) + 1 :]
        if shorter == key or not _FIELD.fullmatch(removed):
            return [], []
        key = shorter


def _assign(labels: dict[str, tuple[str, str]], picture: str, name: str, text: str) -> None:
    before = labels.setdefault(picture, (name, text))
    if before[1] != text:
        raise BadFileError(
            f"{before[0]} and {name} are both the label of {picture}, {before[1]!r} and {text!r}; remove one of them"
        )


def _is_fields(rest: str) -> bool:
    """Return whether the rest of a stem consists of fields."""
    return all(map(_FIELD.fullmatch, rest.split(".")))


def _is_map(field: str) -> bool:
    return any(word in FIELDS for word in _WORD.findall(field.lower()))


def _stem(name: str) -> str:
    """Remove the last dot of the file name and everything after it; a dot at its beginning does not count."""
    dot = name.rfind(".")
    return name[:dot] if dot > name.rfind("/") + 1 else name
