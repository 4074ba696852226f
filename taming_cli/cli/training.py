"""What the two training commands share: taking up a run, what one would take, and the last word."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from taming_cli.cli.console import Output, figures
from taming_cli.config.resolve import Layer, flatten
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    import torch

    from taming_cli.runtime.cost import Estimate


class Start(NamedTuple):
    """The inputs, and the recorded settings of the run that goes on (None for a new one)."""

    inputs: list[Path]
    recorded: Mapping[str, Any] | None


def take_up(output: Output, command: str, place: Any, inputs: Sequence[Path] | None, usage: str) -> Start:
    """With `--resume`, what the run's config.json says, inputs included; else the inputs given. UsageError for none."""
    from taming_cli.runtime.rundir import find_run, read_settings

    if place.resume:
        folder = find_run(command, place)
        assert folder is not None
        settings = read_settings(folder)
        output.note(f"going on with {folder}")
        return Start(list(inputs or map(Path, settings["inputs"])), flatten(settings["config"]))
    if not inputs:
        raise UsageError(usage)
    return Start(list(inputs), None)


def architecture_of(init: str | None, group: str) -> Layer | None:
    """What the file named by `--init` says of the architecture; the training checks that it is of the right kind."""
    if init is None:
        return None
    from taming_cli.runtime.checkpoint import read_header

    return Layer(f"init {init}", read_header(Path(init)).config.get(group, {}))


def last_word(output: Output, trained: Any, **more: Any) -> None:
    """The best checkpoint's path, and how it does on what was held out."""
    output.result(
        f"{trained.best}\n{figures(trained.validation)}".strip(),
        {
            "run": str(trained.run),
            "best": str(trained.best),
            "last": str(trained.last),
            "step": trained.step,
            **trained.validation,
            **more,
        },
        short=str(trained.best),
    )


def say_estimate(
    output: Output,
    said: str,
    values: Mapping[str, Any],
    found: "Estimate",
    train: Any,
    device: "torch.device",
    dtype: "torch.dtype",
    nproc: int = 1,
) -> int:
    """What a training would take: `said` and `values` are of its inputs. Memory and operations are of one process that
    does it alone."""
    step = found.seconds(device, dtype)
    steps = train.steps or max(1, round(60 * train.minutes / step))
    hours = steps * step / 3600 if train.steps else train.minutes / 60
    lines = [
        said,
        f"{found.parameters:,} parameters; {found.memory / 2**30:.2f} GiB of memory at most, beside torch itself",
        f"{found.flops / 1e12:.3g} TFLOP a step, about {step:.2g} s here; {steps:,} steps take {hours:.2g} hours",
    ]
    if nproc > 1:
        lines.append(f"each of {nproc} processes exchanges {found.exchanged / 1e6:.3g} MB a step")
    more = {
        "exchanged_bytes_per_step": found.exchanged if nproc > 1 else 0,
        "parameters": found.parameters,
        "memory_bytes": found.memory,
        "flops_per_step": found.flops,
        "seconds_per_step": step,
        "steps": steps,
        "hours": hours,
    }
    output.result("\n".join(lines), {**values, **more}, short=f"{hours:.3g}")
    return 0
