"""The base of all measurements: options, device, progress and sides, and how a result is printed."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from taming_cli.cli import options as o
from taming_cli.cli.command import Command, command
from taming_cli.cli.console import Output
from taming_cli.cli.results import lines, save
from taming_cli.config.evaluate import FeatureConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.evaluate.coding import CodecRun
    from taming_cli.evaluate.extraction import Extractor
    from taming_cli.evaluate.image_sets import FeatureStatistics, ImageSet
    from taming_cli.evaluate.protocol import Measurement
    from taming_cli.pretrained.features import FeatureNetwork
    from taming_cli.pretrained.perceptual import Perceptual


Generated = Annotated[
    Path | None,
    typer.Argument(
        metavar="[GENERATED]",
        help="Folder, archive, list (.txt), token file, or .npz of pictures or statistics. Default: newest samples.",
    ),
]


@dataclass(frozen=True)
class Paths:
    """The arguments of a comparison of two sides."""

    generated: Generated = None
    reference: Annotated[
        Path | None,
        typer.Argument(
            metavar="[REFERENCE]",
            help="Pictures or statistics to compare with. Default: the training pictures of the samples' codec.",
        ),
    ] = None
    codec: o.TokensCodec = None


class Evaluation:
    """One measurement on the command line: a context manager with the device and the processes that it runs on."""

    def __init__(
        self,
        output: Output,
        *,
        out: Annotated[
            Path | None,
            typer.Option(
                "-o", "--out", metavar="FOLDER", help="Also write the result and its pictures to this folder."
            ),
        ] = None,
        batch_size: o.BatchSize = 32,
        device: o.Device = "auto",
        memory: o.Memory = None,
        workers: o.Workers = 2,
    ) -> None:
        self.output, self.out = output, out
        self.batch_size, self.device_name, self.memory, self.workers = batch_size, device, memory, workers
        self._open, self._bar = ExitStack(), ExitStack()
        self._began = time.monotonic()

    def __enter__(self) -> "Evaluation":
        from taming_cli.runtime.device import pick_device
        from taming_cli.runtime.distributed import world

        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out} is a file; give a folder for the result")
        self.device = pick_device(self.device_name)
        self.world = self._open.enter_context(world())
        self._open.push(self._bar)
        if not self.world.first:
            self.output.mute()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def progress(self, label: str, unit: str = "pictures") -> Callable[[int, int], None]:
        """A callback (done, total) that moves a bar. There is one bar at a time: a new one replaces the last."""
        self.end_bar()
        bar = self._bar.enter_context(self.output.bar(label, unit=unit))

        def on_item(done: int, total: int) -> None:
            bar.update(done, total=total)

        return on_item

    def end_bar(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def finish(self, measured: "Measurement") -> int:
        """Print the result, in the first process, and return the exit code: 3 if pictures were skipped."""
        from taming_cli.runtime.device import peak_memory

        self._open.close()
        if self.world.first:
            self.warn(measured)
            first = next(iter(measured.values.values()))
            self.output.result(lines(measured), measured.to_dict(), short=f"{first:.6g}")
            if not self.output.verbose:  # which prints this for every command
                seconds, peak = time.monotonic() - self._began, peak_memory() / 2**30
                self.output.note(f"took {seconds:.0f} s and at most {peak:.2f} GiB of memory")
            if self.out is not None:
                self.output.note(f"written: {save(measured, self.out)}")
        return 3 if measured.skipped and self.world.first else 0

    def warn(self, measured: "Measurement") -> None:
        """Print the result's warnings and skipped inputs on stderr."""
        for warning in measured.warnings:
            self.output.note(f"warning: {warning}")
        self.output.skipped(dict(measured.skipped))

    def newest(self, generated: Path | None) -> Path:
        """The path to measure: `generated`, or the newest samples, which are printed on stderr."""
        from taming_cli.evaluate.defaults import newest_samples

        if generated is None:
            generated = newest_samples()
            self.output.note(f"generated: {generated} (the newest samples)")
        return generated

    def sides(self, features: FeatureConfig, paths: Paths) -> "Sides":
        """Both sides: by default the newest samples, and the training pictures of their codec, cropped to the samples'
        size; defaults are printed on stderr. Stored statistics are used only where the network would compute the
        same."""
        from taming_cli.evaluate.defaults import trained_on
        from taming_cli.evaluate.image_sets import ImageSet, open_image_set

        published = features.features == "inception-v3-compat" and features.resize == "tf1" and features.size is None
        read = partial(open_image_set, device=self.device, memory=self.memory)
        stored = partial(read, codec=paths.codec, statistics=published)
        generated = stored(self.newest(paths.generated))
        if paths.reference is not None:
            return Sides(generated, stored(paths.reference), features)
        training = trained_on(Path(generated.name))
        size = features.size or (generated.first_size() if isinstance(generated, ImageSet) else None)
        self.output.note(f"reference: {training.pictures}, training pictures of {training.codec}, cropped to {size}")
        return Sides(generated, read(training.pictures), replace(features, size=size))

    def picture_sides(
        self, features: FeatureConfig, paths: Paths, pretrained: o.Pretrained
    ) -> tuple["ImageSet", "ImageSet", "Extractor"]:
        """Generated pictures, reference pictures, and how the features of each picture are extracted. UsageError for
        stored statistics."""
        sides = self.sides(features, paths)
        pair = pictures_of(sides.generated), pictures_of(sides.reference)
        return (*pair, self.extractor(sides.features, pretrained, *pair))

    def pictures(self, path: Path, codec: Path | None) -> "ImageSet":
        """The pictures at a path. UsageError for stored statistics."""
        from taming_cli.evaluate.image_sets import open_image_set

        return pictures_of(open_image_set(path, codec=codec, device=self.device, memory=self.memory, statistics=False))

    def network(self, features: FeatureConfig, pretrained: o.Pretrained) -> "FeatureNetwork":
        """The feature network; its weights are downloaded if necessary."""
        from taming_cli.pretrained.features import build

        with self.output.bar("loading") as bar:
            network = build(features.features, resize=features.resize, on_bytes=bar.fetching, **vars(pretrained))
        return network.to(self.device)

    def perceptual(self, name: str, pretrained: o.Pretrained) -> "Perceptual | None":
        """The perceptual network of that name, or None for "none"; its weights are downloaded if necessary."""
        from taming_cli.pretrained.perceptual import build

        with self.output.bar("loading") as bar:
            network = build(name, on_bytes=bar.fetching, **vars(pretrained))
        return None if network is None else network.to(self.device)

    def extractor(
        self,
        features: FeatureConfig,
        pretrained: o.Pretrained,
        *kept: "ImageSet",
        keep: Literal["features", "logits"] = "features",
    ) -> "Extractor":
        """How features are extracted. For sides whose features (or logits: `keep`) are `kept`, the memory that they
        take is printed on stderr."""
        from taming_cli.evaluate.distance import kept_bytes
        from taming_cli.evaluate.extraction import Extractor

        network = self.network(features, pretrained)
        if kept:
            size = kept_bytes(kept, network, keep) / 2**20
            self.output.note(f"the {keep} of all pictures stay in memory: {size:.0f} MiB")
        return Extractor(
            network=network,
            size=features.size,
            batch_size=self.batch_size,
            workers=self.workers,
            world=self.world,
            on_item=self.progress("extracting features"),
        )

    def codec_run(self, codec: Path, images: list[Path], size: Size | None) -> "CodecRun":
        """The reconstruction of pictures by a codec."""
        from taming_cli.evaluate.coding import codec_run
        from taming_cli.evaluate.image_sets import list_images

        return codec_run(
            codec,
            list_images(images),
            size=size,
            workers=self.workers,
            device=self.device,
            memory=self.memory,
            world=self.world,
            on_item=self.progress("reconstructing"),
        )


class Sides(NamedTuple):
    """The two sides of a comparison, and its settings."""

    generated: "ImageSet | FeatureStatistics"
    reference: "ImageSet | FeatureStatistics"
    features: FeatureConfig


def pictures_of(side: "ImageSet | FeatureStatistics") -> "ImageSet":
    """A side with its pictures. UsageError for stored statistics."""
    from taming_cli.evaluate.image_sets import FeatureStatistics

    if isinstance(side, FeatureStatistics):
        raise UsageError(f"{side.name} holds statistics, but this measure needs the pictures themselves")
    return side


def measurement(name: str) -> Callable[[Callable[..., "Measurement | int"]], Command]:
    """A decorator that makes a command of a function `(evaluation: Evaluation, ...) -> Measurement`, whose result is
    then printed. A function that prints its result itself returns the exit code."""

    def decorate(function: Callable[..., "Measurement | int"]) -> Command:
        @wraps(function)
        def run(evaluation: Evaluation, **arguments: Any) -> int:
            with evaluation:
                measured = function(evaluation, **arguments)
                return measured if isinstance(measured, int) else evaluation.finish(measured)

        return command(name, reads_pictures=True, config_file=True)(run)

    return decorate
