"""`--nproc N`: this very command line in several processes of this machine, by torch's own launcher."""

import logging
import os
import sys
import uuid

from taming_cli.errors import UsageError


def launched(nproc: int) -> int | None:
    """The exit code of this command line, run by `nproc` processes; None where it is to be run by this one: as one of
    several already, or alone. UsageError for more processes than GPUs, where there are some."""
    if nproc <= 1 or "WORLD_SIZE" in os.environ:
        return None
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if 0 < torch.cuda.device_count() < nproc:
        raise UsageError(f"--nproc is {nproc}, but torch sees {torch.cuda.device_count()} CUDA devices; use as many")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes say why they end
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // nproc)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "taming_cli", *sys.argv[1:])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        code: int = failure.exitcode
        return code if code > 0 else 128 - code
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
