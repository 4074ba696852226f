"""Work shared by several processes: `--nproc N` launches them here, `--shard I/N` or a launcher gives each its part."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from taming_cli.cli.console import Output
from taming_cli.cli.inputs import STDIN_FLAGS
from taming_cli.config.shard import Shard
from taming_cli.errors import UsageError


def launched(nproc: int, device: str | None, dry_run: bool, images: Sequence[Path] = ()) -> int | None:
    """Run this command line in `nproc` processes by torch's launcher. Returns its exit code, or None if this process
    has to run the command itself: as one of those processes, alone, or for a `dry_run`. UsageError for more processes
    than GPUs, if there are any, for several processes on one GPU, and under torchrun or srun or their leftover
    variables.

    `images` are the inputs; where the command line requests paths from stdin, they are the list file of those paths.
    """
    if nproc <= 1:
        return None
    from taming_cli.runtime.processes import LAUNCH_ID, launched_here

    if launched_here(nproc) or dry_run:
        return None
    import logging
    import signal
    import uuid

    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from taming_cli.data.workers import cores

    if device is not None and device.startswith("cuda:"):
        raise UsageError(f"--device {device} is one device, but --nproc {nproc} needs as many; use --device cuda")
    if device in (None, "auto", "cuda") and 0 < torch.cuda.device_count() < nproc:
        raise UsageError(f"--nproc is {nproc}, but torch sees {torch.cuda.device_count()} CUDA devices; use as many")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # each process prints why it ends
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # seconds for a save after Ctrl-C
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // nproc)))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are local, and the machine's name need not resolve
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=f"{LAUNCH_ID}{uuid.uuid4()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    try:
        arguments = sys.argv[1:]
        if not set(STDIN_FLAGS).isdisjoint(arguments):
            arguments = [
                *(each for each in arguments if each not in STDIN_FLAGS),
                *(str(each) for each in images if str(each) not in arguments),
            ]
        elastic_launch(config, sys.executable)("-m", "taming_cli", *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        code: int = failure.exitcode
        if code < 0:
            sys.stderr.write(
                f"taming: process {failure.local_rank} of {nproc} was ended by {signal.Signals(-code).name}; the last "
                "checkpoint is complete: continue with --resume\n"
            )
        return code if code > 0 else 128 - code
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def own_part(output: Output, shard: str | None) -> Shard:
    """This process's part of the work: that of `--shard`, else the one that follows from its rank under torchrun or
    srun, which is printed on stderr. UsageError for both at once."""
    from taming_cli.runtime.processes import started

    together = started()
    if shard is not None:
        if together.size > 1:
            raise UsageError(f"--shard {shard} names a part, and so does this process's rank; leave one of them out")
        return Shard.parse(shard)
    part = Shard(together.rank + 1, together.size)
    if together.size > 1:
        names = "SLURM_PROCID, SLURM_STEP_NUM_TASKS" if together.by == "srun" else "RANK, WORLD_SIZE"
        output.note(f"{part.spelled()} of the work, by {names} of {together.by}; other processes do the other parts")
    return part


def part_values(part: Shard) -> dict[str, str]:
    """The part for a result's JSON; nothing if it is all of the work."""
    return {"part": str(part)} if part.count > 1 else {}


def part_text(part: Shard, before: str = ", ") -> str:
    """The part for a result's line; nothing if it is all of the work."""
    return f"{before}{part.spelled()}" if part.count > 1 else ""


def skipped_code(skipped: object) -> int:
    """Exit code 3 if inputs were skipped; 0 for one of several processes, because torch's launcher would treat 3 as a
    failure and end the others."""
    from taming_cli.runtime.processes import started

    return 3 if skipped and started().size == 1 else 0
