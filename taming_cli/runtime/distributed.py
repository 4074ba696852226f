"""The processes of one command, as started by torchrun or Slurm, and their collective operations."""

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from taming_cli.data.disk import machine
from taming_cli.errors import LostProcessError, OfOneProcessError, TamingError, UsageError
from taming_cli.runtime.assembly import assembled
from taming_cli.runtime.processes import started
from taming_cli.runtime.stopped import noticing

T = TypeVar("T")
PATIENCE = timedelta(hours=1)
"""How long a process waits for another one that is working, such as the one that validates. A process that has ended is
noticed at once."""

_NAMES = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"  # before torch 2.13


class _Total(torch.autograd.Function):
    """The sum over all processes, in the forward and in the backward pass."""

    @staticmethod
    def forward(context: Any, values: Tensor, world: "World") -> Tensor:
        context.world = world
        return world.total(values.clone())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return context.world.total(gradient.clone()), None


@dataclass(frozen=True)
class World:
    """The processes of one command: this one is number `rank`, counted from 0, of `size`.

    All processes have to call collective methods in the same order. With a single process they cost nothing.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in order of rank. Collective."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered

    def by_first(self, work: Callable[[], T]) -> T:
        """Run `work` in the first process; all of them return its result, or raise its TamingError. Collective."""
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]  # result, error
        if self.first:
            try:
                outcome[0] = work()
            except TamingError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1] if self.first else OfOneProcessError(outcome[1], reported=True)
        value: T = outcome[0]
        return value

    def first_ahead(self, work: Callable[[], T]) -> T:
        """Run `work` in each process, in the first one before the others, so that only one downloads a file.
        Collective."""
        result: list[T] = []
        self.by_first(lambda: result.append(work()))
        return result[0] if result else work()

    def agree(self, step: int) -> None:
        """UsageError where the processes are not at the same step: they do not see the same folder. Collective."""
        if len(set(self.gather(step))) > 1:
            raise UsageError("the processes do not see the same run folder; name one that all of them share with --out")

    def wait(self) -> None:
        """Wait until every process has called this. Collective."""
        if self.size > 1:
            dist.barrier()

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place. Collective."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all processes, in place. Collective."""
        return self.total(tensor).div_(self.size) if self.size > 1 else tensor

    def mean_with_gradient(self, tensor: Tensor) -> Tensor:
        """The mean over all processes, whose gradient reaches the tensor of each of them. Collective, and so is its
        backward pass."""
        if self.size == 1:
            return tensor
        total: Tensor = _Total.apply(tensor, self)
        return total / self.size

    def most(self, *values: float) -> list[float]:
        """The maximum of each value over all processes. Collective."""
        if self.size == 1:
            return list(values)
        maxima = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
        return maxima.tolist()

    def rows(self, tensor: Tensor) -> Tensor:
        """Concatenate the rows (n, ...) of all processes, in order of rank: (n size, ...). All have the same n.
        Collective."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def share(self, batch_size: int) -> int:
        """The size of each process's part of a batch. UsageError where the batch cannot be divided evenly."""
        if batch_size % self.size:
            raise UsageError(
                f"batch_size {batch_size} is not a multiple of {self.size}, the number of processes that share it; use "
                f"{self.size * max(1, round(batch_size / self.size))}"
            )
        return batch_size // self.size

    def joined(self, module: nn.Module) -> nn.Module:
        """Wrap a module so that each backward pass averages the gradients of all processes, starting from the
        parameters of the first one; with a single process, the module itself. Collective."""
        if self.size == 1:
            return module
        device = next(module.parameters()).device
        options: dict[str, Any] = {_SYNC_BUFFERS: False}  # buffers are the same in all processes
        return DistributedDataParallel(module, device_ids=None if device.index is None else [device.index], **options)


def apart(modules: Sequence[nn.Module], *, last: bool) -> AbstractContextManager[object]:
    """A context in which gradients are not exchanged, unless this is the last part of a step; for modules returned by
    `World.joined`, or sharded by FSDP2."""
    from torch.distributed.fsdp import FSDPModule  # importing it takes half a second

    for module in modules:
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(last)
    joined = [module for module in modules if isinstance(module, DistributedDataParallel)]
    return _unjoined(joined) if joined and not last else nullcontext()


@contextmanager
def _unjoined(modules: Sequence[DistributedDataParallel]) -> Iterator[None]:
    before = [module.require_backward_grad_sync for module in modules]
    for module in modules:
        module.require_backward_grad_sync = False  # as its no_sync, for several modules at once
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.require_backward_grad_sync = value


ALONE = World()
"""A single process."""


@contextmanager
def world() -> Iterator[World]:
    """A context with the processes that torchrun or srun started together with this one, or with this one alone.

    Tensors on the CPU are exchanged by gloo, those on a GPU by NCCL. Raises UsageError where the environment variables
    are incomplete, LostProcessError where another process does not appear, or has ended, and OfOneProcessError for any
    other error in a process other than the first.
    """
    this = started()
    if this.size == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store = assembled(this)
        dist.init_process_group(backend, store=store, rank=this.rank, world_size=this.size, timeout=PATIENCE)
        all_of_them = World(this.rank, this.size)
        places = all_of_them.gather((machine(), os.getpid()))
        others = {rank: pid for rank, (where, pid) in enumerate(places) if rank != this.rank and where == machine()}
        with noticing(others, f"process {this.rank} of {this.size}"):
            yield all_of_them
        dist.destroy_process_group()  # not after an error: it would wait for processes that wait for this one
    except TamingError as error:
        if not this.first and not isinstance(error, LostProcessError | OfOneProcessError):
            raise OfOneProcessError(error) from error
        raise
    except RuntimeError as error:
        if not _of_exchange(error):
            raise
        raise LostProcessError(
            f"process {this.rank} of {this.size} stops: another process has ended, or cannot be reached. The last save "
            f"is complete; continue with --resume ({str(error).splitlines()[0]})"
        ) from error


def _of_exchange(error: RuntimeError) -> bool:
    """Whether an error is one of communication between processes. gloo raises plain RuntimeErrors, and errors lose
    their class in autograd."""
    text = str(error)
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "NCCL", "Connection closed"))
