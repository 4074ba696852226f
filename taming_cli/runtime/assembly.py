"""How the processes of one command find each other. A process that has to wait logs which others it waits for."""

import logging
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from taming_cli.errors import LostProcessError, UsageError
from taming_cli.runtime.processes import Started, listed, to_run_alone

_log = logging.getLogger(__name__)
ASSEMBLY = 600.0
"""Seconds within which all processes have to start and find each other."""
NOTICE, AGAIN = 5.0, 60.0
"""Seconds after which a waiting process reports that it waits, and between two such reports."""
_PAUSE, _NAMED = 0.1, 8


def assembled(this: Started) -> Store:
    """The store through which the processes exchange their addresses, once all of them have started; `this` is this
    process.

    The first process serves the store, or torchrun's agent does. LostProcessError where a process is missing after
    ASSEMBLY seconds; UsageError where the first process cannot listen on its port.
    """
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and this.by == "torchrun"
    serves, end = this.first and not agent, time.monotonic() + ASSEMBLY
    if not serves:
        _wait(this, end, lambda: _unreached(this, "torchrun" if agent else "process 0"), reports=True)
    try:
        store: Store = dist.TCPStore(  # type: ignore[attr-defined] # documented by torch, but not exported
            "localhost" if serves else this.address,  # the server listens on all addresses of this machine
            this.port,
            this.size,
            is_master=serves,
            timeout=timedelta(seconds=max(1.0, end - time.monotonic())),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        if not serves:
            raise
        raise UsageError(
            f"process 0 of {this.size} cannot listen on port {this.port} (MASTER_PORT): "
            f"{str(error).splitlines()[0]}; choose another port, or run a single process: {to_run_alone(this)}"
        ) from None
    keys = [f"taming/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}" for rank in range(this.size)]
    store.set(keys[this.rank], "here")
    _wait(this, end, lambda: _missing(store, keys), reports=this.first)
    return store


def _wait(this: Started, end: float, awaited: Callable[[], str], *, reports: bool) -> None:
    """Wait until `awaited` returns an empty name. With `reports`, log the name after NOTICE seconds, and then every
    AGAIN seconds; of several processes that wait for the same one, only the first does so."""
    began = time.monotonic()
    notice = began + NOTICE
    while name := awaited():
        now = time.monotonic()
        if now >= end:
            raise LostProcessError(
                f"process {this.rank} of {this.size} has waited {_duration(now - began)} for {name} at "
                f"{this.address}:{this.port}; start all of them together with torchrun, or run a single process: "
                f"{to_run_alone(this)}"
            )
        if reports and now >= notice:
            # An error, so that it is shown with --quiet too: nothing else explains why nothing happens.
            _log.error(
                f"process {this.rank} of {this.size} is waiting for {name} at {this.address}:{this.port}, for at "
                f"most {_duration(end - now)} more; to run a single process: {to_run_alone(this)}"
            )
            notice = now + AGAIN
        time.sleep(min(_PAUSE, max(0.0, end - now)))


def _unreached(this: Started, name: str) -> str:
    """The name of what serves the store, with the reason why it cannot be reached; empty where it can be reached."""
    try:
        socket.create_connection((this.address, this.port), timeout=2).close()
    except OSError as error:
        return f"{name} ({error.strerror or error})"
    return ""


def _missing(store: Store, keys: list[str]) -> str:
    """The processes whose keys are not set yet, as `process 1, 2 and 5`; empty if all are set."""
    if store.check(keys):
        return ""
    ranks = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
    if len(ranks) > _NAMED:
        ranks = [*ranks[:_NAMED], f"{len(ranks) - _NAMED} more"]
    return f"process {listed(ranks)}" if ranks else ""


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes >= 2 else f"{seconds:.1f} seconds"
