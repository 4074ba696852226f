"""The state of a prior's training, its step, and how it is saved and restored."""

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils.checkpoint import checkpoint

from taming_cli.config.fields import to_dict
from taming_cli.config.prior import PriorTrainConfig
from taming_cli.errors import NonFiniteLossError
from taming_cli.prior.fsdp import (
    full_tensor,
    gather,
    gather_optimizer,
    is_sharded,
    local_shard,
    scatter,
    scatter_optimizer,
    shard,
)
from taming_cli.prior.model import Network, new_network
from taming_cli.prior.networks.blocks import decay_groups
from taming_cli.prior.predictions import TokenBatch
from taming_cli.runtime.compilation import compile_blocks
from taming_cli.runtime.device import autocast, seed_of, to_device, to_host
from taming_cli.runtime.distributed import ALONE, World, apart
from taming_cli.runtime.fp32 import ieee_for
from taming_cli.runtime.gradient_checkpointing import recompute
from taming_cli.runtime.run.resume import read_trainer


@dataclass(kw_only=True)
class PriorState:
    """Network, optimiser, average and counters. `average` holds the moving average of the weights, which is the prior
    to use.

    `likelihood` is the forward pass of the network to its loss, `average_likelihood` that of the average. With several
    processes, either the gradients of the former are averaged and everything else is the same in each process, or both
    networks and the optimiser are sharded. `validation` holds the figures of the last validation, `waited` is the
    number of validations since the best one, and `unlogged` holds the terms since the last log line.
    """

    gpt: Network
    average: Network
    optimizer: torch.optim.Optimizer
    likelihood: nn.Module
    average_likelihood: nn.Module
    precision: torch.dtype
    world: World = ALONE
    step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_step: int = 0
    waited: int = 0
    validation: dict[str, float] = field(default_factory=dict)
    unlogged: dict[str, list[Tensor]] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """The contents of the trainer file. If the networks are sharded, every process has to call it, and only the
        first one gets the tensors."""
        counters = {name: getattr(self, name) for name in _COUNTERS}
        if is_sharded(self.likelihood):
            modules = {
                "gpt": _without_prefix(gather(self.likelihood)),
                "average": _without_prefix(gather(self.average_likelihood)),
            }
            modules["optimizer"] = gather_optimizer(self.likelihood, self.optimizer)
        else:
            modules = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        return {**modules, **counters, "prior": to_dict(self.gpt.config)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the contents of a trainer file."""
        if is_sharded(self.likelihood):
            scatter(self.likelihood, _with_prefix(state["gpt"]))
            scatter(self.average_likelihood, _with_prefix(state["average"]))
            scatter_optimizer(self.likelihood, self.optimizer, state["optimizer"])
        else:
            for name in _STATEFUL:
                getattr(self, name).load_state_dict(state[name])
        for name in _COUNTERS:
            if name in state or name != "unlogged":  # which earlier versions did not save
                setattr(self, name, state[name])

    def whole_average(self) -> Network:
        """The prior to use, in full. If it is sharded, every process has to call this, and all but the first one get a
        prior without weights."""
        if not is_sharded(self.average_likelihood):
            return self.average
        tensors = _without_prefix(gather(self.average_likelihood))
        with torch.device("meta"):
            gpt = new_network(self.gpt.config)
        if tensors:
            gpt.load_state_dict(tensors, assign=True)
        return gpt.eval().requires_grad_(False)


LOGITS = 2**24
"""Largest number of logits in memory at once."""

_STATEFUL = ("gpt", "average", "optimizer")
_COUNTERS = ("step", "images_seen", "seconds", "best", "best_step", "waited", "validation", "unlogged")


def read_state(path: Path, world: World, *, sharded: bool) -> dict[str, Any]:
    """Read a trainer file; if the networks will be `sharded`, only the first process reads its tensors. Every process
    has to call this. BadFileError where the file is damaged, or of another training."""

    def read() -> dict[str, Any]:
        return read_trainer(path, (*_STATEFUL, "prior", "data"))

    if not sharded:
        return world.first_ahead(read)
    tensors: dict[str, Any] = {name: {} for name in _STATEFUL}

    def read_without_tensors() -> dict[str, Any]:
        state = read()
        tensors.update({name: state.pop(name) for name in _STATEFUL})
        return state

    return {**world.by_first(read_without_tensors), **tensors}


def _with_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a network's tensors as in `_Likelihood`, which wraps it."""
    return {f"gpt.{name}": tensor for name, tensor in tensors.items()}


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("gpt."): tensor for name, tensor in tensors.items()}


def start(
    gpt: Network, train: PriorTrainConfig, device: torch.device, precision: torch.dtype, world: World = ALONE
) -> PriorState:
    """The state before the first step, on `device`; `gpt` is new or read from a file, the same in all processes."""
    average = copy.deepcopy(gpt)
    if train.fsdp and world.size > 1:
        return initial_state(gpt, average, train, precision, world, sharded=device)
    return initial_state(gpt.to(device), average.to(device), train, precision, world)


