"""What a prior for any order knows about the conditions around a cell: a small convolutional network over the maps."""

import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.prior.networks.blocks import RMSNorm
from taming_cli.runtime.device import full_precision

KERNEL = 7
"""Rows and columns of the depthwise convolutions."""
LAYERS = 3
"""Convolutions, whose dilation doubles: a cell sees 3 + 6 + 12 cells in each direction."""


REACH = sum((KERNEL // 2) * 2**layer for layer in range(LAYERS))
"""Cells in each direction that a cell sees."""


class Mixer(nn.Module):
    """A depthwise convolution, then a feed-forward layer whose output is added to the input, as in ConvNeXt (Liu et al.
    2022) without its scale."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        padding = dilation * (KERNEL // 2)
        self.conv = nn.Conv2d(width, width, KERNEL, padding=padding, dilation=dilation, groups=width)
        self.norm = RMSNorm(width)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        with full_precision(x.device):  # a depthwise convolution in bf16 is several times slower on a CPU
            y = self.conv(x.to(self.conv.weight.dtype).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.down(F.silu(self.up(self.norm(y))))  # type: ignore[no-any-return]


class Surroundings(nn.Module):
    """Embeddings of the maps' codes -> embeddings that know the maps around each cell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Mixer(width, 2**layer) for layer in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        for layer in self.layers:
            x = layer(x)
        return x
