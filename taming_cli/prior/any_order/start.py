"""Start a prior for any order from another prior: a raster prior of the same width, or one with fewer conditions."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.errors import UsageError
from taming_cli.prior.layout import offsets
from taming_cli.prior.networks.any_order import CONTENT, AnyOrder
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.networks.neighbours import Neighbours
from taming_cli.prior.networks.surroundings import Mixer


@torch.no_grad()
def from_raster(gpt: GPT, prior: PriorConfig, *, dropout: float = 0.0) -> AnyOrder:
    """A prior for any order whose blocks, tables and head are those of a raster prior, on the CPU. `prior` has
    the settings that a raster prior lacks.

    A content token is embedded as a code of the raster prior is. What a query adds is new, and so are the convolutions
    over condition maps and what tokens know of their neighbours, which change nothing at first. UsageError for a prior
    of the published form.
    """
    if gpt.config.arch != "modern":
        raise UsageError(f"init is a prior with arch {gpt.config.arch!r}; any-order starts from 'modern' alone")
    config = replace(gpt.config, arch="any-order", reach=prior.reach, neighbour_features=prior.neighbour_features)
    network = AnyOrder(config, dropout=dropout)
    kept = gpt.state_dict()
    new = {name: kept.get(name, tensor) for name, tensor in network.state_dict().items()}
    network.load_state_dict(new)
    network.role_emb.weight[CONTENT] = kept["kind_emb.weight"][-1]
    _silence(network, Mixer, Neighbours)
    return network.eval()


@torch.no_grad()
def with_conditions(network: AnyOrder, specs: Sequence[ConditionSpec], *, dropout: float = 0.0) -> AnyOrder:
    """The same prior with `specs` added before its conditions, on the CPU. Its predictions do not change while the new
    ones are not given: their rows for "not given" are zero, or hold what a prior without conditions adds to each cell.
    """
    before, kept = network.config, network.state_dict()
    wide = AnyOrder(replace(before, conditions=(*specs, *before.conditions)), dropout=dropout)
    new, rows, old_table = wide.state_dict(), offsets(wide.config), kept.pop("tok_emb.weight")
    table = new["tok_emb.weight"]
    table[: before.codebook_size] = old_table[: before.codebook_size]
    for spec in specs:
        table[rows[spec.kind] + spec.vocabulary] = 0
    if before.conditions:
        first = rows[before.conditions[0].kind]
        table[first:] = old_table[before.codebook_size :]
    else:
        table[rows[specs[0].kind] + specs[0].vocabulary] = old_table[-1]
    wide.load_state_dict({**new, **kept})
    if not any(name.startswith("surroundings.") for name in kept):
        _silence(wide, Mixer)
    return wide.eval()


def _silence(network: AnyOrder, *kinds: type[Mixer | Neighbours]) -> None:
    for module in network.modules():
        if isinstance(module, kinds):
            module.down.weight.zero_()
            if isinstance(module, Neighbours):
                module.skip.zero_()
