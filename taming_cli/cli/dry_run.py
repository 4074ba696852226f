"""`--dry-run`: print what a command would do, instead of doing it."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from taming_cli.cli.console import Output
from taming_cli.cli.processes import part_text
from taming_cli.config.devices import REACHED, device_named
from taming_cli.config.shard import Shard
from taming_cli.config.size import Size

if TYPE_CHECKING:
    import torch

    from taming_cli.codec.reconstruct import Written
    from taming_cli.codec.tokenize import Prepared
    from taming_cli.data.sources import Listing
    from taming_cli.runtime.cost import Estimate
    from taming_cli.sampling.request import Request


class Where(NamedTuple):
    """A device on which a training is estimated, and the precision of its networks. `name` is that of a device of
    published rates, for which `device` is not used."""

    device: "torch.device"
    dtype: "torch.dtype"
    name: str | None = None

    @property
    def precision(self) -> Literal["bf16", "fp32"]:
        """The precision's name among published rates."""
        return "fp32" if str(self.dtype) == "torch.float32" else "bf16"


def where(name: str | None, device: str, precision: str) -> Where:
    """The device of `--device-name`, or else of `--device`. UsageError for an unknown one."""
    import torch

    from taming_cli.runtime.device import pick_device, pick_precision

    if name is None:
        here = pick_device(device)
        return Where(here, pick_precision(precision, here))
    device_named(name)
    return Where(torch.device("cpu"), torch.float32 if precision == "fp32" else torch.bfloat16, name)


def print_estimate(
    output: Output, inputs: str, values: Mapping[str, Any], cost: "Estimate", train: Any, at: Where, nproc: int = 1
) -> int:
    """Print the cost of a training; `inputs` and `values` describe its inputs. Memory and operations are those of a
    single process that trains alone."""
    step = cost.seconds(at.device, at.dtype) if at.name is None else _seconds_on(cost, at)
    steps = train.steps or max(1, round(60 * train.minutes / step))
    hours = steps * step / 3600 if train.steps else train.minutes / 60
    place = "here" if at.name is None else f"on {at.name}"
    lines = [
        inputs,
        f"{cost.parameters:,} parameters; {cost.memory / 2**30:.2f} GiB of memory at most, besides torch itself",
        f"{cost.flops / 1e12:.3g} TFLOP per step, about {step:.2g} s {place}; {steps:,} steps take {hours:.2g} hours",
    ]
    if at.name is not None:
        lines.append(_published(at, cost.memory))
    if nproc > 1:
        lines.append(f"each of {nproc} processes exchanges {cost.exchanged / 1e6:.3g} MB per step")
    more = {
        "exchanged_bytes_per_step": cost.exchanged if nproc > 1 else 0,
        "parameters": cost.parameters,
        "memory_bytes": cost.memory,
        "flops_per_step": cost.flops,
        "seconds_per_step": step,
        "device_name": at.name,
        "steps": steps,
        "hours": hours,
    }
    output.result(lines, {**values, **more}, short=f"{hours:.3g}")
    return 0


def _seconds_on(cost: "Estimate", at: Where) -> float:
    """The duration of a step on a device of published rates."""
    rates = device_named(str(at.name))
    return cost.seconds_at(REACHED * getattr(rates, at.precision), rates.read)


def _published(at: Where, memory: int) -> str:
    """What an estimate for a device that is not here is based on, and whether its memory is enough."""
    rates = device_named(str(at.name))
    text = (
        f"an estimate for one {at.name}, not a measurement: from its published rates, "
        f"{getattr(rates, at.precision) / 1e12:.3g} TFLOP/s in {at.precision}, of which {REACHED:.0%}, and "
        f"{rates.read / 1e12:.3g} TB/s"
    )
    if memory > rates.memory:
        text += (
            f"; its {rates.memory / 2**30:.0f} GiB of memory are too small: use a smaller --batch-size, or --accumulate"
        )
    return text


def would_tokenize(output: Output, listing: "Listing", part: Shard, prepared: "Prepared") -> int:
    """Print the token file that `tokenize` would write."""
    job, header = prepared.job, prepared.job.header
    pictures = len(part.stretch(len(listing.items)))
    grid, kinds = Size(header.width, header.height), list(header.conditions)
    cells = pictures * header.views * header.height * header.width
    codes = cells * (1 + len(kinds)) + (cells // 4 if header.top_codebook_size else 0)
    size = codes * (2 if header.codebook_size <= 2**16 else 4)
    values = {
        "path": str(job.path),
        "count": pictures,
        "size": str(prepared.size),
        "views": header.views,
        "grid": str(grid),
        "codebook_size": header.codebook_size,
        "conditions": kinds,
        "bytes": size,
        "done": job.done,
    }
    views = f" in {header.views} views" if header.views > 1 else ""
    text = f"{pictures} pictures of {prepared.size}{views} would become {grid} codes of {header.codebook_size} each"
    if header.top_codebook_size:
        text += f", and {Size(header.width // 2, header.height // 2)} above them"
    conditions = f", with codes of {', '.join(kinds)}" if kinds else ""
    state = "exists already, with these settings" if job.done else f"at most {size / 1e6:.3g} MB"
    output.result([f"{text}{conditions}", f"{job.path}: {state}"], values, short=str(pictures))
    return 0


def would_write(output: Output, written: "Written", part: Shard) -> int:
    """Print how many pictures `reconstruct` or `decode` would write."""
    output.result(
        f"{written.folder}: {written.count} pictures would be written{part_text(part)}",
        {"path": str(written.folder), "count": written.count},
        short=str(written.count),
    )
    return 0


def would_sample(output: Output, request: "Request") -> int:
    """Print what `sample` would draw, and its cost."""
    settings, prior, folder = request.config, request.model.gpt.config, request.folder
    pictures = len(request.samples[request.shard.places])
    drawn = math.ceil(pictures / settings.accept_rate) * settings.candidates
    grid, size, stride = request.grid, request.frame.size, request.stride
    cost = request.cost
    how: dict[str, Any] = {"window": str(prior.window), "stride": stride}
    parts, at_once = f"windows of {prior.window}, stride {stride}", "windows"
    if "stride" not in request.model.own_settings:
        how = {"sample_steps": cost.forwards} if request.model.any_order else {}
        parts, at_once = f"in {cost.forwards} groups" if how else "cell by cell", "pictures"
    values = {
        "count": pictures,
        "drawn": drawn,
        "size": str(size),
        "grid": str(grid),
        **how,
        "forwards": cost.forwards,
        "tokens": cost.tokens * drawn,
        "path": None if folder is None else str(folder),
    }
    more = f", of {drawn} drawn" if drawn > pictures else ""
    guesses = "stride" in how and settings.cells_ahead != 1
    most, least = ("at most ", "at least ") if guesses else ("", "")
    lines = [
        f"{pictures} pictures of {size}{more}: {grid} codes each, {parts}",
        f"{most}{cost.forwards:,} forward passes one after the other for {settings.batch_size} {at_once} at once, "
        f"{least}{cost.tokens * drawn:,} tokens through the network; into {folder or 'the next folder of runs/sample'}",
    ]
    output.result(lines, values, short=str(pictures))
    return 0
