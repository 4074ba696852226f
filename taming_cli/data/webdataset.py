"""WebDataset's naming: which label file belongs to which picture, and which pictures are another picture's companions.

A sample's files share a key, and what follows the key is a field: `0001.jpg`, `0001.cls`, `0001.seg.png`. WebDataset
ends the key at the first dot of the file name. Keys have dots of their own in practice (`scan_v1.5_0000.png`), so here
names are matched by the longest stem that they have in common:

- A `.cls` file belongs to the picture of its stem (`a.b.cls` to `a.b.png`) or of its whole name (`a.png.cls`). Where
  there is none, fields are taken off its end (`a.fine.cls` goes to `a.png`), and then it may be shorter than the
  picture's stem (`a.cls` goes to `a.image.png`).
- `a.seg.png` is a companion of `a.png` where the field is one of FIELDS, or, in a set with labels or captions
  (`a.cls`, `a.json`, `a.txt`), any word that begins with a letter. A picture with a label file of its own stem is none.

What two files say differently is an error that names both; the order of the files decides nothing.
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
"""Suffixes of labels, metadata and captions: files of a picture's stem with one of them make a set WebDataset's."""

_FIELDS_NAMES = """
alpha annotation bbox boxes canny control cond condition densepose depth disparity edge edges flow gt hed instance
instances inpaint keypoint keypoints label labelmap labels lineart map maps mask masks matte mlsd normal normals
openpose panoptic parsing pose saliency scribble seg segm segmap segmentation semantic semseg skeleton sketch
softedge trimap
"""
FIELDS = frozenset(_FIELDS_NAMES.split())
"""Words that mark a picture as a map that belongs to another picture. A field may join several words and end in a
number: `instance_mask`, `seg2`."""

LONGEST = 4096
"""Bytes of a label file that are read."""

_FIELD = re.compile(r"[A-Za-z][\w+-]*")
_WORD = re.compile(r"[a-z]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Samples(NamedTuple):
    """The pictures of a set, without companions."""

    pictures: list[str]
    """Names, in the order that they were given in."""

    labels: dict[str, str]
    """What the label files say; pictures without one are missing."""

    companions: list[str]


def samples(
    pictures: Sequence[str], labels: Mapping[str, bytes], others: Iterable[str], *, captions: bool = True
) -> Samples:
    """Match the names of pictures with label files (name -> content) and look at what `others` there are.

    With `captions` off only label files make a set WebDataset's: a folder of photographs may hold a caption for each,
    and cut-outs beside them. Raises BadFileError for label files that are no label or contradict each other.
    """
    if not labels and all("." not in PurePosixPath(_stem(name)).name for name in pictures):
        return Samples(list(pictures), {}, [])
    files = _Files(pictures)
    labelled = set(map(_stem, labels))
    marks = labelled | {_stem(name) for name in others if captions and name.lower().endswith(MARKS)}
    marked = any(stem in files.of_stem for stem in marks)
    gone = {name for name in pictures if files.is_companion(name, marks if marked else None, labelled)}
    kept = [name for name in pictures if name not in gone]
    if gone:
        files = _Files(kept)
    return Samples(kept, _labels(files, labels), [name for name in pictures if name in gone])


def label_text(name: str, data: bytes) -> str:
    """The label that a `.cls` file holds: one line of text. Raises BadFileError for anything else."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding).strip()
    except UnicodeDecodeError:
        raise BadFileError(f"{name} is not text in utf-8; a label file holds the name or number of a class") from None
    if not text:
        raise BadFileError(f"{name} is empty or damaged; write the picture's class there, or take the file out")
    if len(data) > LONGEST or _CONTROL.search(text):
        raise BadFileError(f"{name} holds more than one line of text; a label file holds the name or number of a class")
    return text


class _Files:
    """Pictures by stem, and by each beginning of their stem that ends at a dot."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)
        self.of_stem: dict[str, list[str]] = {}
        self.beginning: dict[str, list[str]] = {}
        for name in names:
            stem = _stem(name)
            self.of_stem.setdefault(stem, []).append(name)
            while (shorter := _stem(stem)) != stem:
                self.beginning.setdefault(shorter, []).append(name)
                stem = shorter

    def is_companion(self, name: str, marks: set[str] | None, labelled: set[str]) -> bool:
        """Whether there is a picture that this one is a map of. `marks` are the stems of label, metadata and caption
        files, None where the set is not WebDataset's; `labelled` those of label files."""
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
        """What follows `key` in the stems of the pictures that begin with it."""
        return (_stem(name)[len(key) + 1 :] for name in self.beginning.get(key, ()))


def _labels(files: _Files, labels: Mapping[str, bytes]) -> dict[str, str]:
    said: dict[str, tuple[str, str]] = {}
    """Picture -> the label file that names it, and its text."""
    vague: dict[str, tuple[str, str]] = {}
    """The same of label files whose name is only the beginning of the picture's."""
    for name in sorted(labels):
        text = label_text(name, labels[name])
        exact, longer = _claimed(files, name)
        for picture in exact:
            _take(said, picture, name, text)
        if longer and len(longer) > 1:
            raise BadFileError(
                f"{name} could be the label of {longer[0]} and of {longer[1]}; give it the stem of its picture"
            )
        for picture in longer:
            _take(vague, picture, name, text)
    found = {**vague, **said}
    for alike in files.of_stem.values():
        for one, other in itertools.pairwise(alike):
            if one in found and other in found and found[one][1] != found[other][1]:
                raise BadFileError(
                    f"{found[one][0]} and {found[other][0]} label {one} and {other}, which are of one key, as "
                    f"{found[one][1]!r} and {found[other][1]!r}; rename one of the pictures"
                )
    return {picture: text for picture, (_, text) in found.items()}


def _claimed(files: _Files, name: str) -> tuple[list[str], list[str]]:
    """The pictures that a label file names, or else those whose name begins with its stem."""
    key = _stem(name)
    if key in files.names:
        return [key], []
    taken_off = ""
    while True:
        if alike := files.of_stem.get(key):
            return alike, []
        longer = files.beginning.get(key, [])
        if taken_off:  # then what the picture has there has to be a field too: the next sample is none
            longer = [each for each in longer if _is_fields(_stem(each)[len(key) + 1 :])]
        if longer:
            return [], longer
        shorter = _stem(key)
        taken_off = key[len(shorter) + 1 :]
        if shorter == key or not _FIELD.fullmatch(taken_off):
            return [], []
        key = shorter


def _take(said: dict[str, tuple[str, str]], picture: str, name: str, text: str) -> None:
    before = said.setdefault(picture, (name, text))
    if before[1] != text:
        raise BadFileError(
            f"{before[0]} and {name} are both the label of {picture}, and say {before[1]!r} and {text!r}; "
            "take one of them out"
        )


def _is_fields(rest: str) -> bool:
    """Whether what follows a key is one field or several."""
    return all(map(_FIELD.fullmatch, rest.split(".")))


def _is_map(field: str) -> bool:
    return any(word in FIELDS for word in _WORD.findall(field.lower()))


def _stem(name: str) -> str:
    """Without the part from the last dot of the file name on; a dot at its beginning ends nothing."""
    dot = name.rfind(".")
    return name[:dot] if dot > name.rfind("/") + 1 else name
