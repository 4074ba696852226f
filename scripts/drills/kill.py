"""kill -9 at random moments: the same command then ends as if nothing had happened, and no file is ever half there.

Half of the moments are the nth operation on a file, n drawn at random; half are a random time within the command.
Every fourth trial kills the second run too. A command that ended before its kill is no trial: it is drawn again.
"""

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from forked import Watch, start
from jobs import jobs
from outcome import Outcome
from whole import Reference, undisturbed

TIMES = 100
QUICK = 2


def run(times: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """One row per command."""
    for name, job in jobs().items():
        rng = random.Random(f"{seed} {name}")
        reference = undisturbed(name)
        for _ in range(times):
            trial = folder / "trial"
            job.prepare(trial)
            moments = []
            loss = ""
            for _ in range(1 if rng.random() < 0.75 else 2):
                moment = _killed(reference, trial, rng)
                if moment is not None:
                    moments.append(moment)
                    loss = loss or reference.damage(trial)
            loss = loss or reference.again(trial, resume=rng.random() < 0.5)
            yield Outcome(name, "killed " + ", then ".join(moments), loss)
            shutil.rmtree(trial)


def _killed(reference: Reference, trial: Path, rng: random.Random) -> str | None:
    """Run the command until it is killed; returns when that was. The folder is begun anew where the command ended
    before its kill, unless an earlier kill has left something there: then None."""
    begun = any(trial.iterdir()) and reference.job.begin is None
    for _ in range(50):
        if rng.random() < 0.5:
            watch = Watch(trial, nth=rng.randint(1, reference.operations))
            process = start(reference.job.line, trial, watch)
            moment = "before operation {}"
        else:
            watch = Watch(trial)
            process = start(reference.job.line, trial, watch)
            time.sleep(rng.uniform(0, reference.seconds))
            process.send(signal.SIGKILL)
            moment = "after operation {}"
        if process.wait().code == -signal.SIGKILL:
            if watch.count or begun:
                return moment.format(watch.count)
        elif begun:
            return None
        shutil.rmtree(trial)
        reference.job.prepare(trial)
    raise AssertionError("the command was always over before its kill")
