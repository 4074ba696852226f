"""Long runs: memory, open files, threads and speed at the end are those of the beginning."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from material import Material, draw, make
from outcome import Outcome
from watch import MIB, Look, Stretch, stretch, watched

TIMES, QUICK = 10_000, 0
"""Steps of each training, and pictures to sample; ten times as many files are tokenised. The short selection has no
long run."""
GROWTH, SLOWER = 1.05, 0.97
"""The most memory, and the least speed, of the last tenth, as a multiple of the second tenth."""
ENOUGH = 2000
"""Fewer do not show the speed, or the memory: the first tenth is the start of the program."""
FILES, DISTINCT = 10, 300
"""Files to tokenise for each of `times`, and the number of different pictures among them."""


class Run(NamedTuple):
    """A long command: its name, arguments, the amount of its work, and how much of that is done."""

    name: str
    arguments: Sequence[object]
    total: int
    done: Callable[[], float]


def run(times: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Watch each command while it does its work `times` times."""
    names = ("train-vqgan", "tokenize", "train-prior", "sample")
    if not times:
        yield from (Outcome(name, "", skipped="takes minutes") for name in names)
        return
    material = make(folder)
    for each in _runs(material, times, seed, folder):
        looks = watched(each.arguments, each.done, folder / f"{each.name}.log")
        yield from judged(each, looks)


def judged(run: Run, looks: Sequence[Look]) -> Iterator[Outcome]:
    """What the looks at a command show; the figures are printed."""
    tenth = run.total / 10
    early, late = stretch(looks, tenth, 2 * tenth), stretch(looks, 9 * tenth, run.total)
    print(f"{run.name}: {run.total:,}: {_figures(early, tenth)}; at the end {_figures(late, tenth)}", file=sys.stderr)
    short = "" if run.total >= ENOUGH and early.time > 0 else f"{run.total:,} are too few to measure it"
    trials = {
        "memory": late.memory <= GROWTH * early.memory,
        "open files": late.files <= early.files,
        "threads": late.threads <= early.threads,
        "speed": SLOWER * late.time <= early.time,
    }
    for name, held in trials.items():
        skipped = short if name in ("memory", "speed") else ""
        loss = f"{_figures(early, tenth)}; at the end {_figures(late, tenth)}"
        yield Outcome(run.name, name, "" if held or skipped else loss, skipped)


def _figures(part: Stretch, work: float) -> str:
    speed = f"speed {work / part.time:.2f}" if part.time > 0 else "no time"
    return f"{part.memory / MIB:.1f} MiB, {part.files} open files, {part.threads} threads, {speed}"


def _runs(material: Material, times: int, seed: int, folder: Path) -> Iterator[Run]:
    """The commands, in an order in which each can use the results of those before."""
    budget = ["--steps", times, "--minutes", 0, "--val-every", 0.05, "--save-every", 0.1, "--seed", seed, "-q"]
    alike = ["--disc-train-start", 0, "--disc-start", 0]  # all steps but the first ones do the same work
    for command, settings, source, more in (
        ("train-vqgan", material.codec_settings, material.pictures, alike),
        ("train-prior", material.prior_settings, material.tokens, []),
    ):
        out = folder / f"soak-{command}"
        arguments = [command, source, "--config", settings, "--out", out, *budget, *more]
        yield Run(command, arguments, times, _last_step(out / "metrics.jsonl"))
    out = folder / "soak-samples"
    arguments = ["sample", "--ckpt", material.prior, "-n", times, "-o", out, "--seed", seed, "--device", "cpu", "-q"]
    yield Run("sample", arguments, times, lambda: _count(out, ".png"))
    many = _linked(folder, FILES * times)
    tokens = folder / "soak.h5"
    parts = tokens.with_name(f"{tokens.name}.parts")
    arguments = ["tokenize", many, "--ckpt", material.codec, "-o", tokens, "--device", "cpu", "-q"]
    yield Run("tokenize", arguments, FILES * times, lambda: min(256 * _count(parts, ".h5"), FILES * times))


def _linked(folder: Path, count: int) -> Path:
    """A folder of `count` links to a few hundred different pictures."""
    pictures = sorted(draw(folder / "distinct", DISTINCT).rglob("*.png"))
    many = folder / "many"
    for number in range(count):
        place = many / f"{number // 1000:04d}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        os.link(pictures[number % len(pictures)], place / f"{number:06d}.png")
    return many


def _last_step(log: Path) -> Callable[[], float]:
    """The last step in a log of a training."""

    def step() -> float:
        if not log.exists():
            return 0
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            lines = stream.read().splitlines()
        for line in reversed(lines):
            try:
                return float(json.loads(line)["step"])
            except (ValueError, KeyError):  # the beginning of a line is missing, or its end is not yet written
                continue
        return 0

    return step


def _count(folder: Path, suffix: str) -> int:
    """Number of files in a folder, which need not exist."""
    try:
        return sum(entry.name.endswith(suffix) for entry in os.scandir(folder))
    except FileNotFoundError:
        return 0