def initial_state(
    gpt: Network,
    average: Network,
    train: PriorTrainConfig,
    precision: torch.dtype,
    world: World = ALONE,
    sharded: torch.device | None = None,
) -> PriorState:
    """The state before the first step, from networks on their device, or from networks to be sharded over devices such
    as `sharded`; `average` is a copy of `gpt`."""
    gpt, average = gpt.train().requires_grad_(True), average.eval().requires_grad_(False)
    if train.gradient_checkpointing:
        recompute(gpt)
    if train.compile:
        compile_blocks(gpt)
    likelihood: nn.Module = _Likelihood(gpt)
    average_likelihood = _Likelihood(average)
    if sharded is None:
        likelihood = world.joined(likelihood)
    else:
        shard(likelihood, gpt.blocks, sharded, world.size)
        shard(average_likelihood, average.blocks, sharded, world.size)
    return PriorState(
        gpt=gpt,
        average=average,
        optimizer=torch.optim.AdamW(
            decay_groups(gpt, train.weight_decay),
            lr=train.learning_rate,
            betas=(train.betas[0], train.betas[1]),
            fused=sharded is None and gpt.head.weight.device.type in ("cpu", "cuda"),
        ),
        likelihood=likelihood,
        average_likelihood=average_likelihood,
        precision=precision,
        world=world,
    )


class _Likelihood(nn.Module):
    """`nats` as a module, for DistributedDataParallel and FSDP2."""

    def __init__(self, gpt: Network) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, batch: TokenBatch, precision: torch.dtype) -> Tensor:
        return nats(self.gpt, batch, precision)


def nats(gpt: Network, batch: TokenBatch, precision: torch.dtype) -> Tensor:
    """Mean negative log-likelihood of the predicted cells in nats/token, fp32.

    More than LOGITS logits are computed part by part, and recomputed in the backward pass: for a codebook of 16,384,
    they would take most of the memory of a step.
    """
    rows = max(1, LOGITS // gpt.config.codebook_size)
    with autocast(batch.targets.device, precision):
        found = gpt.predictions(batch)
        parts = list(zip(*(torch.split(of, rows) for of in found if of is not None), strict=True))
        if len(parts) == 1:
            sums = [_nats(gpt, *parts[0])]
        else:
            sums = [checkpoint(_nats, gpt, *part, use_reentrant=False) for part in parts]
        total = torch.stack(sums).sum()
        return total / len(found.codes) if found.weights is None else total


def _nats(gpt: Network, x: Tensor, codes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Features (n, C), codes (n,) and weights (n,) -> the weighted sum of -log p, fp32."""
    logits = gpt.logits(x).float()
    if weights is None:
        return F.cross_entropy(logits, codes, reduction="sum")
    return (F.cross_entropy(logits, codes, reduction="none") * weights).sum()


def moved(batch: TokenBatch, device: torch.device) -> TokenBatch:
    """A batch on `device`."""
    conditions = {kind: to_device(codes, device) for kind, codes in batch.conditions.items()}
    groups, levels = (None if of is None else to_device(of, device) for of in (batch.groups, batch.levels))
    return TokenBatch(to_device(batch.targets, device), to_device(batch.inputs, device), conditions, groups, levels)


def prior_step(
    state: PriorState, batch: TokenBatch, config: PriorTrainConfig, learning_rate: float
) -> dict[str, Tensor]:
    """Update network and average on this process's part of a batch; returns the terms of the step, scalars on the CPU.

    The step waits for the device once. Raises NonFiniteLossError, before any update, where the loss or the norm of the
    gradient is not finite.
    """
    gpt, device = state.gpt, state.gpt.head.weight.device
    world = state.world
    # dropout depends on seed, step and process alone, so that a resume is exact
    torch.manual_seed(seed_of((config.seed * 1_000_003 + state.step) % 2**63, world.rank))
    batch, count = moved(batch, device), len(batch.targets)
    state.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    parts = torch.arange(count).tensor_split(min(config.accumulate, count))
    for number, part in enumerate(parts, 1):
        rows = slice(int(part[0]), int(part[-1]) + 1)
        with apart([state.likelihood], last=number == len(parts)), ieee_for(state.precision):
            loss = state.likelihood(batch.take(rows), state.precision)
            loss = loss * (len(part) / count)
            loss.backward()
        total += loss.detach()
    world.mean(total)
    norm = get_total_norm([p.grad for p in gpt.parameters() if p.grad is not None])
    values = to_host(torch.stack([total, full_tensor(norm).float()]))
    terms = dict(zip(("nats_per_token", "gradient"), values, strict=True))
    _refuse_non_finite(terms, state.step)
    if config.clip and terms["gradient"] > 0.99 * config.clip:  # else scaling by 1 would read and write all gradients
        clip_grads_with_norm_(gpt.parameters(), config.clip, norm)

    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    state.optimizer.step()
    state.step += 1
    state.images_seen += count * world.size
    with torch.no_grad():  # early steps count more: decay min(ema, (1 + n) / (10 + n))
        decay = min(config.ema, (1 + state.step) / (10 + state.step))
        averages, weights = ([local_shard(each) for each in network.parameters()] for network in (state.average, gpt))
        torch._foreach_lerp_(averages, weights, 1 - decay)
    return terms


def _refuse_non_finite(terms: dict[str, Tensor], step: int) -> None:
    for name, value in terms.items():
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"step {step + 1}: {name} is {value.item()}; nothing was updated. Lower --learning-rate, or use "
                "--precision fp32"
            )
