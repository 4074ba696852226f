"""Sampling by a plan: each step adds the codes drawn last to the cache, and draws the next group, in one forward.

The codes depend on the prior, the conditions, the seed, each sample's number, the plan and the decoding settings alone:
not on the batch size, nor on which other samples are drawn.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from taming_cli.config.sampling import DecodingConfig
from taming_cli.prior.any_order.plan import GroupPlan, group_plan
from taming_cli.prior.decoding import choose, guide
from taming_cli.prior.layout import KnownCells, check_conditions, check_guidance
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.group_attention import GroupCache
from taming_cli.prior.noise import cell, gumbel

LOGITS = 2**22
"""Logits of a batch that are turned into codes at once; their noise is float64."""


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
    """Draw the samples numbered `samples` in `steps` forwards: codes (n, h, w), int64, on the prior's device.

    `batch_size` is the largest number of pictures computed at once. The other arguments are those of the raster prior's
    `generate`. Raises UsageError if conditions or guidance do not fit.
    """
    assert not network.training
    device = network.head.weight.device
    given = {kind: codes.to(device) for kind, codes in (conditions or {}).items()}
    check_conditions(network.config, given, len(samples), size)
    check_guidance(network.config, decoding)
    plan = group_plan(*size, steps, None if known is None else known.mask.cpu().numpy())
    codes = torch.zeros(len(samples), *size, dtype=torch.int64, device=device)
    if known is not None:
        codes += known.codes.to(device) * known.mask.to(device)
    numbers, tries = (
        torch.tensor(of, dtype=torch.int64, device=device) for of in (samples, attempts or [0] * len(samples))
    )
    total = len(samples) * int((plan.groups > 0).sum())
    done = 0
    for start in range(0, len(samples), batch_size):
        part = slice(start, start + batch_size)
        sampler = GroupSampler(network, {kind: of[part] for kind, of in given.items()}, codes[part], plan, decoding)
        for drawn in sampler.draw(seed, numbers[part], tries[part]):
            done += drawn
            if on_progress is not None:
                on_progress(done, total)
    return codes


class GroupSampler:
    """Pictures that are drawn together: `codes` (B, h, w), which are filled in, with the known cells of the plan."""

    def __init__(
        self,
        network: AnyOrder,
        conditions: Mapping[str, Tensor],
        codes: Tensor,
        plan: GroupPlan,
        decoding: DecodingConfig,
    ) -> None:
        self._network, self._plan, self._decoding = network, plan, decoding
        self._codes = codes.view(len(codes), -1)
        batch, *size = codes.shape
        height, self._width = size
        weight = network.head.weight
        self._levels = torch.from_numpy(plan.levels.ravel()).to(weight.device)
        context = network.context(conditions, batch, (height, self._width))
        if self._decoding.guided:
            context = torch.cat((context, network.context({}, batch, (height, self._width))))
        self._context = context
        self._cache = GroupCache(
            network.config, len(context), (height, self._width), dtype=weight.dtype, device=weight.device
        )

    def draw(self, seed: int, numbers: Tensor, attempts: Tensor) -> Iterator[int]:
        """Draw the groups in turn; yields the number of cells drawn by each step."""
        drawn, codebook_size = self._cells(0), self._network.config.codebook_size
        for step in range(1, self._plan.steps + 1):
            asked = self._cells(step)
            now = self._decoding.at((step - 1) / max(1, self._plan.steps - 1))
            codes = self._codes[:, drawn]
            if self._decoding.guided:
                codes = torch.cat((codes, codes))
            x = self._network.step(self._cache, self._context, self._levels, drawn, codes, asked)  # (B, A, C)
            cells = max(1, LOGITS // (len(x) * codebook_size))
            for part, features in zip(torch.split(asked, cells), torch.split(x, cells, dim=1), strict=True):
                logits = self._network.logits(features)
                if self._decoding.guided:
                    conditional, unconditional = logits.chunk(2)
                    logits = guide(conditional, unconditional, now.guidance)
                noise = None
                if not now.greedy:
                    places = cell(part // self._width, part % self._width)
                    noise = gumbel(seed, numbers[:, None], places, codebook_size, attempt=attempts[:, None]).flatten(
                        0, 1
                    )
                self._codes[:, part] = choose(logits.flatten(0, 1), noise, now).view(len(numbers), -1)
            yield len(numbers) * len(asked)
            drawn = asked

    def _cells(self, step: int) -> Tensor:
        return torch.from_numpy(self._plan.cells(step)).to(self._codes.device)
