"""Power cuts: a command on a file system that forgets what was not synced; see `surviving` for what may be left.

The system calls of the undisturbed command are recorded by strace. After each call that changes anything, six states of
the folder are built, and each file under a final name has to be whole or absent. (Writes to one file that follow each
other count as one call, since the states cut their data anyway.) From a sample of these states the command is run
again, and has to end as the undisturbed one. After the last call, all results have to be there in each state: a
command that has ended has nothing to lose.
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from jobs import Job
from outcome import Outcome
from recorded import Call, cannot_record, record
from surviving import STATES, Disk, write
from whole import Reference, undisturbed

TIMES = 400
QUICK = 16
_AGAIN = 8
"""One in so many moments is followed by running the command again."""
ROWS = {"tokenize": "tokenize", "train-prior": "save", "sample": "sample"}
"""The commands, by the names of their jobs, and their rows."""


def run(times: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Two rows per command: moments, all of them by default, and runs from what is left."""
    if reason := cannot_record():
        for row in ROWS.values():
            yield Outcome(row, "all", skipped=reason)
        return
    for name, row in ROWS.items():
        reference = undisturbed(name)
        job = _without_threads(reference.job)
        begun = folder / f"recorded-{name}"
        job.prepare(begun)
        disk = Disk(begun)
        calls = record(job.line, begun, folder / f"{name}.log")
        yield from _cuts(row, reference, calls, disk, times, random.Random(f"{seed} {row}"), folder / "left")


def _cuts(
    row: str, reference: Reference, calls: Sequence[Call], disk: Disk, times: int, rng: random.Random, folder: Path
) -> Iterator[Outcome]:
    moments = [number for number, call in enumerate(calls) if not _continues(call, calls[number + 1 : number + 2])]
    chosen = {*rng.sample(moments, min(times, len(moments)) - 1), len(calls) - 1}
    again = set(rng.sample(sorted(chosen), max(1, len(chosen) // _AGAIN)))
    seen = set[int]()
    for number, call in enumerate(calls):
        disk.apply(call)
        if number not in chosen:
            continue
        moment = f"after call {number} of {len(calls)}, {call.kind} {call.path} {call.target}".rstrip()
        loss = ""
        lefts = {state: disk.left(state, rng) for state in STATES}
        for state, left in lefts.items():
            key = hash(tuple(left.items()))
            if key not in seen and not loss:
                seen.add(key)
                write(left, folder)
                found = reference.damage(folder)
                if not found and number == len(calls) - 1:
                    found = reference.difference(folder)
                loss = f"{state}: {found}" if found else ""
                shutil.rmtree(folder)
        yield Outcome(f"{row}: files", moment, loss)
        if number in again:
            state = rng.choice(STATES)
            write(lefts[state], folder)
            yield Outcome(f"{row}: run again", f"{moment}, {state}", reference.again(folder, resume=rng.random() < 0.5))
            shutil.rmtree(folder)


def _continues(call: Call, following: Sequence[Call]) -> bool:
    """Whether a call changes nothing, or the next one continues it."""
    if call.kind == "open":
        return bool(following)
    return call.kind == "write" and any(each.kind == "write" and each.file == call.file for each in following)


def _without_threads(job: Job) -> Job:
    """The same command, all of whose files are written and read by one thread."""
    return replace(job, line=["0" if before == "--workers" else word for before, word in _pairs(job.line)])


def _pairs(line: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(("", *line), line, strict=False)
