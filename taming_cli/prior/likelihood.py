"""How likely codes are under a prior: the windows of the sampling plan, read once, all their codes in place."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.errors import UsageError
from taming_cli.prior.canvas import Canvas, Job, repeat_edge
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.windows import Plan, Run


@torch.inference_mode()
def log_likelihood(
    gpt: GPT,
    codes: Tensor,
    *,
    conditions: Mapping[str, Tensor] | None = None,
    stride: int = 1,
    batch_size: int = 16,
    cells: Tensor | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """log p(code | condition, the codes before it in its window) of each cell, in nats: (n, h, w), float64, on the CPU.

    `codes` (n, h, w) int64; `conditions`, `stride` and `batch_size` as in `generate`: the window of each cell is that
    of the sampling plan, so stride 1 is the published rule, and the sum over a sample's cells is its log-likelihood
    under the procedure that draws it, at temperature 1 and without filters or guidance. What a window shows to the
    right of a latent that is narrower than the window, which sampling draws and crops, is here the row's last code
    repeated.

    `cells` (h, w) bool: only these are computed, the others are 0. `on_progress(done, total)` counts cells. Raises
    UsageError where codes, conditions or stride do not fit the prior.
    """
    assert not gpt.training
    device, (samples, height, width) = gpt.head.weight.device, codes.shape
    _check_codes(codes, gpt.config.codebook_size)
    canvas = Canvas.blank(
        gpt.config, size=(height, width), samples=samples, conditions=conditions or {}, stride=stride, device=device
    )
    canvas.codes.copy_(repeat_edge(canvas.by_place(codes.to(device)), canvas.plan))
    found = torch.zeros_like(canvas.codes, dtype=torch.promote_types(gpt.head.weight.dtype, torch.float32))
    cells = torch.ones(height, width, dtype=torch.bool) if cells is None else cells.cpu()
    beside = canvas.plan.padded_width - width
    wanted = F.pad(canvas.by_place(cells[None])[0], (0, beside), value=False).tolist()
    runs = _runs(canvas.plan, wanted)
    jobs = [Job(run, sample) for run in runs for sample in range(samples)]
    counts = {run: sum(wanted[i][j] for i, j in canvas.plan.cells(run)) for run in runs}
    done, total = 0, samples * sum(counts.values())
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        _fill(found, gpt, canvas, batch)
        done += sum(counts[job.run] for job in batch)
        if on_progress is not None:
            on_progress(done, total)
    return canvas.by_cell(found).cpu().double() * cells


def _check_codes(codes: Tensor, codebook_size: int) -> None:
    if codes.numel():
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= codebook_size:
            wrong = low if low < 0 else high
            raise UsageError(
                f"code {wrong} is not among this prior's {codebook_size}, counted from 0; give tokens of its own codec"
            )


def _runs(planned: Plan, wanted: Sequence[Sequence[bool]]) -> list[Run]:
    """Each run of the plan from its first wanted cell to its last. None needs what another finds, so those that read
    equally much, and predict equally many, come together: in a batch of them, little is computed in vain."""
    parts = [planned.part(run, wanted) for wave in planned.waves for run in wave]
    runs = [run for run in parts if run is not None]
    return sorted(runs, key=lambda run: (planned.known(run) + run.length, run.length), reverse=True)


def _fill(found: Tensor, gpt: GPT, canvas: Canvas, jobs: list[Job]) -> None:
    """Write the log-probabilities of the jobs' cells into `found`, which is shaped as the canvas is."""
    device, lengths = found.device, [job.run.length for job in jobs]
    before, codes, known = canvas.view(jobs)
    end, longest = max(k + n for k, n in zip(known, lengths, strict=True)), max(lengths)
    at = torch.tensor(known, device=device)[:, None] + torch.arange(longest, device=device)  # (B, longest)
    at = at.clamp(max=end - 1)
    logits = gpt.logits_at(before, codes[:, :end], at).to(found.dtype)  # (B, longest, K)
    nats = F.cross_entropy(logits.flatten(0, 1), codes.gather(1, at).flatten(), reduction="none").view(at.shape)
    own = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]  # the longer runs' rest
    sample = canvas.samples(jobs)[:, None].expand_as(at)
    found.flatten(1)[sample[own], canvas.numbers(jobs, longest)[own]] = -nats[own]
