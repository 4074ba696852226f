"""A prior whose weights, gradients and optimiser are shared out among processes (FSDP2), because they do not fit one.

On disk it is what it always is: the whole, gathered at the first process tensor by tensor.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

_GATHER = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SPREAD = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def share_out(module: nn.Module, blocks: nn.ModuleList, device: torch.device, processes: int) -> None:
    """Leave each process its share of a module, on its device: block by block, so that the whole need not fit there.
    Every process has to call it."""
    mesh = init_device_mesh(device.type, (processes,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def is_shared(module: nn.Module) -> bool:
    """Whether `share_out` did that to it."""
    return isinstance(module, FSDPModule)


def own(tensor: Tensor) -> Tensor:
    """This process's share; a tensor that is not shared out, itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor. Every process has to call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(module: nn.Module) -> dict[str, Tensor]:
    """The whole state of a module on the first process's CPU, nothing elsewhere. Every process has to call it."""
    found: dict[str, Any] = get_model_state_dict(module, options=_GATHER)
    return found


def spread(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The inverse of `gathered`."""
    values: dict[str, Any] = {**tensors}
    set_model_state_dict(module, values, options=_SPREAD)


def gathered_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The whole state of a module's optimiser, as its own `state_dict` has it where nothing is shared: parameters by
    number. On the first process's CPU, nothing elsewhere. Every process has to call it."""
    named: dict[str, Any] = get_optimizer_state_dict(module, optimizer, options=_GATHER)
    if not named:
        return {}
    names = _names(module, optimizer)
    groups, start = [], 0
    for group, members in zip(optimizer.state_dict()["param_groups"], names, strict=True):
        groups.append({**group, "params": [*range(start, start + len(members))]})
        start += len(members)
    flat = [name for members in names for name in members]
    states = named["state"]
    return {"state": {n: states[name] for n, name in enumerate(flat) if name in states}, "param_groups": groups}


def spread_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The inverse of `gathered_optimizer`."""
    named: dict[str, Any] = {}
    if state:
        names = _names(module, optimizer)
        flat = [name for members in names for name in members]
        named["state"] = {flat[number]: values for number, values in state["state"].items()}
        named["param_groups"] = [
            {**group, "params": members} for group, members in zip(state["param_groups"], names, strict=True)
        ]
    set_optimizer_state_dict(module, optimizer, named, options=_SPREAD)


def _names(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """The names of the parameters in each of an optimiser's groups."""
    named = {id(parameter): name for name, parameter in module.named_parameters()}
    return [[named[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
