"""Sampling: one cell after the other, each from what the cells before it left in the network's layers.

The codes depend on the prior, the conditions, the seed, each sample's number and the decoding settings alone: not on
the batch size, nor on which other samples are drawn.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from taming_cli.config.prior import PriorConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.errors import UsageError
from taming_cli.prior.decoding import choose_guided
from taming_cli.prior.layout import KnownCells, check_conditions, check_guidance
from taming_cli.prior.networks.pixelsnail import CellSteps, PixelSNAIL
from taming_cli.prior.noise import cell, gumbel


def check_size(config: PriorConfig, size: tuple[int, int]) -> None:
    """UsageError for a grid of another size (rows, columns) than that of the window."""
    if size != (config.window.height, config.window.width):
        raise UsageError(
            f"this prior is a PixelSNAIL, whose pictures are always {config.window} cells, not {size[1]}x{size[0]}; "
            "leave --size out"
        )


@torch.inference_mode()
def generate(
    network: PixelSNAIL,
    *,
    size: tuple[int, int],
    samples: Sequence[int],
    seed: int,
    decoding: DecodingConfig,
    conditions: Mapping[str, Tensor] | None = None,
    batch_size: int = 16,
    known: KnownCells | None = None,
    attempts: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw the samples numbered `samples`: codes (n, h, w), int64, on the prior's device.

    `batch_size` is the largest number of pictures computed at once. The other arguments are those of the raster prior's
    `generate`. Raises UsageError for another size than the window's, and if conditions or guidance do not fit.
    """
    assert not network.training
    check_size(network.config, size)
    device = network.background.device
    given = {kind: codes.to(device) for kind, codes in (conditions or {}).items()}
    check_conditions(network.config, given, len(samples), size)
    check_guidance(network.config, decoding)
    unknown = torch.ones(size, dtype=torch.bool) if known is None else ~known.mask.cpu()
    places = unknown.flatten().nonzero()[:, 0].tolist()
    last = max(places, default=-1)
    codes = torch.zeros(len(samples), *size, dtype=torch.int64, device=device)
    if known is not None:
        codes += known.codes.to(device) * known.mask.to(device)
    numbers, tries = (
        torch.tensor(of, dtype=torch.int64, device=device) for of in (samples, attempts or [0] * len(samples))
    )
    drawn, done, total = set(places), 0, len(samples) * len(places)
    for start in range(0, len(samples), batch_size):
        rows = slice(start, start + batch_size)
        steps = _steps(network, {kind: of[rows] for kind, of in given.items()}, len(codes[rows]), decoding)
        for number in range(last + 1):
            row, column = divmod(number, size[1])
            logits = network.step(steps)
            if number in drawn:
                noise = None
                if not decoding.greedy:
                    place = cell(*(torch.tensor(of, device=device) for of in (row, column)))
                    noise = gumbel(seed, numbers[rows], place, logits.shape[-1], attempt=tries[rows])
                codes[rows, row, column] = choose_guided(logits, noise, decoding.at(0), guided=decoding.guided)
                done += len(codes[rows])
                if on_progress is not None:
                    on_progress(done, total)
            now = codes[rows, row, column]
            steps.codes[:, row, column] = now.repeat(2) if decoding.guided else now
    return codes


def _steps(network: PixelSNAIL, given: Mapping[str, Tensor], batch: int, decoding: DecodingConfig) -> CellSteps:
    """The state before the first cell; with guidance of twice as many rows, of which the second half has no
    condition."""
    context = network.context(given, batch)
    if decoding.guided and context is not None:
        none = network.context({}, batch)
        assert none is not None
        context, batch = torch.cat((context, none)), 2 * batch
    return CellSteps(network, batch, context)
