"""The common part of the two training commands: starting or resuming a run, its progress, its result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from taming_cli.cli import options as o
from taming_cli.cli.console import Output
from taming_cli.cli.formatting import figure
from taming_cli.config.codec import CodecConfig
from taming_cli.config.fields import from_dict, to_dict
from taming_cli.config.prior import recorded_prior
from taming_cli.config.resolve import Layer, flatten
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.cli.progress import Bar
    from taming_cli.runtime.pacing import OnStep, Progress, Trained
    from taming_cli.runtime.run.folder import Place

_PRINTED = {
    "nats_per_token": "{} nats/token",
    "val_nats_per_token": "{} nats/token",
    "train_nats_per_token": "{} on training pictures",
    "psnr": "PSNR {} dB",
    "perturbed_psnr": "{} dB from perturbed codes",
    "accuracy": "{} correct",
    "l1": "L1 {}",
    "cross_entropy": "{} nats/pixel",
    "codes_used": "codes {}",
    "codebook_perplexity": "perplexity {}",
    "top_codes_used": "top codes {}",
    "top_codebook_perplexity": "top perplexity {}",
    "perceptual": "perceptual {}",
    "texture": "texture {}",
    "discriminator": "discriminator {}",
}
"""How the figures of a training are printed, the most important first. The log has all of them."""
_SHARES = ("accuracy", "codes_used", "top_codes_used")


@dataclass
class Training:
    """The options of both training commands."""

    output: Output
    out: Annotated[Path | None, o.written_to("Run folder. Default: the next number under runs/.")] = None
    name: o.Name = None
    resume: o.Resume = False
    nproc: o.Nproc = 1
    dry_run: o.DryRun = False
    device_name: o.DeviceName = None

    @property
    def place(self) -> "Place":
        """Where the run goes."""
        from taming_cli.runtime.run.folder import Place

        return Place(out=self.out, name=self.name, resume=self.resume)

    def start(self, command: str, inputs: Sequence[Path] | None, usage: str) -> "Start":
        """With `--resume`, the inputs and settings in the run's config.json, else the given inputs. From this call on,
        only the first of several processes prints. UsageError, with the text `usage`, for no inputs."""
        from taming_cli.runtime.processes import started
        from taming_cli.runtime.run.folder import RESUMED, find_run, read_settings
        from taming_cli.runtime.run.lists import check_lists, inputs_of
        from taming_cli.runtime.run.resume import refuse_lost

        if not started().first:
            self.output.mute()
        if self.device_name is not None and not self.dry_run:
            raise UsageError("--device-name only estimates a training on that device; add --dry-run")
        if not self.resume:
            if not inputs:
                raise UsageError(usage)
            return Start(list(inputs), None)
        folder = find_run(command, self.place)
        assert folder is not None
        refuse_lost(folder)
        settings = read_settings(folder)
        gone = [path for path in settings["inputs"] if Path(path).is_absolute() and not Path(path).exists()]
        if gone and not inputs:
            raise UsageError(
                f"{folder} was trained on {gone[0]}, which does not exist; give its new path, before --resume"
            )
        if not inputs:
            check_lists(folder, settings["inputs"])
        self.output.note(f"resuming {folder}")
        recorded = Layer(RESUMED, flatten(settings["config"]), str(folder / "config.json"))
        return Start(list(inputs or inputs_of(folder, settings["inputs"])), recorded)


class Start(NamedTuple):
    """The inputs, and the recorded settings of the resumed run (None for a new one)."""

    inputs: list[Path]
    recorded: Layer | None


def architecture_of(init: str | None, group: str) -> Layer | None:
    """The whole architecture in the file of `--init`, so that no preset sets what an older file does not record. The
    training checks that it is of the right kind."""
    if init is None:
        return None
    from taming_cli.runtime.checkpoint import read_header
    from taming_cli.runtime.model_files import named

    values = read_header(named(Path(init))).config.get(group)
    if not values:
        return Layer(f"init {init}", {})
    config = recorded_prior(values, init) if group == "prior" else from_dict(CodecConfig, values, init)
    return Layer(f"init {init}", to_dict(config))


def words(values: Mapping[str, float]) -> list[str]:
    """The figures of a training as they are printed."""
    return [
        text.format(f"{100 * values[name]:.0f}%" if name in _SHARES else figure(values[name]))
        for name, text in _PRINTED.items()
        if name in values
    ]


def progress_printer(bar: "Bar") -> "OnStep":
    """A callback for a training: it moves the bar at each step and prints a line for each validation."""
    latest: list[str] = []

    def on_step(progress: "Progress") -> None:
        if progress.validation:
            bar.line(f"step {progress.step}: held-out", *words(progress.values))
            return
        if progress.values:
            figures = words(progress.values)
            latest[:] = [*figures[:2], f"{figure(progress.images_per_second)} images/s", *figures[2:]]
        bar.update(progress.spent, f"step {progress.step}", *latest)

    return on_step


def print_result(output: Output, trained: "Trained", **more: Any) -> None:
    """The best checkpoint's path, and the held-out figures of the best and the last checkpoint, each with its step."""
    best = {"step": trained.best_step, **trained.best_validation}
    last = {"step": trained.step, **trained.validation}
    models = {"best": best, "last": last} if best["step"] != last["step"] else {"best and last": last}
    lines = [f"{name}, step {each['step']}: {'  '.join(words(each))}" for name, each in models.items() if words(each)]
    output.result(
        [str(trained.best), *lines],
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
