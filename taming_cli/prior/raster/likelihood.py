"""The likelihood of codes under a prior: each window of the sampling plan is read once, with all of its codes."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.prior.layout import check_range
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.raster.code_grid import BatchRow, CodeGrid, repeat_edge
from taming_cli.prior.raster.windows import Span, WindowPlan


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

    `codes` (n, h, w) int64; `conditions`, `stride` and `batch_size` as in `generate`. The window of each cell is that
    of the sampling plan, so stride 1 is the published rule, and the sum over a sample's cells is its log-likelihood
    under the procedure that draws it, at temperature 1 and without filters or guidance. Where a latent is narrower than
    the window, the columns beyond it, which sampling draws and crops, repeat the last code of the row.

    `cells` (h, w) bool selects the cells to compute; the others are 0. `on_progress(done, total)` counts cells. Raises
    UsageError if codes, conditions or stride do not fit the prior.
    """
    assert not gpt.training
    device, (samples, height, width) = gpt.head.weight.device, codes.shape
    check_range(codes, gpt.config.codebook_size, "code", remedy=": give tokens of its own codec")
    grid = CodeGrid.blank(
        gpt.config, size=(height, width), samples=samples, conditions=conditions or {}, stride=stride, device=device
    )
    grid.codes.copy_(repeat_edge(grid.by_place(codes.to(device)), grid.plan))
    nats = torch.zeros_like(grid.codes, dtype=torch.promote_types(gpt.head.weight.dtype, torch.float32))
    cells = torch.ones(height, width, dtype=torch.bool) if cells is None else cells.cpu()
    beyond = grid.plan.padded_width - width
    wanted = F.pad(grid.by_place(cells[None])[0], (0, beyond), value=False).tolist()
    spans = _wanted_spans(grid.plan, wanted)
    rows = [BatchRow(span, sample) for span in spans for sample in range(samples)]
    counts = {span: sum(wanted[i][j] for i, j in grid.plan.cells(span)) for span in spans}
    done, total = 0, samples * sum(counts.values())
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        _evaluate(nats, gpt, grid, batch)
        done += sum(counts[row.span] for row in batch)
        if on_progress is not None:
            on_progress(done, total)
    return grid.by_cell(nats).cpu().double() * cells


def _wanted_spans(planned: WindowPlan, wanted: Sequence[Sequence[bool]]) -> list[Span]:
    """Each span of the plan, cut to its wanted cells. All are independent here, so they are sorted by the number of
    tokens that they read and predict: batches then contain little padding."""
    parts = [planned.part(span, wanted) for wave in planned.waves for span in wave]
    spans = [span for span in parts if span is not None]
    return sorted(spans, key=lambda span: (planned.known(span) + span.length, span.length), reverse=True)


def _evaluate(nats: Tensor, gpt: GPT, grid: CodeGrid, batch: list[BatchRow]) -> None:
    """Write the log-probabilities of the cells of a batch into `nats`, which has the grid's shape."""
    device, lengths = nats.device, [row.span.length for row in batch]
    before, codes, known = grid.inputs(batch)
    end, longest = max(k + n for k, n in zip(known, lengths, strict=True)), max(lengths)
    at = torch.tensor(known, device=device)[:, None] + torch.arange(longest, device=device)  # (B, longest)
    at = at.clamp(max=end - 1)
    logits = gpt.logits_at(before, codes[:, :end], at).to(nats.dtype)  # (B, longest, K)
    loss = F.cross_entropy(logits.flatten(0, 1), codes.gather(1, at).flatten(), reduction="none").view(at.shape)
    valid = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]  # without the padding
    sample = grid.samples(batch)[:, None].expand_as(at)
    nats.flatten(1)[sample[valid], grid.numbers(batch, longest)[valid]] = -loss[valid]
