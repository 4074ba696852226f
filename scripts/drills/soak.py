"""Long runs: memory, open files, threads and speed at the end are those of the beginning."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from material import Material, draw, make
from outcome import Outcome
from watch import MIB, Command, Look, Stretch, stretch, watched

TIMES, QUICK = 10_000, 0
"""Steps of each training, and pictures to sample; ten times as many files are tokenised. The short selection has no
long run."""
GROWTH, SLOWER = 1.05, 0.97
"""The most memory, and the least speed, of the last tenth, as a multiple of the second tenth. The speed of the second
tenth is that of the same command begun anew, in turns with the last tenth."""
ENOUGH = 2000
"""Fewer do not show the speed, or the memory: the first tenth is the start of the program."""
FILES, DISTINCT = 10, 300
"""Files to tokenise for each of `times`, and the number of different pictures among them."""


class Run(NamedTuple):
    """A long command: its name, the amount of its work, and what begins it, given a suffix for what it writes."""

    name: str
    total: int
    begin: Callable[[str], Command]


def run(times: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Watch each command while it does its work `times` times."""
    names = ("train-vqgan", "tokenize", "train-prior", "sample")
    if not times:
        yield from (Outcome(name, "", skipped="takes minutes") for name in names)
        return
    material = make(folder)
    for each in _runs(material, times, seed, folder):
        yield from judged(each, *watched(each.begin(""), partial(each.begin, "-again"), each.total))


def judged(run: Run, looks: Sequence[Look], again: Sequence[Look]) -> Iterator[Outcome]:
    """What the looks at a command show, and those at the same command begun again; the figures are printed."""
    tenth = run.total / 10
    early, late = stretch(looks, tenth, 2 * tenth), stretch(looks, 9 * tenth, run.total)
    reached = min(2 * tenth, again[-1].done)
    anew, begun = stretch(again, tenth, reached), reached - tenth
    enough = run.total >= ENOUGH and min(anew.time, late.time, begun) > 0
    speeds = (begun / anew.time, tenth / late.time) if enough else (0.0, 0.0)
    figures = f"{_figures(early)}; at the end {_figures(late)}"
    if enough:
        figures += f"; {speeds[1]:.2f} per second, begun anew {speeds[0]:.2f}: {speeds[1] / speeds[0]:.3f}"
    print(f"{run.name}: {run.total:,}: {figures}", file=sys.stderr)
    short = "" if enough else f"{run.total:,} are too few to measure it"
    trials = {
        "memory": late.memory <= GROWTH * early.memory,
        "open files": late.files <= early.files,
        "threads": late.threads <= early.threads,
        "speed": speeds[1] >= SLOWER * speeds[0],
    }
    for name, held in trials.items():
        skipped = short if name in ("memory", "speed") else ""
        yield Outcome(run.name, name, "" if held or skipped else figures, skipped)


def _figures(part: Stretch) -> str:
    return f"{part.memory / MIB:.1f} MiB, {part.files} open files, {part.threads} threads"


def _runs(material: Material, times: int, seed: int, folder: Path) -> Iterator[Run]:
    """The commands, in an order in which each can use the results of those before."""
    budget = ["--steps", times, "--minutes", 0, "--val-every", 0.05, "--save-every", 0.1, "--seed", seed, "-q"]
    alike = ["--disc-train-start", 0, "--disc-start", 0]  # all steps but the first ones do the same work

    def train_vqgan(suffix: str) -> Command:
        out = folder / f"soak-train-vqgan{suffix}"
        given = [material.pictures, "--config", material.codec_settings, "--out", out, *budget, *alike]
        return Command(["train-vqgan", *given], _last_step(out / "metrics.jsonl"), out.with_suffix(".log"))

    def train_prior(suffix: str) -> Command:
        out = folder / f"soak-train-prior{suffix}"
        given = [material.tokens, "--config", material.prior_settings, "--out", out, *budget]
        return Command(["train-prior", *given], _last_step(out / "metrics.jsonl"), out.with_suffix(".log"))

    def sample(suffix: str) -> Command:
        out = folder / f"soak-samples{suffix}"
        given = ["--ckpt", material.prior, "-o", out, "-n", times, "--seed", seed, "--device", "cpu", "-q"]
        return Command(["sample", *given], lambda: _count(out, ".png"), out.with_suffix(".log"))

    def tokenize(suffix: str) -> Command:
        tokens = folder / f"soak{suffix}.h5"
        parts = tokens.with_name(f"{tokens.name}.parts")
        given = [many, "--ckpt", material.codec, "-o", tokens, "--device", "cpu", "-q"]

        def done() -> float:
            return min(256 * _count(parts, ".h5"), FILES * times)

        return Command(["tokenize", *given], done, tokens.with_suffix(".log"))

    yield Run("train-vqgan", times, train_vqgan)
    yield Run("train-prior", times, train_prior)
    yield Run("sample", times, sample)
    many = _linked(folder, FILES * times)
    yield Run("tokenize", FILES * times, tokenize)


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
