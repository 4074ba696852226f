"""What the two training commands share: taking up a run, what one would take, and the last word."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from taming_cli.cli.console import Output, figure
from taming_cli.config.resolve import Layer, flatten
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.cli.bar import Bar
    from taming_cli.runtime.pacing import OnStep, Progress

_SPOKEN = {
    "nats_per_token": "{} nats/token",
    "val_nats_per_token": "{} nats/token",
    "psnr": "PSNR {} dB",
    "accuracy": "{} right",
    "l1": "L1 {}",
    "cross_entropy": "{} nats/pixel",
    "codes_used": "codes {}",
    "codebook_perplexity": "perplexity {}",
    "perceptual": "perceptual {}",
    "texture": "texture {}",
    "discriminator": "discriminator {}",
}
"""How figures of a training are said, the most important first; the others stand in the log."""
_SHARES = ("accuracy", "codes_used")


class Start(NamedTuple):
    """The inputs, and the recorded settings of the run that goes on (None for a new one)."""

    inputs: list[Path]
    recorded: Mapping[str, Any] | None


def take_up(output: Output, command: str, place: Any, inputs: Sequence[Path] | None, usage: str) -> Start:
    """With `--resume`, what the run's config.json says, inputs included; else the inputs given. UsageError for none."""
    from taming_cli.runtime.run.folder import find_run, read_settings
    from taming_cli.runtime.run.lists import check_lists, inputs_of
    from taming_cli.runtime.run.resume import refuse_lost

    if place.resume:
        folder = find_run(command, place)
        assert folder is not None
        refuse_lost(folder)
        settings = read_settings(folder)
        gone = [path for path in settings["inputs"] if Path(path).is_absolute() and not Path(path).exists()]
        if gone and not inputs:
            raise UsageError(
                f"{folder} was made from {gone[0]}, which is not there; name where that is now, before --resume"
            )
        if not inputs:
            check_lists(folder, settings["inputs"])
        output.note(f"going on with {folder}")
        return Start(list(inputs or inputs_of(folder, settings["inputs"])), flatten(settings["config"]))
    if not inputs:
        raise UsageError(usage)
    return Start(list(inputs), None)


def architecture_of(init: str | None, group: str) -> Layer | None:
    """What the file named by `--init` says of the architecture; the training checks that it is of the right kind."""
    if init is None:
        return None
    from taming_cli.runtime.checkpoint import read_header
    from taming_cli.runtime.model_files import named

    return Layer(f"init {init}", read_header(named(Path(init))).config.get(group, {}))


def words(values: Mapping[str, float]) -> list[str]:
    """Figures of a training, as a person reads them on the way."""
    return [
        said.format(f"{100 * values[name]:.0f}%" if name in _SHARES else figure(values[name]))
        for name, said in _SPOKEN.items()
        if name in values
    ]


def teller(bar: "Bar") -> "OnStep":
    """What a training calls: it moves the bar at each step, and leaves a line for each validation."""
    known: list[str] = []

    def on_step(progress: "Progress") -> None:
        if progress.validation:
            bar.line(f"step {progress.step}: held-out", *words(progress.values))
            return
        if progress.values:
            said = words(progress.values)
            known[:] = [*said[:2], f"{figure(progress.images_per_second)} images/s", *said[2:]]
        bar.update(progress.spent, f"step {progress.step}", *known)

    return on_step


def last_word(output: Output, trained: Any, **more: Any) -> None:
    """The best checkpoint's path, and how it and the last one do on what was held out, each with its step."""
    best = {"step": trained.best_step, **trained.best_validation}
    last = {"step": trained.step, **trained.validation}
    models = {"best": best, "last": last} if best["step"] != last["step"] else {"best and last": last}
    lines = [f"{name}, step {each['step']}: {'  '.join(words(each))}" for name, each in models.items() if words(each)]
    output.result(
        "\n".join([str(trained.best), *lines]),
        {
            "run": str(trained.run),
            "best": str(trained.best),
            "last": str(trained.last),
            "step": trained.step,
            **trained.best_validation,
            "best_step": trained.best_step,
            "best_figures": dict(trained.best_validation),
            "last_figures": dict(trained.validation),
            **more,
        },
        short=str(trained.best),
    )
