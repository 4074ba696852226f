"""Damaged files: each reader gives the right content or one line, in bounded time and memory, and never dies."""

import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from damages import Damaged, damaged
from examples import Example, files, fingerprint, pictures
from material import Material, make
from outcome import Outcome
from trials import MIB, Limits, attempted

from taming_cli.data.pillow import without_pillows_warnings
from taming_cli.errors import TamingError

TIMES, QUICK = 10_000, 20
LIMITS = Limits(seconds=10, memory=512 * MIB)
READERS: dict[str, Callable[[Material], list[Example]]] = {
    "model file": files.models,
    "trainer file": files.trainers,
    "token file": files.tokens,
    "parts": files.parts,
    "npz": pictures.arrays,
    "png": partial(pictures.pictures, kind="PNG"),
    "jpg": partial(pictures.pictures, kind="JPEG"),
    "webp": partial(pictures.pictures, kind="WEBP"),
    "tiff": partial(pictures.pictures, kind="TIFF"),
    "json: keypoints": pictures.keypoints,
    "json: settings": partial(files.settings, suffix=".json"),
    "json: run": files.run_files,
    "toml": partial(files.settings, suffix=".toml"),
    "pickle": files.checkpoints,
    "yaml": files.yamls,
    "zip": partial(pictures.archives, suffix=".zip"),
    "tar": partial(pictures.archives, suffix=".tar"),
    "tar.gz": partial(pictures.archives, suffix=".tar.gz"),
}
"""The rows: what is read, and its examples, of which each trial damages one."""


def run(times: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Damage a file of each row `times` times."""
    logging.getLogger("taming_cli").addHandler(logging.NullHandler())  # commands add their own
    os.environ["COLUMNS"] = "1000"
    material = make(folder)
    for row, examples_of in READERS.items():
        yield from row_of(row, examples_of(material), times, seed)


def row_of(row: str, examples: Sequence[Example], times: int, seed: int) -> Iterator[Outcome]:
    """The trials of one row."""

    def trial(number: int) -> Damaged:
        return damaged(examples[number % len(examples)].data, random.Random(f"{seed} {row} {number}"))

    truths: dict[int, str] = {}

    def intact() -> str:
        without_pillows_warnings()
        for place, each in enumerate(examples):
            path = each.copy(-1)
            path.write_bytes(each.data)
            truths[place] = fingerprint(each.read(path))
            restore(each, path)
        return ""

    def attempt(number: int) -> str:
        place = number % len(examples)
        return read_damaged(examples[place], number, trial(number).data, truths[place])

    for ended in attempted(range(times), attempt, intact, LIMITS):
        name = f"{examples[ended.number % len(examples)].path.name}, {trial(ended.number).name}"
        yield Outcome(row, f"{ended.number}: {name}", ended.loss)


def read_damaged(example: Example, number: int, data: bytes, truth: str) -> str:
    """Read a damaged copy -> what was lost."""
    path = example.copy(number)
    path.write_bytes(data)
    try:
        content = example.read(path)
    except TamingError as error:
        line = " ".join(str(error).split())
        return "" if (example.named or path.name) in line else f"the error does not name the file: {line}"
    finally:
        restore(example, path)
    if example.exact and fingerprint(content) != truth:
        return "read as other content"
    return ""


def restore(example: Example, path: Path) -> None:
    """Remove a copy, or, in place of an original, put that back."""
    if path == example.path:
        path.write_bytes(example.data)
    else:
        path.unlink(missing_ok=True)
