"""Sampling: executes the plan of `windows` wave by wave with a key/value cache. Returns codes; decoding is elsewhere.

The codes depend on the prior, the conditions, the seed, each sample's number and the decoding settings alone: not on
the batch size, nor on which other samples are drawn.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from taming_cli.config.ramp import Ramp
from taming_cli.config.sampling import DecodingConfig
from taming_cli.errors import UsageError
from taming_cli.prior.layout import KnownCells, check_guidance, prefix
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.noise import cell, gumbel
from taming_cli.prior.raster.buffers import BufferCache, DecodingBuffers
from taming_cli.prior.raster.code_grid import BatchRow, CodeGrid
from taming_cli.prior.raster.speculation import DraftLength, GuessedRows, NoiseAhead, Spent
from taming_cli.prior.raster.windows import Span

NOISE_BLOCK = {"cpu": 2**18, "cuda": 2**23}
"""Random numbers computed in one call; other devices use the value of "cpu". A call costs as much as a step of a small
network, so a block covers many steps. On a CPU it should fit into the cache. On a GPU, 2**23 numbers take 64 MiB: the
noise of 32 steps for 16 windows of 16,384 codes."""


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
    known: KnownCells | None = None,
    attempts: Sequence[int] | None = None,
    buffers: BufferCache | None = None,
    speculate: int = 1,
    spent: Spent | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw the samples numbered `samples`: codes (n, h, w), int64, on the prior's device. `size` is (h, w) in cells.

    `conditions` holds codes by kind for each sample, (n, length) or (n, h, w) on the samples' grid; a kind that is left
    out, or `NOT_GIVEN`, means no condition of that kind. `known` cells keep their codes. `attempts`, one number for
    each sample and 0 by default, draws a sample with other noise. At most `batch_size` windows are computed at once
    (twice as many rows with guidance). `buffers` are reused between calls and save the time to allocate them.
    `speculate` is the number of cells of each window that a forward computes (see `speculation`): 0 adapts it to what
    is right, and 1 draws one by one; the codes are the same, up to rounding. `spent` counts the forwards and the tokens
    of each sample. `on_progress(done, total)` counts cells. Raises UsageError if conditions, stride or guidance do not
    fit.
    """
    assert not gpt.training
    config = gpt.config
    grid = CodeGrid.blank(
        config,
        size=size,
        samples=len(samples),
        conditions=conditions or {},
        stride=stride,
        device=gpt.head.weight.device,
    )
    check_constant(decoding)
    check_guidance(config, decoding)
    sampler = Sampler(
        gpt,
        grid,
        samples=samples,
        attempts=attempts,
        seed=seed,
        decoding=decoding,
        known=known,
        speculate=speculate,
        spent=spent,
    )
    waves = sampler.unknown_waves()
    total, done = len(samples) * sum(span.length for wave in waves for span in wave), 0
    widest = len(samples) * max((len(wave) for wave in waves), default=0)
    allocated = (buffers or BufferCache()).get(gpt, decoding, max(1, min(batch_size, widest)))
    for wave in waves:
        for cells in sampler.draw_wave(wave, allocated, batch_size):
            done += cells
            if on_progress is not None:
                on_progress(done, total)
    return grid.by_cell(grid.codes)


def check_constant(decoding: DecodingConfig) -> None:
    """UsageError for a temperature or guidance that changes, which would change it from the top to the bottom."""
    for name, value in (("temperature", decoding.temperature), ("guidance", decoding.guidance)):
        if isinstance(value, Ramp):
            raise UsageError(f"{name} is {value}; only a prior for any order takes two values, so give one number")


