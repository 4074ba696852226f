"""Two processes at one place: one wins and the other says so in one line, or both do the same work; never a mixture.

Two writers start within the time of one command. Readers read what another process is writing, again and again until
that ends: each gets the answer that the finished file gives, or one clear line.
"""

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from forked import Ended, Watch, start
from forked import run as run_command
from outcome import Outcome
from whole import Reference, one_line, undisturbed

TIMES = 50
QUICK = 1
_BUSY = ("another process", "is writing", "exists", "has just saved", "has changed")
"""What the line of a process that steps back says."""


def run(times: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """One row per pair."""
    tokenize, sample, prior = (undisturbed(name) for name in ("tokenize", "sample", "train-prior"))
    merge = undisturbed("tokenize, its merge")
    plain = Reference.of(replace(sample.job, line=sample.job.line[:-4]), folder / "plain")
    other = Reference.of(replace(plain.job, line=[*plain.job.line, "--seed", "5"]), folder / "other")
    decode = undisturbed("decode")
    rounded = Reference.of(replace(decode.job, line=[*decode.job.line, "--precision", "bf16"]), folder / "rounded")
    pairs: dict[str, Callable[[Path, random.Random], str | None]] = {
        "two writers: tokenize": lambda trial, rng: _two(tokenize, tokenize, trial, rng),
        "two writers: sample": lambda trial, rng: _two(plain, plain, trial, rng),
        "two writers: sample with tokens": lambda trial, rng: _two(sample, sample, trial, rng),
        "two writers: sample, two seeds": lambda trial, rng: _two(plain, other, trial, rng),
        "two writers: decode, two precisions": lambda trial, rng: _two(decode, rounded, trial, rng),
        "two writers: train-prior": lambda trial, rng: _two(prior, prior, trial, rng),
        "two resumes": lambda trial, rng: _resumes(prior, trial, rng),
        "a reader during a merge": lambda trial, rng: _read(merge, trial, rng, _OF_TOKENS),
        "a reader during a training": lambda trial, rng: _read(prior, trial, rng, _OF_RUN),
        "report during a training": lambda trial, rng: _read(prior, trial, rng, [["report", "run", "-o", "page.html"]]),
    }
    for row, attempt in pairs.items():
        rng = random.Random(f"{seed} {row}")
        for number in range(times):
            loss = None
            while loss is None:  # the two did not meet
                trial = folder / "trial"
                loss = attempt(trial, rng)
                shutil.rmtree(trial)
            yield Outcome(row, f"trial {number}", loss)


_OF_TOKENS = [[*words, "t.h5", "--json"] for words in (["info"], ["tokens", "verify"], ["eval", "codebook"])]
_OF_RUN = [["info", "run/checkpoints/last.safetensors", "--json"], ["info", "run", "--json"]]


def _two(one: Reference, other: Reference, trial: Path, rng: random.Random) -> str | None:
    """Run two writers; None if the first had ended before the second began."""
    one.job.prepare(trial)
    first = start(one.job.line, trial)
    time.sleep(rng.uniform(0, one.seconds))
    if not first.running():
        return None
    second = start(other.job.line, trial)
    return _judged([first.wait(), second.wait()], [one, other], trial)


def _judged(ended: Sequence[Ended], references: Sequence[Reference], trial: Path) -> str:
    for each in ended:
        if each.code != 0 and (problem := one_line(each)):
            return problem
        if each.code != 0 and not any(word in each.err for word in _BUSY):
            return f"the one that steps back does not say why: {each.err}"
    winners = [reference for reference, each in zip(references, ended, strict=True) if each.code == 0]
    if not winners:
        return f"neither ends well: {ended[0].err} {ended[1].err}"
    if len({id(each) for each in winners}) > 1:
        return f"both end well, with other settings: {winners[0].difference(trial)}; {winners[1].difference(trial)}"
    return winners[0].difference(trial)


def _resumes(reference: Reference, trial: Path, rng: random.Random) -> str | None:
    reference.job.prepare(trial)
    run_command(reference.job.line, trial, Watch(trial, nth=rng.randint(1, reference.operations)))
    if not (trial / reference.job.trainer).exists():
        return None
    first = start(reference.job.resume, trial)
    time.sleep(rng.uniform(0, reference.seconds / 2))
    if not first.running():
        return None
    second = start(reference.job.resume, trial)
    return _judged([first.wait(), second.wait()], [reference, reference], trial)


def _read(reference: Reference, trial: Path, rng: random.Random, lines: Sequence[Sequence[str]]) -> str | None:
    """Read while another process writes; None if it had ended before the first reader began."""
    reference.job.prepare(trial)
    right = _answers(reference, lines, trial.with_name("answers"))
    writer = start(reference.job.line, trial)
    time.sleep(rng.uniform(0, reference.seconds))
    if not writer.running():
        return None
    loss = ""
    while writer.running() and not loss:
        line = rng.choice(lines)
        read = run_command(line, trial)
        if read.code != 0:
            loss = one_line(read)
        elif line in _OF_TOKENS and read.out != right[tuple(line)]:
            loss = f"{' '.join(line)}: another answer than that of the finished file: {read.out}"
        elif line[0] == "report" and not (trial / "page.html").read_text().rstrip().endswith("</html>"):
            loss = "the page is not whole"
    if writer.running() and loss:
        writer.send(signal.SIGKILL)
    ended = writer.wait()
    (trial / "page.html").unlink(missing_ok=True)
    if not loss and ended.code != 0:
        loss = f"the writer was disturbed: {ended.err}"
    return loss or reference.difference(trial)


_ANSWERS: dict[tuple[str, ...], str] = {}


def _answers(reference: Reference, lines: Sequence[Sequence[str]], folder: Path) -> dict[tuple[str, ...], str]:
    """What the readers say of the finished file."""
    if lines is _OF_TOKENS and not _ANSWERS:
        reference.job.prepare(folder)
        run_command(reference.job.line, folder)
        _ANSWERS.update({tuple(line): run_command(line, folder).out for line in lines})
        shutil.rmtree(folder)
    return _ANSWERS
