"""Draws the samples of a request: codes from the prior, pictures from the codec, in memory or chunk by chunk."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from taming_cli.codec.vqgan import with_top
from taming_cli.config.levels import SCALE, TOP_CONDITION
from taming_cli.prior.completion import complete
from taming_cli.prior.draw import draw as draw_from
from taming_cli.prior.estimate import SamplingCost
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.noise import ATTEMPTS
from taming_cli.prior.raster.speculation import Spent
from taming_cli.prior.raster.windows import widest_stride
from taming_cli.sampling.inpainting import restore_pixels
from taming_cli.sampling.model import OnProgress
from taming_cli.sampling.request import Request

CHUNK = 64
"""Largest number of samples drawn, decoded and written together: a kill loses at most this much work."""
_log = logging.getLogger(__name__)


class Samples(NamedTuple):
    """`images` uint8 (n, 3, H, W) in [0, 255] and `codes` int64 (n, h, w), both on the CPU; `classes`, a name or None
    for each. `exact` is false where memory was short and decoding used estimated statistics. `costs` are those of the
    prior for each picture, or None where the best of several candidates was kept."""

    images: Tensor
    codes: Tensor
    classes: tuple[str | None, ...]
    exact: bool = True
    costs: tuple[SamplingCost, ...] | None = None


class Chunk(NamedTuple):
    """Consecutive samples with these `numbers`, which begin at index `start` of the list; `drawn` holds the `missing`
    ones."""

    start: int
    numbers: Sequence[int]
    missing: Sequence[int]
    drawn: Samples | None


def draw(
    request: Request,
    numbers: Sequence[int],
    *,
    on_progress: OnProgress | None = None,
    on_decode: OnProgress | None = None,
) -> Samples:
    """Draw samples by their numbers, which must be in `request.numbers`.

    A picture depends only on the model, the settings, its map and its number, not on the samples drawn with it.
    `on_progress` receives (cells drawn, cells in total), then `on_decode` (cells decoded, cells in total). Raises
    UsageError for settings that do not fit the prior.
    """
    model, config = request.model, request.config
    codes, costs = draw_codes(request, numbers, on_progress=on_progress)
    rows, columns = request.frame.place
    images = model.decode(codes, config.batch_size, on_decode)[:, :, rows, columns].contiguous()
    if request.known is not None and config.keep == "pixels":
        images = restore_pixels(images, request.known)
    labels = tuple(request.label_of(number) for number in numbers)
    return Samples(images, codes.cpu(), labels, model.exact(request.grid), costs)


class DrawnCodes(NamedTuple):
    """`codes` int64 (n, h, w), on the model's device, and `costs` as in `Samples`."""

    codes: Tensor
    costs: tuple[SamplingCost, ...] | None


def draw_codes(request: Request, numbers: Sequence[int], *, on_progress: OnProgress | None = None) -> DrawnCodes:
    """The codes of samples; see `draw`."""
    model, config = request.model, request.config
    conditions = request.conditions(numbers)
    if model.above is not None:
        conditions[TOP_CONDITION] = _top_codes(request, numbers)
    settings: dict[str, Any] = {
        "samples": numbers,
        "seed": config.seed,
        "decoding": config,
        "conditions": conditions,
        "stride": request.stride,
        "steps": config.sample_steps,
        "batch_size": config.batch_size,
        "speculate": config.cells_ahead,
        "on_progress": on_progress,
    }
    costs: tuple[SamplingCost, ...] | None = (request.cost,) * len(numbers)
    known = None if request.known is None else request.known.cells
    if known is not None and config.candidates > 1:
        codes = complete(model.gpt, known, candidates=config.candidates, **settings).codes
        costs = costs if model.any_order else None
    else:
        size = (request.grid.height, request.grid.width)
        spent = Spent(len(numbers))
        codes = draw_from(model.gpt, size=size, known=known, buffers=model.buffers, spent=spent, **settings)
        if isinstance(model.gpt, GPT):
            costs = tuple(map(SamplingCost, spent.forwards, spent.tokens))
            if spent.guesses:
                _log.info("guessed codes: %d of %d right", spent.right, spent.guesses)
    return DrawnCodes(with_top(model.codec, codes, conditions), costs)


def _top_codes(request: Request, numbers: Sequence[int]) -> Tensor:
    """The top level's codes of samples, on the grid of the bottom level: int64 (n, h, w). Their noise is that of
    another attempt, so that it differs from the bottom level's at a cell of the same number."""
    model, config = request.model.above, request.config
    assert model is not None
    prior_config = model.gpt.config
    codes = draw_from(
        model.gpt,
        size=(request.grid.height // SCALE, request.grid.width // SCALE),
        samples=numbers,
        seed=config.seed,
        decoding=config if prior_config.conditions else replace(config, guidance=1.0),
        conditions={kind: of for kind, of in request.conditions(numbers).items() if kind == "class"},
        stride=widest_stride(prior_config.window.width),
        steps=config.sample_steps,
        attempts=[ATTEMPTS - 1] * len(numbers),
        buffers=model.buffers,
        batch_size=config.batch_size,
        speculate=config.cells_ahead,
    )
    return codes.repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)


def chunk_size(request: Request) -> int:
    """The number of samples in a chunk, as many as fit into memory, up to CHUNK."""
    return request.model.at_once(request.grid, CHUNK)


def draw_chunks(
    request: Request,
    numbers: Sequence[int],
    find_missing: Callable[[int, Sequence[int]], Sequence[int]],
    *,
    on_progress: OnProgress | None = None,
    on_decode: OnProgress | None = None,
) -> Iterator[Chunk]:
    """Draw samples chunk by chunk. `find_missing` receives the start and the numbers of a chunk, and returns the
    numbers to draw. `on_progress` counts the cells of all chunks."""
    cells, size = request.grid.width * request.grid.height, chunk_size(request)
    for start in range(0, len(numbers), size):
        chunk = numbers[start : start + size]
        missing = find_missing(start, chunk)

        def progress(done: int, total: int, start: int = start, count: int = len(missing)) -> None:
            if on_progress is not None:
                on_progress(start * cells + done * count * cells // max(1, total), len(numbers) * cells)

        drawn = draw(request, missing, on_progress=progress, on_decode=on_decode) if missing else None
        yield Chunk(start, chunk, missing, drawn)
