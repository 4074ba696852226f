"""Quantizers: they find the nearest entry of a codebook, learn the codebook, and revive unused entries."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.runtime.device import to_device
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.fp32 import exact

_DISTANCES = 2**23
"""Largest number of distances in memory at once; it bounds the number of vectors that are compared at a time."""

LOGITS = 8.0
"""Standard deviation, between the cells of a batch, of the logits with which a sampled codebook begins."""


class Quantized(NamedTuple):
    """`z_e` (B, D, h, w) as it is compared with the codebook; `z_q` (B, D, h, w), its nearest entries, differentiable
    with respect to the codebook; `codes` (B, h, w) int64; `logits` (B, K, h, w), from which codes are sampled in
    training, or None."""

    z_e: Tensor
    z_q: Tensor
    codes: Tensor
    logits: Tensor | None = None

    def straight_through(self) -> Tensor:
        """`z_q` (B, D, h, w), whose gradient passes to `z_e` unchanged (Bengio et al. 2013)."""
        return self.z_e + (self.z_q - self.z_e).detach()

    def detached(self) -> "Quantized":
        """The same without gradients and logits."""
        return Quantized(self.z_e.detach(), self.z_q.detach(), self.codes)


class Quantizer(nn.Module):
    """A codebook (K, D). With `normalize`, vectors and entries are compared on the unit sphere (Yu et al. 2022)."""

    def __init__(self, codebook_size: int, codebook_dim: int, *, normalize: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, codebook_dim)
        self.normalize = normalize
        if normalize:
            nn.init.normal_(self.embedding.weight)
        else:
            nn.init.uniform_(self.embedding.weight, -1.0 / codebook_size, 1.0 / codebook_size)

    @property
    def codebook(self) -> Tensor:
        """The entries (K, D) as they are compared and decoded, fp32."""
        weight = self.embedding.weight.float()
        return F.normalize(weight, dim=1) if self.normalize else weight

    def forward(self, z: Tensor) -> Quantized:
        """(B, D, h, w) -> Quantized, in fp32 without TF32, regardless of the caller's autocast."""
        with exact(z.device):
            z_e = F.normalize(z.float(), dim=1) if self.normalize else z.float()
            codes = nearest(z_e.permute(0, 2, 3, 1).reshape(-1, z.shape[1]), self.codebook)
            codes = codes.view(z.shape[0], z.shape[2], z.shape[3])
            return Quantized(z_e, self.lookup(codes), codes)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) in [0, K) -> entries (B, D, h, w) fp32."""
        return F.embedding(codes, self.codebook).permute(0, 3, 1, 2)


class GumbelQuantizer(nn.Module):
    """A codebook (K, D) whose code is the largest of K logits of the encoder's output, of so many `channels`, as in the
    published GumbelVQ and in the dVAE.

    In training the code is sampled with Gumbel noise (Jang et al. 2017) at `temperature`: a hard sample forward and the
    gradient of the softmax backward, or, `relaxed`, the softmax in both. In evaluation nothing is random.
    """

    def __init__(self, codebook_size: int, codebook_dim: int, channels: int, *, relaxed: bool = False) -> None:
        super().__init__()
        self.temperature, self.relaxed = 1.0, relaxed
        self.proj = nn.Conv2d(channels, codebook_size, 1)
        self.embed = nn.Embedding(codebook_size, codebook_dim)

    @property
    def embedding(self) -> nn.Embedding:
        """The entries, under their name in `Quantizer`."""
        return self.embed

    @property
    def codebook(self) -> Tensor:
        """The entries (K, D), fp32."""
        return self.embed.weight.float()

    def forward(self, z: Tensor) -> Quantized:
        """(B, channels, h, w) -> Quantized, in fp32. In training `z_e` is `z_q`, so that losses between the two are
        zero."""
        with exact(z.device):
            logits = self.proj(z.float())  # (B, K, h, w)
            if not self.training:
                codes = logits.argmax(1)
                return Quantized(z.float(), self.lookup(codes), codes)
            chosen = F.gumbel_softmax(logits, tau=self.temperature, hard=not self.relaxed, dim=1)
            z_q = torch.einsum("bkhw,kd->bdhw", chosen, self.embed.weight.float())
            return Quantized(z_q, z_q, chosen.argmax(1), logits)

    @torch.no_grad()
    def begin_with(self, z: Tensor, generator: torch.Generator, world: World = ALONE) -> None:
        """Place the codes of a new quantizer on vectors of a batch, of which each process has a part, (B, channels, h,
        w). `generator` (CPU) makes the choice reproducible, and equal in all processes.

        A cell's logits are `-s |z - c_k|^2 / 2`, up to a constant of the cell, for K random vectors c_k of the batch;
        s gives them a standard deviation of LOGITS between cells, on average over codes. The entries are a random
        projection of the c_k. The output of a new encoder varies in few directions, along which two or three of K
        random logits are the largest everywhere. The standard deviation of Gumbel noise is 1.3: logits that vary less
        are lost in it.
        """
        vectors = world.rows(z.float().permute(0, 2, 3, 1).reshape(-1, z.shape[1]))
        mean = vectors.mean(0)
        centred = vectors - mean
        chosen = choose_vectors(centred, len(self.embed.weight), generator)
        with exact(z.device):
            bias = -chosen.pow(2).sum(1) / 2
            scale = LOGITS / (centred @ chosen.t() + bias).std(0).mean().clamp(min=1e-6)
            mix = to_device(torch.randn(z.shape[1], self.embed.weight.shape[1], generator=generator), z.device)
            entries = (chosen - chosen.mean(0)) @ mix
            assert self.proj.bias is not None
            self.proj.weight.copy_(scale * chosen[:, :, None, None])
            self.proj.bias.copy_(scale * (bias - chosen @ mean))
            self.embed.weight.copy_(entries / entries.std().clamp(min=1e-6))

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) in [0, K) -> entries (B, D, h, w) fp32."""
        return F.embedding(codes, self.embed.weight.float()).permute(0, 3, 1, 2)


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The index of each vector's nearest entry: (N, D), (K, D) -> (N,) int64; argmin of |z|^2 + |e|^2 - 2 z.e."""
    squares = codebook.pow(2).sum(1)
    codes = []
    for rows in torch.split(vectors, max(1, _DISTANCES // len(codebook))):
        distance = rows.pow(2).sum(1, keepdim=True) + squares - 2 * rows @ codebook.t()
        codes.append(distance.argmin(1))
    return torch.cat(codes)


def choose_vectors(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random vectors of (N, D), without repetition if there are so many, else with a little noise."""
    places = torch.randperm(len(vectors), generator=generator)
    if len(vectors) < count:
        places = torch.randint(len(vectors), (count,), generator=generator)
    chosen = vectors[to_device(places[:count], vectors.device)]
    if len(vectors) >= count:
        return chosen
    noise = to_device(torch.randn(chosen.shape, generator=generator), chosen.device)
    spread = vectors.std(0) if len(vectors) > 1 else torch.zeros_like(vectors[0])  # std of one vector is NaN
    return chosen + 0.02 * spread * noise


class CodebookUse(NamedTuple):
    """How a batch uses a codebook: `counts` (K,) fp32 of each code; `uses` (K,) fp32, their moving averages including
    this batch; `dead` (K,) bool, true for entries whose use has fallen below the threshold."""

    counts: Tensor
    uses: Tensor
    dead: Tensor


class CodebookAverages:
    """Learns a codebook as moving averages of the vectors assigned to each entry, and revives dead entries.

    Averages: van den Oord et al. 2017, appendix A.1. The state is kept outside the quantizer, so that the keys of the
    model stay the published ones. With `learn=False`, only the use of each entry is tracked, for revival. `trained`
    keeps the entries of a trained codebook; those of a new one are placed on vectors of the first batch.
    """

    def __init__(
        self, quantizer: Quantizer | GumbelQuantizer, *, decay: float, revive: float, learn: bool, trained: bool = False
    ) -> None:
        weight = quantizer.embedding.weight
        self.quantizer, self.decay, self.revive, self.learn = quantizer, decay, revive, learn
        self.uses = torch.zeros(len(weight), device=weight.device)
        self.sums = torch.zeros_like(weight)
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
        weight = self.quantizer.embedding.weight
        use = self.measure(quantized, world) if use is None else use
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

    def state_dict(self) -> dict[str, Any]:
        """The averages, for an exact resume: those of a single level, or by the number of the level."""
        states = {str(number): level.state_dict() for number, level in enumerate(self.levels)}
        return states if len(states) > 1 else states["0"]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for number, level in enumerate(self.levels):
            level.load_state_dict(state[str(number)] if len(self.levels) > 1 else state)
