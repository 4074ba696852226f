"""Sampling: the plan of `windows`, carried out wave by wave with a key/value cache. Codes out; decoding is elsewhere.

What comes out depends on the prior, the conditions, the seed, each sample's number and the decoding settings, and on
nothing else: not on the batch size, nor on which other samples are drawn.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.config.prior import PriorConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.errors import UsageError
from taming_cli.prior.cache import KVCache
from taming_cli.prior.decoding import choose, guide
from taming_cli.prior.gpt import GPT
from taming_cli.prior.layout import check_conditions, prefix
from taming_cli.prior.noise import cell, gumbel
from taming_cli.prior.order import cells as cells_in_order
from taming_cli.prior.order import in_order, on_grid
from taming_cli.prior.windows import Plan, Run, plan

NOISE_BLOCK = 2**18  # numbers made at once: many, since each call costs as much as a small network's step; but in cache


class Given(NamedTuple):
    """Codes that are known already: `codes` (n, h, w) or (1, h, w), to be kept where `keep` (h, w) is true."""

    codes: Tensor
    keep: Tensor


class Job(NamedTuple):
    """One run for one sample, which is the `sample`-th of those asked for."""

    run: Run
    sample: int


@torch.inference_mode()
def generate(
    gpt: GPT,
    *,
    size: tuple[int, int],
    samples: Sequence[int],
    seed: int,
    decoding: DecodingConfig,
    conditions: Mapping[str, Tensor] | None = None,
    stride: int = 1,
    batch_size: int = 16,
    given: Given | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw the samples numbered `samples`: codes (n, h, w), int64, on the prior's device. `size` is (h, w) in cells.

    `conditions` holds for each kind codes for each sample, (n, length) or (n, h, w) on the samples' grid; a kind left
    out, or `NOT_GIVEN`, is "none". At most `batch_size` windows are computed at once (twice as many rows with
    guidance). `on_progress(done, total)` counts cells. Raises UsageError where conditions, stride or guidance do not
    fit the prior.
    """
    assert not gpt.training
    device, config = gpt.head.weight.device, gpt.config
    conditions = {kind: codes.to(device) for kind, codes in (conditions or {}).items()}
    check_conditions(config, conditions, len(samples), size)
    guided = decoding.guidance != 1
    if guided and (not config.conditions or config.vocabulary == "shared"):
        raise UsageError(
            f"guidance is {decoding.guidance:g}, but this prior was not trained without its condition; use 1"
        )
    planned = plan(*size, (config.window.height, config.window.width), stride)
    if config.order != "raster":
        if size != (config.window.height, config.window.width):
            raise UsageError(
                f"this prior goes through its cells in the order {config.order!r}, so it makes pictures of "
                f"{config.window} cells alone; leave --size out"
            )
        given = given and Given(_places(config, given.codes), _places(config, given.keep[None])[0])
    sampler = _Sampler(gpt, planned, conditions=conditions, samples=samples, seed=seed, decoding=decoding, given=given)
    waves = [_unknown_parts(planned, wave, given) for wave in planned.waves]
    total, done = len(samples) * sum(run.length for wave in waves for run in wave), 0
    rows = min(batch_size, len(samples) * max((len(wave) for wave in waves), default=0)) * (1 + guided)
    cache = KVCache(config, rows, dtype=gpt.head.weight.dtype, device=device)
    for wave in waves:
        jobs = [Job(run, sample) for run in wave for sample in range(len(samples))]
        jobs.sort(key=lambda job: -job.run.length)  # those that end first are the last rows, which a step can leave out
        for start in range(0, len(jobs), batch_size):
            for cells in sampler.run_together(jobs[start : start + batch_size], cache):
                done += cells
                if on_progress is not None:
                    on_progress(done, total)
    if config.order != "raster":
        return on_grid(config, sampler.grid.flatten(1))
    return sampler.grid[:, : size[0], : size[1]].clone()


