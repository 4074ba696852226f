"""How the processes of one command find each other; who has to wait says for whom."""

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
"""Seconds in which all processes have to start and to find each other."""
NOTICE, AGAIN = 5.0, 60.0
"""Seconds after which a process that waits says so, and then says it again."""
_PAUSE, _NAMED = 0.1, 8


def assembled(found: Started) -> Store:
    """The store through which the processes of `found` exchange their addresses, once all of them are there.

    The first process serves it, or torchrun's agent does. LostProcessError where a process is missing after ASSEMBLY
    seconds; UsageError where the first cannot listen at its port.
    """
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and found.by == "torchrun"
    serves, end = found.first and not agent, time.monotonic() + ASSEMBLY
    if not serves:
        _wait(found, end, lambda: _unreached(found, "torchrun" if agent else "process 0"), says=True)
    try:
        store: Store = dist.TCPStore(  # type: ignore[attr-defined] # which torch documents and does not list
            "localhost" if serves else found.address,  # the server listens at every address of this machine
            found.port,
            found.size,
            is_master=serves,
            timeout=timedelta(seconds=max(1.0, end - time.monotonic())),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        if not serves:
            raise
        raise UsageError(
            f"process 0 of {found.size} cannot listen at port {found.port} (MASTER_PORT): "
            f"{str(error).splitlines()[0]}; choose another port, or run alone: {to_run_alone(found)}"
        ) from None
    keys = [f"taming/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}" for rank in range(found.size)]
    store.set(keys[found.rank], "here")
    _wait(found, end, lambda: _missing(store, keys), says=found.first)
    return store


def _wait(found: Started, end: float, awaited: Callable[[], str], *, says: bool) -> None:
    """Until nothing is awaited any more. With `says`, what still is, on stderr after NOTICE seconds and every AGAIN
    seconds from then on; of those that all wait for the same process the first alone does."""
    began = time.monotonic()
    notice = began + NOTICE
    while name := awaited():
        now = time.monotonic()
        if now >= end:
            raise LostProcessError(
                f"process {found.rank} of {found.size} has waited {_duration(now - began)} for {name} at "
                f"{found.address}:{found.port}; start all of them together by torchrun, or run alone: "
                f"{to_run_alone(found)}"
            )
        if says and now >= notice:
            # Heard with --quiet too: nothing else would tell a person why nothing happens.
            _log.error(
                f"process {found.rank} of {found.size} is waiting for {name} at {found.address}:{found.port}, for at "
                f"most {_duration(end - now)} more; to run alone: {to_run_alone(found)}"
            )
            notice = now + AGAIN
        time.sleep(min(_PAUSE, max(0.0, end - now)))


def _unreached(found: Started, name: str) -> str:
    """What serves the store, with the reason why it cannot be reached; empty where it can be."""
    try:
        socket.create_connection((found.address, found.port), timeout=2).close()
    except OSError as error:
        return f"{name} ({error.strerror or error})"
    return ""


def _missing(store: Store, keys: list[str]) -> str:
    """The processes whose key is not set yet: `process 1, 2 and 5`; empty where all are there."""
    if store.check(keys):
        return ""
    ranks = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
    if len(ranks) > _NAMED:
        ranks = [*ranks[:_NAMED], f"{len(ranks) - _NAMED} more"]
    return f"process {listed(ranks)}" if ranks else ""


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes >= 2 else f"{seconds:.1f} seconds"
