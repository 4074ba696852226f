"""Drawing codes from a prior of any kind: one call for sampling, completion and the samples of a training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from taming_cli.config.sampling import DecodingConfig
from taming_cli.prior.any_order import completion
from taming_cli.prior.any_order import generate as any_order
from taming_cli.prior.layout import KnownCells
from taming_cli.prior.model import Network
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.pixelsnail import PixelSNAIL
from taming_cli.prior.pixelsnail import generate as pixelsnail
from taming_cli.prior.raster import candidates as raster_candidates
from taming_cli.prior.raster import generate as raster
from taming_cli.prior.raster.buffers import BufferCache


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
    candidates: int = 1,
    attempts: Sequence[int] | None = None,
    buffers: BufferCache | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw the samples numbered `samples`: codes (n, h, w), int64, on the prior's device.

    A raster prior draws through windows that move by `stride` columns, a prior for any order in `steps` forwards, a
    PixelSNAIL cell by cell. Of `candidates` completions of `known` cells, the one that fits best is kept. The arguments
    are those of `generate` and `complete` of each kind.
    """
    settings: dict[str, Any] = {
        "samples": samples,
        "seed": seed,
        "decoding": decoding,
        "conditions": conditions,
        "batch_size": batch_size,
        "on_progress": on_progress,
    }
    ranked = known if candidates > 1 else None
    if ranked is None:
        settings["attempts"] = attempts
    if isinstance(network, AnyOrder):
        if ranked is not None:
            return completion.complete(network, ranked, candidates=candidates, steps=steps, **settings).codes
        return any_order.generate(network, size=size, steps=steps, known=known, **settings)
    if isinstance(network, PixelSNAIL):
        if ranked is not None:
            return pixelsnail.complete(network, ranked, candidates=candidates, **settings).codes
        return pixelsnail.generate(network, size=size, known=known, **settings)
    if ranked is not None:
        return raster_candidates.complete(network, ranked, candidates=candidates, stride=stride, **settings).codes
    return raster.generate(network, size=size, stride=stride, known=known, buffers=buffers, **settings)
