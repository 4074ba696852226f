"""The likelihood of codes under a prior of any kind: one call for evaluation and for comparisons."""

from collections.abc import Callable, Mapping
from functools import lru_cache

from torch import Tensor

from taming_cli.errors import UsageError
from taming_cli.prior.any_order import likelihood as any_order
from taming_cli.prior.any_order.plan import FEWEST_STEPS, GroupPlan, group_plan, raster_plan
from taming_cli.prior.model import Network
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.pixelsnail import PixelSNAIL
from taming_cli.prior.pixelsnail import likelihood as pixelsnail
from taming_cli.prior.raster import likelihood as raster


def log_likelihood(
    network: Network,
    codes: Tensor,
    *,
    conditions: Mapping[str, Tensor] | None = None,
    stride: int = 1,
    order: str = "plan",
    steps: int = 0,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """log p of each cell of codes (n, h, w), in nats: (n, h, w), float64, on the CPU.

    A raster prior reads through windows that move by `stride` columns. A prior for any order reads one cell at a time
    in the `order` of sampling ("plan") or in "raster" order, or with `steps` in the groups of so many steps. The
    arguments are those of `log_likelihood` of each kind. UsageError if they do not fit the prior.
    """
    if isinstance(network, AnyOrder):
        if order == "raster" and steps:
            raise UsageError("--order raster reads one cell at a time; leave --sample-steps out")
        plan = _plan(codes.shape[1], codes.shape[2], order, steps)
        return any_order.log_likelihood(
            network, codes, plan, conditions=conditions, batch_size=batch_size, on_progress=on_progress
        )
    if steps or order != "plan":
        raise UsageError("--order and --sample-steps are for priors for any order; this one reads in raster order")
    if isinstance(network, PixelSNAIL):
        if stride > 1:
            raise UsageError(f"--stride is {stride}, but a PixelSNAIL reads without windows; leave it out")
        return pixelsnail.log_likelihood(
            network, codes, conditions=conditions, batch_size=batch_size, on_progress=on_progress
        )
    return raster.log_likelihood(
        network, codes, conditions=conditions, stride=stride, batch_size=batch_size, on_progress=on_progress
    )


@lru_cache(maxsize=4)  # the same for every batch
def _plan(height: int, width: int, order: str, steps: int) -> GroupPlan:
    if order == "raster":
        return raster_plan(height, width)
    return group_plan(height, width, steps or max(FEWEST_STEPS, height * width))
