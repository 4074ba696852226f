"""One command run by several processes at once, as torchrun or Slurm starts them: which one this is, what all found,
and what they agree on."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from taming_cli.errors import LostProcessError, OfOneProcessError, TamingError, UsageError
from taming_cli.runtime.assembly import assembled
from taming_cli.runtime.processes import started

T = TypeVar("T")
PATIENCE = timedelta(hours=1)
"""How long one process waits for another at work: a validation is made by one alone. That one has ended is noticed at
once."""

_NAMES = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"  # before torch 2.13


@dataclass(frozen=True)
class World:
    """The processes of one command: this is number `rank` of `size`, counted from 0. What says so, all of them have to
    call, in the same order; alone, it costs nothing."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """What each process passes, in their order, to all; every process has to call it."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered

    def by_first(self, work: Callable[[], T]) -> T:
        """What the first process finds, to all; its TamingError too. Every process has to call it."""
        if self.size == 1:
            return work()
        said: list[Any] = [None, None]
        if self.first:
            try:
                said[0] = work()
            except TamingError as error:
                said[1] = error
        dist.broadcast_object_list(said, src=0)
        if said[1] is not None:
            raise said[1] if self.first else OfOneProcessError(said[1], told=True)
        value: T = said[0]
        return value

    def first_ahead(self, work: Callable[[], T]) -> T:
        """What each process finds by itself, the first before the others: so that one alone fetches a file. Every
        process has to call it."""
        found: list[T] = []
        self.by_first(lambda: found.append(work()))
        return found[0] if found else work()

    def agree(self, step: int) -> None:
        """UsageError where processes are not at the same step: they do not see the same folder."""
        if len(set(self.gather(step))) > 1:
            raise UsageError("the processes do not see the same run folder; name one that all of them share with --out")

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            dist.barrier()

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, which takes the tensor's place. Every process has to call it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all processes, which takes the tensor's place. Every process has to call it."""
        return self.total(tensor).div_(self.size) if self.size > 1 else tensor

    def most(self, *values: float) -> list[float]:
        """The largest of each over all processes. Every process has to call it."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return found.tolist()

    def rows(self, tensor: Tensor) -> Tensor:
        """The rows of all processes (n, ...), in their order: (n size, ...). Every process has to call it, with as
        many."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def share(self, batch_size: int) -> int:
        """This process's part of a batch: the `rank`-th of equal ones. UsageError where they cannot be equal."""
        if batch_size % self.size:
            raise UsageError(
                f"batch_size {batch_size} is that of all {self.size} processes, which does not divide it; use "
                f"{self.size * max(1, round(batch_size / self.size))}"
            )
        return batch_size // self.size

    def joined(self, module: nn.Module) -> nn.Module:
        """The module itself, or one that averages the gradients of all processes in each backward pass, and begins with
        the first one's parameters. Every process has to call it."""
        if self.size == 1:
            return module
        device = next(module.parameters()).device
        how: dict[str, Any] = {_SYNC_BUFFERS: False}  # they are the same everywhere
        return DistributedDataParallel(module, device_ids=None if device.index is None else [device.index], **how)


def apart(modules: Sequence[nn.Module], *, last: bool) -> AbstractContextManager[object]:
    """Gradients stay in this process, unless it is the last part of a step; of modules made by `World.joined`, or
    shared out by FSDP2."""
    from torch.distributed.fsdp import FSDPModule  # half a second that few need

    for module in modules:
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(last)
    joined = [module for module in modules if isinstance(module, DistributedDataParallel)]
    return _unjoined(joined) if joined and not last else nullcontext()


@contextmanager
def _unjoined(modules: Sequence[DistributedDataParallel]) -> Iterator[None]:
    before = [module.require_backward_grad_sync for module in modules]
    for module in modules:
        module.require_backward_grad_sync = False  # as its no_sync does, of several at once
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.require_backward_grad_sync = value


ALONE = World()
"""One process by itself."""


@contextmanager
def world() -> Iterator[World]:
    """The processes that torchrun or srun started together with this one, or this one alone.

    What is on the CPU they exchange by gloo, what is on a GPU by NCCL. UsageError where the variables that say so are
    incomplete; LostProcessError where another process does not come, or has ended; OfOneProcessError
    for any other error of a process but the first.
    """
    found = started()
    if found.size == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store = assembled(found)
        dist.init_process_group(backend, store=store, rank=found.rank, world_size=found.size, timeout=PATIENCE)
        yield World(found.rank, found.size)
        dist.destroy_process_group()  # not after an error: it would wait for processes that wait for this one
    except TamingError as error:
        if not found.first and not isinstance(error, LostProcessError | OfOneProcessError):
            raise OfOneProcessError(error) from error
        raise
    except RuntimeError as error:
        if not _of_exchange(error):
            raise
        raise LostProcessError(
            f"process {found.rank} of {found.size} stops: another one has ended, or cannot be reached. What was saved "
            f"last is whole; go on with --resume ({str(error).splitlines()[0]})"
        ) from error


def _of_exchange(error: RuntimeError) -> bool:
    """Whether an error is of talking to other processes; gloo raises plain RuntimeErrors, and in autograd they lose
    their class."""
    text = str(error)
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "NCCL", "Connection closed"))
