"""Sampling: the plan of `windows`, carried out wave by wave with a key/value cache. Codes out; decoding is elsewhere.

What comes out depends on the prior, the conditions, the seed, each sample's number and the decoding settings, and on
nothing else: not on the batch size, nor on which other samples are drawn.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from taming_cli.config.sampling import DecodingConfig
from taming_cli.errors import UsageError
from taming_cli.prior.buffers import Kept, Workspace
from taming_cli.prior.canvas import Canvas, Job
from taming_cli.prior.layout import prefix
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.noise import cell, gumbel
from taming_cli.prior.windows import Run

NOISE_BLOCK = {"cpu": 2**18, "cuda": 2**23}
"""Numbers made at once, on other devices as many as on a CPU: many, since each call costs as much as a small network's
step; but on a CPU they stay in cache. A GPU has no such bound, and is slower to start operations: 2**23 of these
numbers are 64 MiB, and the noise of 32 steps for 16 windows of 16,384 codes."""


class Given(NamedTuple):
    """Codes that are known already: `codes` (n, h, w) or (1, h, w), to be kept where `keep` (h, w) is true."""

    codes: Tensor
    keep: Tensor


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
    attempts: Sequence[int] | None = None,
    kept: Kept | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw the samples numbered `samples`: codes (n, h, w), int64, on the prior's device. `size` is (h, w) in cells.

    `conditions` holds for each kind codes for each sample, (n, length) or (n, h, w) on the samples' grid; a kind left
    out, or `NOT_GIVEN`, is "none". `attempts`, one number for each sample and 0 by default, draws a sample anew with
    other noise. At most `batch_size` windows are computed at once (twice as many rows with guidance). What is `kept`
    from call to call saves the time that it takes to make. `on_progress(done, total)` counts cells. Raises UsageError
    where conditions, stride or guidance do not fit.
    """
    assert not gpt.training
    config = gpt.config
    canvas = Canvas.blank(
        config,
        size=size,
        samples=len(samples),
        conditions=conditions or {},
        stride=stride,
        device=gpt.head.weight.device,
    )
    if decoding.guidance != 1 and (not config.conditions or config.vocabulary == "shared"):
        raise UsageError(
            f"guidance is {decoding.guidance:g}, but this prior was not trained without its condition; use 1"
        )
    sampler = Sampler(gpt, canvas, samples=samples, attempts=attempts, seed=seed, decoding=decoding, given=given)
    waves = sampler.unknown_parts()
    total, done = len(samples) * sum(run.length for wave in waves for run in wave), 0
    widest = len(samples) * max((len(wave) for wave in waves), default=0)
    workspace = (kept or Kept()).get(gpt, decoding, max(1, min(batch_size, widest)))
    for wave in waves:
        for cells in sampler.fill(wave, workspace, batch_size):
            done += cells
            if on_progress is not None:
                on_progress(done, total)
    return canvas.by_cell(canvas.codes)


def noise_block(device: str, numbers: int) -> int:
    """Steps whose noise is made at once, where each takes so many numbers."""
    return max(1, NOISE_BLOCK.get(device, NOISE_BLOCK["cpu"]) // numbers)


class Sampler:
    """The canvas that is being filled, and all that filling it needs; arguments as of `generate`."""

    def __init__(
        self,
        gpt: GPT,
        canvas: Canvas,
        *,
        samples: Sequence[int],
        attempts: Sequence[int] | None,
        seed: int,
        decoding: DecodingConfig,
        given: Given | None,
    ) -> None:
        self.gpt, self.canvas, self.seed, self.decoding = gpt, canvas, seed, decoding
        device, planned = canvas.codes.device, canvas.plan
        self.numbers = torch.tensor(samples, dtype=torch.int64, device=device)
        self.attempts = torch.tensor(attempts or [0] * len(samples), dtype=torch.int64, device=device)
        self.keep = torch.zeros_like(canvas.codes[0], dtype=torch.bool)
        self.some_given = given is not None
        if given is not None:
            here = (slice(planned.height), slice(planned.width))
            self.keep[here] = canvas.by_place(given.keep[None].to(device))[0]
            canvas.codes[:, *here] = canvas.by_place(given.codes.to(device)) * self.keep[here]

    def unknown_parts(self) -> list[list[Run]]:
        """The plan's waves, each run from its first unknown cell to its last, and those with none left out."""
        waves = self.canvas.plan.waves
        if not self.some_given:
            return [list(wave) for wave in waves]
        unknown = (~self.keep).tolist()
        parts = [[self.canvas.plan.part(run, unknown) for run in wave] for wave in waves]
        return [[run for run in wave if run is not None] for wave in parts]

    def fill(self, wave: Sequence[Run], workspace: Workspace, batch_size: int) -> Iterator[int]:
        """Fill in a wave of all samples, so many windows at once; yields how many cells each step has filled."""
        jobs = [Job(run, sample) for run in wave for sample in range(len(self.numbers))]
        jobs.sort(key=lambda job: -job.run.length)  # those that end first are the last rows, which a step can leave out
        for start in range(0, len(jobs), batch_size):
            yield from self._run_together(jobs[start : start + batch_size], workspace)

    def _run_together(self, jobs: Sequence[Job], workspace: Workspace) -> Iterator[int]:
        """Fill in the cells of independent jobs, the longest first; yields how many cells each step has filled."""
        columns, codes = self.canvas.plan.padded_width, self.canvas.codes
        runs, sample = [job.run for job in jobs], self.canvas.samples(jobs)
        steps = runs[0].length
        cells = self.canvas.numbers(jobs, steps)
        rows, cols = cells // columns, cells % columns
        codebook_size, greedy = self.gpt.config.codebook_size, self.decoding.greedy
        block = noise_block(codes.device.type, len(jobs) * codebook_size)
        noise = torch.empty(0)
        for step in range(steps):
            active = sum(run.length > step for run in runs)
            here = (sample[:active], rows[:active, step], cols[:active, step])
            if step % block == 0 and not greedy:
                ahead = slice(step, step + block)
                at = self.canvas.raster(cells[:active, ahead])
                places = cell(at // columns, at % columns)
                number, attempt = (of[sample[:active], None] for of in (self.numbers, self.attempts))
                noise = gumbel(self.seed, number, places, codebook_size, attempt=attempt)  # (B, block, K)
            own = None if greedy else noise[:active, step % block]
            if step == 0:
                token = workspace.steps.choose(self._prefill(workspace, jobs), own)
            else:
                last = codes[sample[:active], rows[:active, step - 1], cols[:active, step - 1]]
                token = workspace.steps.next(last, own)
            if self.some_given:
                token = torch.where(self.keep[here[1:]], codes[here], token)
            codes[here] = token
            yield active

    def _prefill(self, workspace: Workspace, jobs: Sequence[Job]) -> Tensor:
        """Read each run's window up to its first cell: logits (B, K), of 2 B rows with guidance."""
        before, codes, known = self.canvas.view(jobs)
        codes = codes[:, : max(known)]
        if self.decoding.guidance != 1:
            without = prefix(self.gpt.config, {}, len(jobs), before.device)
            before = torch.stack((before, without), dim=1).flatten(0, 1)  # neighbours, so that finished rows stay last
            codes, known = codes.repeat_interleave(2, dim=0), [n for n in known for _ in range(2)]
        logits = self.gpt.prefill(workspace.cache, before, codes, known)
        workspace.steps.start()
        return logits
