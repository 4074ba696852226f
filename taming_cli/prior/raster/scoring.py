"""The cells of a completed picture that tell its candidates apart."""

import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.config.prior import PriorConfig
from taming_cli.prior.raster.code_grid import plan_for
from taming_cli.prior.raster.order import in_order, on_grid


def scoring_cells(config: PriorConfig, mask: Tensor, stride: int = 1) -> Tensor:
    """The cells whose likelihood distinguishes candidates: known cells, true in `mask` (h, w), whose window has an
    unknown cell before them. (h, w) bool, on the CPU. Raises UsageError for a stride or size that the prior refuses."""
    height, width = mask.shape
    planned = plan_for(config, (height, width), stride)
    known = in_order(config, mask[None].cpu()).view(height, width)
    sums = F.pad((~known).long().cumsum(0).cumsum(1), (1, 0, 1, 0)).tolist()  # of all above and to the left of (i, j)
    scoring = known.tolist()

    def unknown(top: int, bottom: int, left: int, right: int) -> int:
        """Unknown cells in rows top to bottom - 1 and columns left to right - 1."""
        return int(sums[bottom][right] - sums[top][right] - sums[bottom][left] + sums[top][left])

    for span in (span for wave in planned.waves for span in wave):
        right = min(span.left + planned.window_width, width)
        for i, j in planned.cells(span):
            if j < width and scoring[i][j]:
                scoring[i][j] = unknown(span.top, i, span.left, right) + unknown(i, i + 1, span.left, j) > 0
    result = torch.tensor(scoring)
    return result if config.order == "raster" else on_grid(config, result.view(1, -1))[0]
