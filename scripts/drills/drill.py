"""For `scripts/drill`: break things on purpose, and check that nothing is lost."""

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is imported, since a fork keeps one thread only

from outcome import Drill, Outcome, Row, markdown, rows

DRILLS: tuple[str, ...] = ("kill", "power", "full", "together", "damage", "hostile", "soak", "ranks")
"""The modules of this folder that are a `Drill`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the drills that are asked for. -> 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="drill", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*DRILLS, []], help=", ".join(DRILLS))
    parser.add_argument("--times", type=int, metavar="N", help="trials of each row; default: those of the promise")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--quick", action="store_true", help="a few trials of each row, two minutes in all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write each trial")
    asked = parser.parse_args(arguments)
    table: list[Row] = []
    trials: list[dict[str, str]] = []
    for name in asked.names or DRILLS:
        module = cast("Drill", importlib.import_module(name))
        times = asked.times or (module.QUICK if asked.quick else module.TIMES)
        outcomes = run(name, module, times, asked.seed)
        table += rows(name, outcomes)
        trials += [{"drill": name, **outcome._asdict()} for outcome in outcomes]
    if asked.json:
        asked.json.write_text(json.dumps(trials, indent=1))
    print(markdown(table), end="")
    return int(any(line.lost for line in table))


def run(name: str, module: Drill, times: int, seed: int) -> list[Outcome]:
    """All trials of one drill; each loss is printed as it happens."""
    began = time.monotonic()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix=f"drill-{name}-") as folder:
        for outcome in module.run(times, seed, Path(folder)):
            outcomes.append(outcome)
            if outcome.loss:
                print(f"lost: {name}: {outcome.row}: {outcome.trial}: {outcome.loss}", file=sys.stderr)
    print(f"== {name}: {len(outcomes)} trials in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return outcomes


if __name__ == "__main__":
    raise SystemExit(main())
