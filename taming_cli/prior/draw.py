"""Drawing codes from a prior of any kind: one call for sampling, completion and the samples of a training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from taming_cli.config.sampling import DecodingConfig
from taming_cli.prior.any_order import generate as any_order
from taming_cli.prior.layout import KnownCells
from taming_cli.prior.model import Network
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.pixelsnail import PixelSNAIL
from taming_cli.prior.pixelsnail import generate as pixelsnail
from taming_cli.prior.raster import generate as raster
from taming_cli.prior.raster.buffers import BufferCache
from taming_cli.prior.raster.speculation import Spent


def draw(
    network: Network,
    *,
    size: tuple[int, int],
    samples: Sequence[int],
    seed: int,
    decoding: DecodingConfig,
    conditions: Mapping[str, Tensor] | None = None,
    stride: int = 1,
    steps: int = 32,
    batch_size: int = 16,
    known: KnownCells | None = None,
    attempts: Sequence[int] | None = None,
    buffers: BufferCache | None = None,
    speculate: int = 1,
    spent: Spent | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw the samples numbered `samples`: codes (n, h, w), int64, on the prior's device.

    A raster prior draws through windows that move by `stride` columns, reuses `buffers`, takes `speculate` and counts
    in `spent`; a prior for any order draws in `steps` forwards, a PixelSNAIL cell by cell. The arguments are those of
    `generate` of each kind. UsageError if they do not fit the prior.
    """
    settings: dict[str, Any] = {
        "size": size,
        "samples": samples,
        "seed": seed,
        "decoding": decoding,
        "conditions": conditions,
        "batch_size": batch_size,
        "known": known,
        "attempts": attempts,
        "on_progress": on_progress,
    }
    if isinstance(network, AnyOrder):
        return any_order.generate(network, steps=steps, **settings)
    if isinstance(network, PixelSNAIL):
        return pixelsnail.generate(network, **settings)
    return raster.generate(network, stride=stride, buffers=buffers, speculate=speculate, spent=spent, **settings)