def noise_block(device: str, numbers: int) -> int:
    """The number of steps whose noise is computed at once, where each step takes `numbers` random numbers."""
    return max(1, NOISE_BLOCK.get(device, NOISE_BLOCK["cpu"]) // numbers)


class Sampler:
    """Fills a grid of codes, wave by wave. Arguments as in `generate`."""

    def __init__(
        self,
        gpt: GPT,
        grid: CodeGrid,
        *,
        samples: Sequence[int],
        attempts: Sequence[int] | None,
        seed: int,
        decoding: DecodingConfig,
        known: KnownCells | None,
        speculate: int = 1,
        spent: Spent | None = None,
    ) -> None:
        self.gpt, self.grid, self.seed, self.decoding = gpt, grid, seed, decoding
        self.draft = DraftLength(grid.codes.device.type, gpt.head.weight.dtype, speculate)
        self.spent = spent or Spent(len(samples))
        device, planned = grid.codes.device, grid.plan
        self.numbers = torch.tensor(samples, dtype=torch.int64, device=device)
        self.attempts = torch.tensor(attempts or [0] * len(samples), dtype=torch.int64, device=device)
        self.mask = torch.zeros_like(grid.codes[0], dtype=torch.bool)
        self.any_known = known is not None
        if known is not None:
            area = (slice(planned.height), slice(planned.width))
            self.mask[area] = grid.by_place(known.mask[None].to(device))[0]
            grid.codes[:, *area] = grid.by_place(known.codes.to(device)) * self.mask[area]

    def unknown_waves(self) -> list[list[Span]]:
        """The plan's waves. Each span is cut to the stretch from its first to its last unknown cell; spans without
        unknown cells are left out."""
        waves = self.grid.plan.waves
        if not self.any_known:
            return [list(wave) for wave in waves]
        unknown = (~self.mask).tolist()
        parts = [[self.grid.plan.part(span, unknown) for span in wave] for wave in waves]
        return [[span for span in wave if span is not None] for wave in parts]

    def draw_wave(self, wave: Sequence[Span], buffers: DecodingBuffers, batch_size: int) -> Iterator[int]:
        """Draw a wave of all samples in batches of windows; yields the number of cells drawn by each step."""
        whole = [BatchRow(span, sample) for span in wave for sample in range(len(self.numbers))]
        whole.sort(key=lambda row: -row.span.length)  # finished rows are then last, and steps leave them out
        for start in range(0, len(whole), batch_size):
            batch = whole[start : start + batch_size]
            rows = len(batch) * (1 + self.decoding.guided)
            drawing = self._draw_one_by_one if self.draft.one_by_one(rows) else self._draw_ahead
            yield from drawing(batch, buffers)

    def _draw_one_by_one(self, batch: Sequence[BatchRow], buffers: DecodingBuffers) -> Iterator[int]:
        """Draw the cells of independent rows one by one, the longest row first; yields the number of cells drawn by
        each step."""
        columns, codes = self.grid.plan.padded_width, self.grid.codes
        spans, sample = [row.span for row in batch], self.grid.samples(batch)
        steps = spans[0].length
        self.spent.count_spans(batch, 1 + self.decoding.guided, self.grid)
        cells = self.grid.numbers(batch, steps)
        rows, cols = cells // columns, cells % columns
        codebook_size, greedy = self.gpt.config.codebook_size, self.decoding.greedy
        block = noise_block(codes.device.type, len(batch) * codebook_size)
        noise = torch.empty(0)
        for step in range(steps):
            active = sum(span.length > step for span in spans)
            current = (sample[:active], rows[:active, step], cols[:active, step])
            if step % block == 0 and not greedy:
                ahead = slice(step, step + block)
                at = self.grid.raster(cells[:active, ahead])
                places = cell(at // columns, at % columns)
                number, attempt = (values[sample[:active], None] for values in (self.numbers, self.attempts))
                noise = gumbel(self.seed, number, places, codebook_size, attempt=attempt)  # (B, block, K)
            step_noise = None if greedy else noise[:active, step % block]
            if step == 0:
                token = buffers.steps.choose(self._prefill(buffers, batch), step_noise)
            else:
                last = codes[sample[:active], rows[:active, step - 1], cols[:active, step - 1]]
                token = buffers.steps.next(last, step_noise)
            if self.any_known:
                token = torch.where(self.mask[current[1:]], codes[current], token)
            codes[current] = token
            yield active

    def _draw_ahead(self, batch: Sequence[BatchRow], buffers: DecodingBuffers) -> Iterator[int]:
        """The same with several cells of each row in a forward; yields the number of cells drawn by each forward."""
        grid, steps, columns = self.grid, buffers.steps, self.grid.plan.padded_width
        rows = GuessedRows(grid, batch, self.mask if self.any_known else None)
        passes = 1 + self.decoding.guided

        def noise_of(row: int, cells: Tensor) -> Tensor:
            at, sample = grid.raster(cells), batch[row].sample
            number, attempt = self.numbers[sample], self.attempts[sample]
            return gumbel(
                self.seed, number, cell(at // columns, at % columns), self.gpt.config.codebook_size, attempt=attempt
            )

        block = noise_block(grid.codes.device.type, len(batch) * self.gpt.config.codebook_size)
        noise = NoiseAhead(None if self.decoding.greedy else noise_of, rows.cells, block)
        logits = steps.guide(self._prefill(buffers, batch))
        kept = rows.take(steps.guess(logits, noise.at(rows.drawn, 1)))
        self.spent.count(batch, [passes * (self.gpt.config.prefix_length + grid.plan.known(row.span)) for row in batch])
        yield sum(kept)
        while active := rows.active:
            cells = self.draft.choose(active * passes, rows.most)
            if missing := rows.missing(cells - 1):
                rows.guess(steps.guess(logits[:active], noise.at(rows.guessed, missing)), missing)
            got, logits = steps.ahead(rows.last(cells), noise.at(rows.drawn, cells))
            kept = rows.take(got)
            steps.keep(kept)
            self.draft.count(cells, kept)
            self.spent.guesses += (cells - 1) * active
            self.spent.right += sum(number - 1 for number in kept if number)
            self.spent.count([row for row, own in zip(batch, kept, strict=False) if own], [passes * cells] * active)
            yield sum(kept)

    def _prefill(self, buffers: DecodingBuffers, batch: Sequence[BatchRow]) -> Tensor:
        """Read each window up to the first cell of its span: logits (B, K), of 2 B rows with guidance."""
        before, codes, known = self.grid.inputs(batch)
        codes = codes[:, : max(known)]
        if self.decoding.guided:
            without = prefix(self.gpt.config, {}, len(batch), before.device)
            before = torch.stack((before, without), dim=1).flatten(0, 1)  # neighbours, so that finished rows stay last
            codes, known = codes.repeat_interleave(2, dim=0), [n for n in known for _ in range(2)]
        logits = self.gpt.prefill(buffers.cache, before, codes, known)
        buffers.steps.start()
        return logits
