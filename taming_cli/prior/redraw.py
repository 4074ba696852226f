"""New codes for some cells of given pictures, drawn from a prior that knows their other codes. A decoder that is
trained on such codes learns to decode what the prior draws."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.prior.any_order.blue_noise import Ranks
from taming_cli.prior.model import Network, prior_from
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.predictions import TokenBatch
from taming_cli.prior.raster.order import in_order, on_grid
from taming_cli.runtime.checkpoint import ModelFile, load_model
from taming_cli.runtime.device import to_device

LOGITS = 2**24
"""Largest number of logits in memory at once."""


def load_redraw(file: Path, grid: Size) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`redraw` by the prior of a model file, for pictures of this `grid` of codes.

    Conditions are not given. BadFileError where the file is not a prior's; UsageError for a prior that needs its
    conditions, that draws one of two levels of codes, or whose window is not the grid, unless it is for any order.
    """
    model = load_model(file, "taming-prior")
    network = prior_from(model, str(file))
    _check(network, model, file, grid)
    return partial(redraw, network)


@torch.no_grad()
def redraw(network: Network, codes: Tensor, mask: Tensor, uniform: Tensor) -> Tensor:
    """Codes (B, h, w) int64, with those of the cells in `mask` (B, h, w) bool replaced by draws: (B, h, w).

    Teacher forcing: one forward gives the distribution of each cell given true codes alone. With a raster prior or a
    PixelSNAIL these are the codes before the cell; with a prior for any order, those of all cells that are not
    replaced. A draw is the first code whose cumulative probability exceeds the cell's noise, `uniform` (B, h, w) fp32
    in [0, 1). Temperature is 1, and nothing is filtered.

    The network, in eval mode, is moved to the device of the codes. Does not wait for the device.
    """
    assert not network.training
    config = network.to(codes.device).config
    cells, noise = (in_order(config, of) for of in (codes, uniform))
    groups = levels = None
    if isinstance(network, AnyOrder):
        groups = mask.long()
        levels = to_device(_levels(codes.shape[1], codes.shape[2]), codes.device).expand_as(groups)
    features = network.predictions(TokenBatch(cells, cells, {}, groups, levels)).features
    rows = max(1, LOGITS // config.codebook_size)
    parts = zip(torch.split(features, rows), torch.split(noise.flatten(), rows), strict=True)
    drawn = torch.cat([_draw(network.logits(x), u) for x, u in parts]).view_as(cells)
    drawn = drawn.view_as(codes) if config.order == "raster" else on_grid(config, drawn)
    return torch.where(mask, drawn, codes)


def _draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Logits (n, K) and noise (n,) -> codes (n,)."""
    cumulative = logits.float().softmax(-1).cumsum(-1)
    below = cumulative <= uniform[:, None] * cumulative[:, -1:]
    return below.sum(-1).clamp(max=logits.shape[-1] - 1)


@lru_cache(maxsize=4)  # the same for every batch
def _levels(height: int, width: int) -> Tensor:
    """The levels (1, h, w) of the cells, as in the plan of a completion."""
    return torch.from_numpy(Ranks(height, width).levels)[None]


def _check(network: Network, model: ModelFile, file: Path, grid: Size) -> None:
    config = network.config
    if config.level != "single":
        raise UsageError(f"{file} draws the {config.level} one of two levels of codes; give a prior of all codes")
    if config.conditions and (config.vocabulary == "shared" or model.about.get("condition_dropout") == 0):
        kinds = ", ".join(spec.kind for spec in config.conditions)
        raise UsageError(
            f"{file} needs its condition ({kinds}), which is not given here; give a prior without one, or one that was "
            "trained with --condition-dropout"
        )
    if not isinstance(network, AnyOrder) and config.window != grid:
        f = int(model.about.get("downsample_factor", 0))
        size = f"--size {config.window.times(f)}" if f else "a --size that gives it"
        raise UsageError(f"{file} has a window of {config.window} codes, the training pictures have {grid}; use {size}")
