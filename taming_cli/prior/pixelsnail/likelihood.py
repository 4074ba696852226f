"""The likelihood of codes under PixelSNAIL: one pass over the whole grid."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.prior.layout import check_conditions, check_range
from taming_cli.prior.networks.pixelsnail import PixelSNAIL


@torch.inference_mode()
def log_likelihood(
    network: PixelSNAIL,
    codes: Tensor,
    *,
    conditions: Mapping[str, Tensor] | None = None,
    batch_size: int = 16,
    cells: Tensor | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """log p(code | condition, all codes before it) of each cell, in nats: (n, h, w), float64, on the CPU.

    `codes` (n, h, w) int64, of the window's size; `cells` (h, w) bool selects the cells to compute; the others are 0.
    `on_progress(done, total)` counts cells. Raises UsageError if codes or conditions do not fit the prior.
    """
    assert not network.training
    device, (samples, height, width) = network.background.device, codes.shape
    check_range(codes, network.config.codebook_size, "code", remedy=": give tokens of its own codec")
    given = {kind: of.to(device) for kind, of in (conditions or {}).items()}
    check_conditions(network.config, given, samples, (height, width))
    cells = torch.ones(height, width, dtype=torch.bool) if cells is None else cells.cpu()
    count, found = int(cells.sum()), []
    for start in range(0, samples, batch_size):
        rows = slice(start, start + batch_size)
        part = codes[rows].to(device)
        logits = network.forward(part, {kind: of[rows] for kind, of in given.items()})
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nats = F.cross_entropy(logits.flatten(0, 1), part.flatten(), reduction="none").view(part.shape)
        found.append(-nats.cpu().double() * cells)
        if on_progress is not None:
            on_progress(min(start + batch_size, samples) * count, samples * count)
    return torch.cat(found)
