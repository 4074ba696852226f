"""A training in two processes, one of which is killed, stopped, or slow for a while.

The moment is a random time after the two have found each other; before that they wait for each other, up to ten
minutes, and report it. The other process has to end within a minute with one clear line, and resuming in two processes
has to end as the undisturbed run. A process that is slow, or stopped for a few seconds only, disturbs nothing. (How
long one may be stopped is 6 s here, so that a trial takes seconds; by default it is 30 s.)
"""

import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jobs import jobs
from outcome import Outcome
from whole import Reference, one_line

TIMES = 30
QUICK = 1
_MINUTE = 60.0


def run(times: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """One row per fault."""
    job = replace(jobs()["train-prior"], ranks=2)
    reference = Reference.of(job, folder / "undisturbed")
    for row, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP), ("slow", signal.SIGCONT)):
        rng = random.Random(f"{seed} {row}")
        for _ in range(times):
            outcome = None
            while outcome is None:
                trial = folder / "trial"
                job.prepare(trial)
                outcome = _tried(row, number, reference, trial, rng)
                shutil.rmtree(trial)
            yield outcome


def _tried(row: str, number: signal.Signals, reference: Reference, trial: Path, rng: random.Random) -> Outcome | None:
    """Disturb one of the processes; None if it had ended before."""
    processes = reference.job.start(trial)
    rank = rng.randrange(2)
    victim, other = processes[rank], processes[1 - rank]
    while not (trial / "run" / "config.json").exists() and other.running() and victim.running():
        time.sleep(0.01)
    time.sleep(rng.uniform(0, reference.seconds))
    if not victim.running() or not other.running():
        for each in processes:
            each.wait()
        return None
    moment = f"process {rank} {row}"
    if number == signal.SIGCONT:
        pause = rng.uniform(0.5, 3)
        victim.send(signal.SIGSTOP)
        time.sleep(pause)
        victim.send(number)
        for each in processes:
            if (ended := each.wait()).code != 0:
                return Outcome(row, f"{moment} for {pause:.1f} s", f"a process ends with {ended.code}: {ended.err}")
        return Outcome(row, f"{moment} for {pause:.1f} s", reference.difference(trial))
    victim.send(number)
    ended = other.wait(_MINUTE)
    victim.send(signal.SIGKILL)
    victim.wait()
    if ended.code == -signal.SIGALRM:
        return Outcome(row, moment, "the other process has not ended within a minute")
    if ended.code == 0 and not reference.difference(trial):
        return None  # all was done
    loss = one_line(ended) or reference.damage(trial) or reference.again(trial, resume=rng.random() < 0.5)
    return Outcome(row, moment, loss)
