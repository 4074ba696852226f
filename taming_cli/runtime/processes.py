"""The rank of this process among those of one command, from the environment variables of torchrun or Slurm's srun.

The variables are only read. Nothing here needs torch.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taming_cli.errors import UsageError

LAUNCH_ID = "taming-"
"""Prefix of the id of a launch by `--nproc`, which torch's launcher passes to its processes as TORCHELASTIC_RUN_ID."""
PART_OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_REQUIRED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Started:
    """This process is number `rank` of `size`, counted from 0, and number `local_rank` of those on its machine, None if
    unknown. The processes meet at `address`:`port`. `by` is the launcher."""

    rank: int = 0
    size: int = 1
    local_rank: int | None = None
    address: str = ""
    port: int = 0
    by: str = ""

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0


def several(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the variables indicate more than one process, even if the set is incomplete."""
    return any(_given(environment, name) not in (None, "1") for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))


def started(environment: Mapping[str, str] = os.environ) -> Started:
    """This process among those that torchrun or srun started together; a single process where no variables are set.

    The variables of torchrun take precedence, and may be completed by Slurm's where both state the same number of
    processes. Empty variables count as unset. MASTER_ADDR, MASTER_PORT and LOCAL_RANK by themselves, and the variables
    of a batch script or of MPI, do not indicate several processes. UsageError where a set is incomplete or
    contradictory: with variables left over in a shell, a command would otherwise do a part of the work and report it as
    complete.
    """
    size = _number(environment, "WORLD_SIZE", low=1)
    rank = _number(environment, "RANK", low=0)
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS", low=1) or 1
    if tasks > 1 and rank is None and size in (None, 1, tasks):
        return _of_slurm(environment, tasks)
    if size is None and rank is None:
        return Started()
    if size is not None and rank is not None and rank >= size:
        raise UsageError(
            f"RANK is {rank}, but WORLD_SIZE is {size} and ranks count from 0; start the processes with torchrun, "
            f"or run a single process: {_unset(environment)}"
        )
    if size == 1:
        return Started()
    missing = [name for name in _REQUIRED if _given(environment, name) is None]
    if missing or size is None or rank is None:
        name = "WORLD_SIZE" if size is not None else "RANK"
        raise UsageError(
            f"{name} is {size or rank}, but {listed(missing)} {'is' if len(missing) == 1 else 'are'} not set; start "
            f"the processes with torchrun, or run a single process: {_unset(environment)}"
        )
    place = _number(environment, "SLURM_PROCID", low=0)
    if size == tasks and place not in (None, rank) and _given(environment, "TORCHELASTIC_RUN_ID") is None:
        raise UsageError(
            f"RANK is {rank}, but this is task {place} of srun (SLURM_PROCID); RANK was set before srun started the "
            "tasks: unset RANK, and Slurm's number is used"
        )
    port = _number(environment, "MASTER_PORT", low=1, high=65_535) or 0
    local = _number(environment, "LOCAL_RANK", low=0)
    return Started(rank, size, local, _given(environment, "MASTER_ADDR") or "", port, "torchrun")


def to_run_alone(this: Started, environment: Mapping[str, str] = os.environ) -> str:
    """The shell command after which the command runs as a single process."""
    return _unset(environment) if this.by == "torchrun" else "unset SLURM_STEP_NUM_TASKS"


def _unset(environment: Mapping[str, str]) -> str:
    return "unset " + " ".join(name for name in PART_OF_TORCHRUN if name in environment)


def launched_here(nproc: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `--nproc` of this command started this process. UsageError where another launcher did."""
    this = started(environment)
    if this.size == 1:
        return False
    if environment.get("TORCHELASTIC_RUN_ID", "").startswith(LAUNCH_ID) and this.size == nproc:
        return True
    by = "torchrun (RANK, WORLD_SIZE)" if this.by == "torchrun" else "srun (SLURM_PROCID, SLURM_STEP_NUM_TASKS)"
    raise UsageError(
        f"--nproc is {nproc}, but this is already process {this.rank} of {this.size} by the variables of {by}; "
        f"leave --nproc out, or unset the variables: {to_run_alone(this, environment)}"
    )


def _of_slurm(environment: Mapping[str, str], tasks: int) -> Started:
    """This task among those of one srun, which are the processes of one command. A batch script or a job array has no
    such tasks."""
    rank = _number(environment, "SLURM_PROCID", low=0)
    if rank is None or rank >= tasks:
        value = "is not set" if rank is None else f"is {rank}"
        raise UsageError(
            f"SLURM_STEP_NUM_TASKS is {tasks}, but SLURM_PROCID {value}; start the processes with srun, or run one "
            "process: unset SLURM_STEP_NUM_TASKS"
        )
    address = first_host(_given(environment, "SLURM_STEP_NODELIST") or "")
    address = address or _given(environment, "MASTER_ADDR") or _given(environment, "SLURM_LAUNCH_NODE_IPADDR") or ""
    port = _number(environment, "MASTER_PORT", low=1, high=65_535)
    if port is None:
        port = 20_000 + (_number(environment, "SLURM_JOB_ID", low=0, high=2**32) or 0) % 20_000
    if not address:
        raise UsageError(
            f"this is task {rank} of {tasks} of srun, but SLURM_STEP_NODELIST does not name the machines; set "
            "MASTER_ADDR to the name of the first one"
        )
    return Started(rank, tasks, _number(environment, "SLURM_LOCALID", low=0), address, port, "srun")


def first_host(listed: str) -> str:
    """The first host in a Slurm node list: node03 for `node[03-07,11],other`."""
    before, bracket, inside = listed.partition("[")
    if not bracket or "," in before:
        return before.partition(",")[0]
    numbers, _, after = inside.partition("]")
    return before + numbers.partition(",")[0].partition("-")[0] + after.partition(",")[0]


def _given(environment: Mapping[str, str], name: str) -> str | None:
    return environment.get(name, "").strip() or None


def _number(environment: Mapping[str, str], name: str, *, low: int, high: int = 10**6) -> int | None:
    text = _given(environment, name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
        raise UsageError(
            f"{name} is {text!r}; torchrun and srun set it to a whole number from {low} to {high}: unset {name}, or "
            "start the processes with one of them"
        )
    return int(text)


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
