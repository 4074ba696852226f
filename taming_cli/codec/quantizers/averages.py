"""How a codebook is used and learns by moving averages, and the revival of unused entries."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taming_cli.codec.quantizers.nearest import Quantizer, choose_vectors
from taming_cli.codec.quantizers.quantized import AnyQuantizer, Quantized
from taming_cli.runtime.distributed import ALONE, World


class CodebookUse(NamedTuple):
    """How a batch uses a codebook: `counts` (K,) fp32 of each code; `uses` (K,) fp32, their moving averages including
    this batch; `dead` (K,) bool, true for entries whose use has fallen below the threshold."""

    counts: Tensor
    uses: Tensor
    dead: Tensor


class CodebookAverages:
    """Learns a codebook as moving averages of the vectors assigned to each entry, and revives dead entries.

    Averages: van den Oord et al. 2017, appendix A.1. The state is kept outside the quantizer, so that the keys of the
    model stay the published ones. With `learn=False`, only the use of each entry is tracked, for revival; other
    quantizers than `Quantizer` have neither. `trained` keeps the entries of a trained codebook; those of a new one are
    placed on vectors of the first batch. `device` is that of the codec.
    """

    def __init__(
        self,
        quantizer: AnyQuantizer,
        *,
        decay: float,
        revive: float,
        learn: bool,
        trained: bool = False,
        device: torch.device | None = None,
    ) -> None:
        entries = quantizer.codebook.detach().to(device)
        self.quantizer, self.decay, self.revive, self.learn = quantizer, decay, revive, learn
        self.uses = torch.zeros(len(entries), device=entries.device)
        self.sums = torch.zeros_like(entries)
        self.trained, self.updates = trained, 0

    @torch.no_grad()
    def measure(self, quantized: Quantized, world: World = ALONE) -> CodebookUse:
        """How a batch, of which each process has a part, uses the codebook. Updates nothing, and does not wait for the
        device."""
        codes, size = quantized.codes.flatten(), len(self.uses)
        ones = torch.ones((), device=self.uses.device).expand(len(codes))
        counts = world.total(torch.zeros_like(self.uses).index_add_(0, codes, ones))
        even = len(codes) * world.size / size
        if self.updates == 0 and self.revive and not self.trained:
            return CodebookUse(counts, self.uses, torch.ones_like(self.uses, dtype=torch.bool))
        before = torch.full_like(self.uses, even) if self.updates == 0 and self.trained else self.uses
        uses = before.lerp(counts, 1 - self.decay)
        return CodebookUse(counts, uses, uses < self.revive * even)

    @torch.no_grad()
    def update(
        self,
        quantized: Quantized,
        generator: torch.Generator,
        world: World = ALONE,
        use: CodebookUse | None = None,
        dead: int | None = None,
    ) -> Tensor:
        """Update by one batch, of which each process has a part; returns the indices of revived entries, (R,) int64.

        The first call places an untrained codebook on vectors of the batch. Later, an entry whose share of use falls
        below `revive` times the even share 1/K is moved to a random vector of the batch, with its averages. `generator`
        (CPU) makes the choice reproducible, and equal in all processes.

        `use` is the result of `measure`, and `dead` its number of dead entries; given both, this does not wait for the
        device.
        """
        use = self.measure(quantized, world) if use is None else use
        if not isinstance(self.quantizer, Quantizer):
            self.uses.copy_(use.uses)
            self.updates += 1
            return torch.empty(0, dtype=torch.int64, device=self.uses.device)
        weight = self.quantizer.embedding.weight
        vectors = quantized.z_e.detach().permute(0, 2, 3, 1).reshape(-1, weight.shape[1])
        if self.updates == 0 and self.revive and not self.trained:
            return self._place(torch.arange(len(weight), device=weight.device), world.rows(vectors), generator)
        if self.updates == 0 and self.trained:
            self.sums.copy_(weight * (len(vectors) * world.size / len(weight)))
        self.uses.copy_(use.uses)
        if self.learn:
            sums = world.total(torch.zeros_like(self.sums).index_add_(0, quantized.codes.flatten(), vectors))
            self.sums.lerp_(sums, 1 - self.decay)
            alive = self.uses > 1e-6
            weight.copy_(torch.where(alive[:, None], self.sums / self.uses[:, None], weight))
        self.updates += 1
        dead = int(use.dead.sum()) if dead is None else dead
        if not dead:
            return torch.empty(0, dtype=torch.int64, device=weight.device)
        entries = use.dead.byte().argsort(descending=True, stable=True)[:dead]  # as nonzero(), which would wait
        return self._place(entries, world.rows(vectors), generator)

    def _place(self, entries: Tensor, vectors: Tensor, generator: torch.Generator) -> Tensor:
        """Move `entries` to random vectors."""
        assert isinstance(self.quantizer, Quantizer)
        weight = self.quantizer.embedding.weight
        placed = choose_vectors(vectors, len(entries), generator)
        weight.index_copy_(0, entries, placed.to(weight.dtype))
        even = len(vectors) / len(weight)
        self.uses.index_fill_(0, entries, even)
        self.sums.index_copy_(0, entries, placed * even)
        self.updates = max(self.updates, 1)
        return entries

    def state_dict(self) -> dict[str, Tensor | int]:
        """The averages, for an exact resume."""
        return {"uses": self.uses, "sums": self.sums, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.uses.copy_(torch.as_tensor(state["uses"]))
        self.sums.copy_(torch.as_tensor(state["sums"]))
        self.updates = int(state["updates"])


class LevelAverages:
    """The `CodebookAverages` of each level of codes, the bottom one first. Lists have one entry for each level."""

    def __init__(self, levels: Sequence[CodebookAverages]) -> None:
        self.levels = tuple(levels)

    def measure(self, quantized: Sequence[Quantized], world: World = ALONE) -> list[CodebookUse]:
        """How a batch uses each codebook; see `CodebookAverages.measure`."""
        return [level.measure(one, world) for level, one in zip(self.levels, quantized, strict=True)]

    def begin_again(self) -> None:
        """Treat the codebooks as new, so that the next update places them."""
        for level in self.levels:
            level.updates = 0

    def state_dict(self) -> dict[str, Any]:
        """The averages, for an exact resume: those of a single level, or by the number of the level."""
        states = {str(number): level.state_dict() for number, level in enumerate(self.levels)}
        return states if len(states) > 1 else states["0"]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for number, level in enumerate(self.levels):
            level.load_state_dict(state[str(number)] if len(self.levels) > 1 else state)
