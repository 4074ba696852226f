"""Sampling by a plan: each step adds the codes drawn last to the cache, and draws the next group, in one forward.

The codes depend on the prior, the conditions, the seed, each sample's number, the plan and the decoding settings alone:
not on the batch size, nor on which other samples are drawn.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from taming_cli.config.sampling import DecodingConfig
from taming_cli.prior.any_order.plan import group_plan
from taming_cli.prior.any_order.stages import DrawingStage, most_cells, stages
from taming_cli.prior.decoding import choose, guide
from taming_cli.prior.layout import KnownCells, check_conditions, check_guidance
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.group_attention import GroupCache
from taming_cli.prior.networks.surroundings import REACH
from taming_cli.prior.noise import cell, gumbel

LOGITS = 2**22
"""Logits of a batch that are turned into codes at once; their noise is float64."""
CONTEXT = 2**15
"""Cells whose context is computed at once."""


@torch.inference_mode()
def generate(
    network: AnyOrder,
    *,
    size: tuple[int, int],
    samples: Sequence[int],
    seed: int,
    decoding: DecodingConfig,
    conditions: Mapping[str, Tensor] | None = None,
    steps: int = 32,
    batch_size: int = 16,
    known: KnownCells | None = None,
    attempts: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw the samples numbered `samples` in `steps` forwards: codes (n, h, w), int64, on the prior's device. Large
    pictures take more forwards, in bounded memory (see `stages`).

    `batch_size` is the largest number of pictures computed at once. The other arguments are those of the raster prior's
    `generate`. Raises UsageError if conditions or guidance do not fit.
    """
    assert not network.training
    device = network.head.weight.device
    given = {kind: codes.to(device) for kind, codes in (conditions or {}).items()}
    check_conditions(network.config, given, len(samples), size)
    check_guidance(network.config, decoding)
    plan = group_plan(*size, steps, None if known is None else known.mask.cpu().numpy())
    parts = stages(plan, network.config, guided=decoding.guided)
    together = max(1, min(batch_size, most_cells(network.config, guided=decoding.guided) // plan.groups.size))
    codes = torch.zeros(len(samples), *size, dtype=torch.int64, device=device)
    if known is not None:
        codes += known.codes.to(device) * known.mask.to(device)
    numbers, tries = (
        torch.tensor(of, dtype=torch.int64, device=device) for of in (samples, attempts or [0] * len(samples))
    )
    total = len(samples) * int((plan.groups > 0).sum())
    done = 0
    for start in range(0, len(samples), together):
        rows = slice(start, start + together)
        own = {kind: of[rows] for kind, of in given.items()}
        contexts = [network_context(network, own, len(codes[rows]), size)]
        if decoding.guided:
            contexts.append(network_context(network, {}, len(codes[rows]), size))
        context = torch.cat(contexts).view(-1, *size, network.config.n_embd)
        for stage in parts:
            sampler = GroupSampler(network, context, codes[rows], stage, decoding, plan.steps)
            for drawn in sampler.draw(seed, numbers[rows], tries[rows]):
                done += drawn
                if on_progress is not None:
                    on_progress(done, total)
    return codes


def network_context(network: AnyOrder, conditions: Mapping[str, Tensor], batch: int, size: tuple[int, int]) -> Tensor:
    """As `AnyOrder.context`, some rows at a time where there are many cells: (B, h w, C)."""
    height, width = size
    rows = max(1, CONTEXT // width)
    found = []
    for start in range(0, height, rows):
        end = min(start + rows, height)
        top, bottom = max(0, start - REACH), min(height, end + REACH)
        given = {kind: of[:, top:bottom] if of.ndim == 3 else of for kind, of in conditions.items()}
        x = network.context(given, batch, (bottom - top, width)).reshape(batch, bottom - top, width, -1)
        found.append(x[:, start - top : end - top].flatten(1, 2))
    return torch.cat(found, dim=1)


class GroupSampler:
    """Draws the cells of a stage of pictures: `context` (n, h, w, C), twice with guidance, and `codes` (B, h, w), which
    are filled in, are those of the whole pictures, whose plan has `steps` groups."""

    def __init__(
        self,
        network: AnyOrder,
        context: Tensor,
        codes: Tensor,
        stage: DrawingStage,
        decoding: DecodingConfig,
        steps: int,
    ) -> None:
        height, self._width = stage.plan.groups.shape
        rows, weight = slice(stage.top, stage.top + height), network.head.weight
        self._network, self._stage, self._decoding, self._steps = network, stage, decoding, steps
        self._codes, self._context = codes[:, rows], context[:, rows].flatten(1, 2)
        self._levels = torch.from_numpy(stage.plan.levels.ravel()).to(weight.device)
        self._cache = GroupCache(
            network.config,
            len(context),
            (height, self._width),
            capacity=stage.capacity,
            dtype=weight.dtype,
            device=weight.device,
        )

    def draw(self, seed: int, numbers: Tensor, attempts: Tensor) -> Iterator[int]:
        """Draw the groups in turn; yields the number of cells drawn by each step."""
        drawn, codebook_size = self._cells(0), self._network.config.codebook_size
        for step in range(1, self._stage.steps + 1):
            asked = self._cells(step)
            if not len(asked):  # a band may have no cell of a small group
                continue
            now = self._decoding.at((self._stage.first + step - 2) / max(1, self._steps - 1))
            codes = self._codes[:, drawn // self._width, drawn % self._width]
            if self._decoding.guided:
                codes = torch.cat((codes, codes))
            x = self._network.step(self._cache, self._context, self._levels, drawn, codes, asked)  # (B, A, C)
            cells = max(1, LOGITS // (len(x) * codebook_size))
            for part, features in zip(torch.split(asked, cells), torch.split(x, cells, dim=1), strict=True):
                logits = self._network.logits(features)
                if self._decoding.guided:
                    conditional, unconditional = logits.chunk(2)
                    logits = guide(conditional, unconditional, now.guidance)
                rows, columns, noise = part // self._width, part % self._width, None
                if not now.greedy:
                    places = cell(rows + self._stage.top, columns)
                    noise = gumbel(seed, numbers[:, None], places, codebook_size, attempt=attempts[:, None])
                    noise = noise.flatten(0, 1)
                chosen = choose(logits.flatten(0, 1), noise, now)
                self._codes[:, rows, columns] = chosen.view(len(numbers), -1)
            yield len(numbers) * len(asked)
            drawn = asked

    def _cells(self, step: int) -> Tensor:
        plan = self._stage.plan
        cells = plan.cells(step) if step <= plan.steps else np.empty(0, np.int64)
        return torch.from_numpy(cells).to(self._codes.device)