class _Sampler:
    """The grid that is being filled, (n, padded_height, padded_width), and all that filling it needs.

    With another order than raster, the grid's cells are places: the first of the first row holds what comes first.
    """

    def __init__(
        self,
        gpt: GPT,
        planned: Plan,
        *,
        conditions: Mapping[str, Tensor],
        samples: Sequence[int],
        seed: int,
        decoding: DecodingConfig,
        given: Given | None,
    ) -> None:
        self.gpt, self.plan, self.seed, self.decoding = gpt, planned, seed, decoding
        self.device = gpt.head.weight.device
        self.numbers = torch.tensor(samples, dtype=torch.int64, device=self.device)
        below, right = planned.padded_height - planned.height, planned.padded_width - planned.width
        self.conditions = dict(conditions)
        for spec in gpt.config.conditions:
            if spec.form == "grid" and spec.kind in conditions:
                self.conditions[spec.kind] = _repeat_edge(conditions[spec.kind], below, right)
        self.order = None if gpt.config.order == "raster" else cells_in_order(gpt.config).to(self.device)
        self.grid = torch.zeros(
            (len(samples), planned.padded_height, planned.padded_width), dtype=torch.int64, device=self.device
        )
        self.keep: Tensor | None = None
        if given is not None:
            self.keep = F.pad(given.keep.to(self.device), (0, right, 0, below))
            self.grid[:, : planned.height, : planned.width] = given.codes.to(self.device) * given.keep.to(self.device)

    def run_together(self, jobs: Sequence[Job], cache: KVCache) -> Iterator[int]:
        """Fill in the cells of independent jobs, the longest first; yields how many cells each step has filled."""
        columns = self.plan.padded_width
        runs, sample = [job.run for job in jobs], self._tensor([job.sample for job in jobs])
        steps = runs[0].length
        first = self._tensor([run.row * columns + run.column for run in runs])
        cells = first[:, None] + torch.arange(steps, device=self.device)  # (B, steps), numbered over the padded grid
        rows, cols = cells // columns, cells % columns
        codebook_size, greedy = self.gpt.config.codebook_size, self.decoding.greedy
        block = max(1, NOISE_BLOCK // (len(jobs) * codebook_size))
        for step in range(steps):
            active = sum(run.length > step for run in runs)
            here = (sample[:active], rows[:active, step], cols[:active, step])
            if step == 0:
                logits = self._prefill(cache, runs, sample)
            else:
                logits = self._step(cache, self.grid[sample[:active], rows[:active, step - 1], cols[:active, step - 1]])
            if step % block == 0 and not greedy:
                ahead = slice(step, step + block)
                at = cells[:active, ahead] if self.order is None else self.order[cells[:active, ahead]]
                places = cell(at // columns, at % columns)
                noise = gumbel(self.seed, self.numbers[sample[:active], None], places, codebook_size)  # (B, block, K)
            token = choose(logits, None if greedy else noise[:active, step % block], self.decoding)
            if self.keep is not None:
                token = torch.where(self.keep[here[1:]], self.grid[here], token)
            self.grid[here] = token
            yield active

    def _prefill(self, cache: KVCache, runs: Sequence[Run], sample: Tensor) -> Tensor:
        """Read each run's window up to its first cell: logits (B, K)."""
        config, batch = self.gpt.config, len(runs)
        top, left = self._tensor([run.top for run in runs]), self._tensor([run.left for run in runs])
        rows = top[:, None, None] + torch.arange(config.window.height, device=self.device)[:, None]
        cols = left[:, None, None] + torch.arange(config.window.width, device=self.device)
        window = (sample[:, None, None], rows, cols)  # (B, a, b) of a grid
        forms = {spec.kind: spec.form for spec in config.conditions}
        here = {k: codes[window] if forms[k] == "grid" else codes[sample] for k, codes in self.conditions.items()}
        before = prefix(config, here, batch, self.device)
        known = [self.plan.known(run) for run in runs]
        codes = self.grid[window].flatten(1)[:, : max(known)]
        if self.decoding.guidance == 1:
            return self.gpt.prefill(cache, before, codes, known)
        without = prefix(config, {}, batch, self.device)
        before = torch.stack((before, without), dim=1).flatten(0, 1)  # neighbours, so that finished rows stay last
        known = [n for n in known for _ in range(2)]
        return self._guided(self.gpt.prefill(cache, before, codes.repeat_interleave(2, dim=0), known))

    def _step(self, cache: KVCache, codes: Tensor) -> Tensor:
        """Append a code (B,) to each window: logits (B, K)."""
        if self.decoding.guidance == 1:
            return self.gpt.step(cache, codes)
        return self._guided(self.gpt.step(cache, codes.repeat_interleave(2)))

    def _guided(self, logits: Tensor) -> Tensor:
        """(2 B, K), with and without condition in turns -> (B, K)."""
        return guide(logits[0::2], logits[1::2], self.decoding.guidance)

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)


def _places(config: PriorConfig, grid: Tensor) -> Tensor:
    """Values on the window (n, a, b) by place: (n, a, b)."""
    return in_order(config, grid).view(grid.shape)


def _unknown_parts(planned: Plan, wave: Sequence[Run], given: Given | None) -> list[Run]:
    """The runs of a wave, each from its first unknown cell to its last; those with none left out."""
    if given is None:
        return list(wave)
    keep, parts = given.keep.tolist(), []
    for run in wave:
        cells = list(planned.cells(run))
        unknown = [n for n, (i, j) in enumerate(cells) if j >= planned.width or not keep[i][j]]
        if unknown:
            row, column = cells[unknown[0]]
            parts.append(run._replace(row=row, column=column, length=unknown[-1] - unknown[0] + 1))
    return parts


def _repeat_edge(codes: Tensor, below: int, right: int) -> Tensor:
    """(n, h, w) -> (n, h + below, w + right), the last row and column repeated."""
    rows = torch.arange(codes.shape[1] + below, device=codes.device).clamp(max=codes.shape[1] - 1)
    cols = torch.arange(codes.shape[2] + right, device=codes.device).clamp(max=codes.shape[2] - 1)
    return codes[:, rows][:, :, cols]
