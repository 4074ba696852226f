"""Sharding of a prior's weights, gradients and optimiser among processes (FSDP2), for priors that do not fit one.

The files are the same as without sharding: the full state, gathered in the first process tensor by tensor. All
functions that gather or scatter are collective: every process has to call them.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn

_FSDP = "torch.distributed.fsdp"
"""Imported only where something is sharded, since that takes a second."""
_GATHER: dict[str, Any] = {"full_state_dict": True, "cpu_offload": True}
_SCATTER: dict[str, Any] = {"full_state_dict": True, "broadcast_from_rank0": True}


def shard(module: nn.Module, blocks: nn.ModuleList, device: torch.device, processes: int) -> None:
    """Shard a module among processes, on their devices: block by block, so that one device need not hold all of it.
    Collective."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` was called on the module."""
    fsdp = sys.modules.get(_FSDP)
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def local_shard(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor; the tensor itself if it is not sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor. Collective."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gather(module: nn.Module) -> dict[str, Tensor]:
    """The full state of a module, on the CPU of the first process; empty in the others. Collective."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    tensors: dict[str, Any] = get_model_state_dict(module, options=StateDictOptions(**_GATHER))
    return tensors


def scatter(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The inverse of `gather`. Collective."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    values: dict[str, Any] = {**tensors}
    set_model_state_dict(module, values, options=StateDictOptions(**_SCATTER))


def gather_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The full state of a module's optimiser, in the form of its `state_dict` with numbered parameters: on the CPU of
    the first process, empty in the others. Collective."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    named: dict[str, Any] = get_optimizer_state_dict(module, optimizer, options=StateDictOptions(**_GATHER))
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


def scatter_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The inverse of `gather_optimizer`. Collective."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    named: dict[str, Any] = {}
    if state:
        names = _names(module, optimizer)
        flat = [name for members in names for name in members]
        named["state"] = {flat[number]: values for number, values in state["state"].items()}
        named["param_groups"] = [
            {**group, "params": members} for group, members in zip(state["param_groups"], names, strict=True)
        ]
    set_optimizer_state_dict(module, optimizer, named, options=StateDictOptions(**_SCATTER))


def _names(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """The names of the parameters in each of an optimiser's groups."""
    named = {id(parameter): name for name, parameter in module.named_parameters()}
    return [[named[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
