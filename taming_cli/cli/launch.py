"""`--nproc N`: this very command line in several processes of this machine, by torch's own launcher."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from taming_cli.cli.stdin import FLAGS
from taming_cli.errors import UsageError


def launched(nproc: int, device: str | None, dry_run: bool, images: Sequence[Path] = ()) -> int | None:
    """The exit code of this command line, run by `nproc` processes; None where it is to be run by this one: as one of
    them, alone, or as a `dry_run`. UsageError for more processes than GPUs, where there are some, for one GPU of all,
    and where torchrun or srun has started several processes already, or left variables behind that say so.

    `images` are the inputs; where the command line asks for paths from stdin, they are the list that holds those.
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
        raise UsageError(f"--device {device} is one device, and --nproc {nproc} needs as many; use --device cuda")
    if device in (None, "auto", "cuda") and 0 < torch.cuda.device_count() < nproc:
        raise UsageError(f"--nproc is {nproc}, but torch finds {torch.cuda.device_count()} CUDA devices; use as many")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes say why they end
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # seconds for a save after Ctrl-C
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // nproc)))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # they are all here, whatever the machine's name resolves to
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
        if not set(FLAGS).isdisjoint(arguments):
            arguments = [
                *(each for each in arguments if each not in FLAGS),
                *(str(each) for each in images if str(each) not in arguments),
            ]
        elastic_launch(config, sys.executable)("-m", "taming_cli", *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        code: int = failure.exitcode
        if code < 0:
            sys.stderr.write(
                f"taming: process {failure.local_rank} of {nproc} was ended by {signal.Signals(-code).name}; what was "
                "saved last is whole: go on with --resume\n"
            )
        return code if code > 0 else 128 - code
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
