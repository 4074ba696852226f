"""What all measurements share on the command line: flags, where they run, both sides, and how a result is said."""

import inspect
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from taming_cli.cli import options as o
from taming_cli.cli.console import Output
from taming_cli.cli.measured import lines, save
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


class Session:
    """What all measurements share: where they run, their bar, and how their result is said."""

    def __init__(
        self,
        *,
        out: Annotated[
            Path | None,
            typer.Option("-o", "--out", metavar="FOLDER", help="Keep the result there, and what it draws."),
        ] = None,
        batch_size: o.BatchSize = 32,
        device: o.Device = "auto",
        memory: o.Memory = None,
        workers: o.Workers = 2,
        config: o.Config = None,
        json: o.Json = False,
        quiet: o.Quiet = False,
        debug: o.Debug = False,
    ) -> None:
        self.batch_size, self.device_name, self.workers, self.out = batch_size, device, workers, out
        self.memory = memory
        self._json, self._quiet = json, quiet
        self._open, self._bar = ExitStack(), ExitStack()
        self._began = time.monotonic()

    def __enter__(self) -> "Session":
        from taming_cli.runtime.device import pick_device
        from taming_cli.runtime.distributed import world

        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out} is a file; give a folder for the result")
        self.device = pick_device(self.device_name)
        self.world = self._open.enter_context(world())
        self._open.push(self._bar)
        self.output = Output(json=self._json, quiet=self._quiet, silent=not self.world.first)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def told(self, what: str, unit: str = "pictures") -> Callable[[int, int], None]:
        """A bar, which is told (done, total). There is one at a time: a new one takes the place of the last."""
        self.end_bar()
        bar = self._bar.enter_context(self.output.bar(what, unit=unit))

        def on_item(done: int, total: int) -> None:
            bar.update(done, total=total)

        return on_item

    def end_bar(self) -> None:
        """What comes next is no progress of that work."""
        self._bar.close()

    def say(self, measured: "Measurement") -> int:
        """The result, by the first process; 3 where pictures were skipped."""
        from taming_cli.runtime.device import peak_memory

        self._open.close()
        if self.world.first:
            self.heed(measured)
            first = next(iter(measured.values.values()))
            self.output.result(lines(measured), measured.to_dict(), short=f"{first:.6g}")
            if not self.output.verbose:  # which says it of every command
                seconds, peak = time.monotonic() - self._began, peak_memory() / 2**30
                self.output.note(f"took {seconds:.0f} s and at most {peak:.2f} GiB of memory")
            if self.out is not None:
                self.output.note(f"kept: {save(measured, self.out)}")
        return 3 if measured.skipped and self.world.first else 0

    def heed(self, measured: "Measurement") -> None:
        """What a reader of the result has to know besides, on stderr."""
        for warning in measured.warnings:
            self.output.note(f"warning: {warning}")
        self.output.skipped(dict(measured.skipped))

    def newest(self, generated: Path | None) -> Path:
        """What is measured: as named, else the newest samples, said on stderr."""
        from taming_cli.evaluate.defaults import newest_samples

        if generated is None:
            generated = newest_samples()
            self.output.note(f"generated: {generated} (the newest samples)")
        return generated

    def sides(
        self, features: FeatureConfig, generated: Path | None, reference: Path | None, codec: Path | None
    ) -> "Sides":
        """Both sides: as named, else the newest samples, and what their codec was trained on, cut to the samples' size;
        said on stderr. Statistics are taken where they are what the network would give."""
        from taming_cli.evaluate.defaults import trained_on
        from taming_cli.evaluate.image_sets import ImageSet, open_image_set

        published = features.features == "inception-v3-compat" and features.resize == "tf1" and features.size is None
        made = open_image_set(
            self.newest(generated), codec=codec, device=self.device, memory=self.memory, statistics=published
        )
        if reference is not None:
            return Sides(
                made,
                open_image_set(reference, codec=codec, device=self.device, memory=self.memory, statistics=published),
                features,
            )
        found = trained_on(Path(made.name))
        size = features.size or (made.first_size() if isinstance(made, ImageSet) else None)
        self.output.note(f"reference: {found.pictures}, what the codec {found.codec} was trained on, cut to {size}")
        pictures = open_image_set(found.pictures, device=self.device, memory=self.memory)
        return Sides(made, pictures, replace(features, size=size))

    def pictures(self, path: Path, codec: Path | None) -> "ImageSet":
        """What a path holds, where statistics are not enough."""
        from taming_cli.evaluate.image_sets import open_image_set

        return pictures_of(open_image_set(path, codec=codec, device=self.device, memory=self.memory, statistics=False))

    def network(self, features: FeatureConfig, weights: Path | None, offline: bool) -> "FeatureNetwork":
        """The feature network, its weights fetched if need be."""
        from taming_cli.pretrained.features import build

        with self.output.bar("loading") as bar:
            network = build(
                features.features, resize=features.resize, weights=weights, offline=offline, on_bytes=bar.fetching
            )
        return network.to(self.device)

    def perceptual(self, name: str, weights: Path | None, offline: bool) -> "Perceptual | None":
        """The perceptual network of that name, its weights fetched if need be; None for "none"."""
        from taming_cli.pretrained.perceptual import build

        with self.output.bar("loading") as bar:
            network = build(name, weights=weights, offline=offline, on_bytes=bar.fetching)
        return None if network is None else network.to(self.device)

    def extractor(
        self,
        features: FeatureConfig,
        weights: Path | None,
        offline: bool,
        *kept: "ImageSet",
        keep: Literal["features", "logits"] = "features",
    ) -> "Extractor":
        """The feature extractor; logs the memory for the `keep` of all images in the sets `kept`."""
        from taming_cli.evaluate.distance import kept_bytes
        from taming_cli.evaluate.extraction import Extractor

        network = self.network(features, weights, offline)
        if kept:
            size = kept_bytes(kept, network, keep) / 2**20
            self.output.note(f"the {keep} of all pictures are kept: {size:.0f} MiB")
        return Extractor(
            network=network,
            size=features.size,
            batch_size=self.batch_size,
            workers=self.workers,
            world=self.world,
            on_item=self.told("looking"),
        )

    def codec_run(self, codec: Path, images: list[Path], size: Size | None) -> "CodecRun":
        """A codec and the images to code."""
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
            on_item=self.told("reconstructing"),
        )


class Sides(NamedTuple):
    """What is compared, and by which settings."""

    generated: "ImageSet | FeatureStatistics"
    reference: "ImageSet | FeatureStatistics"
    features: FeatureConfig


def pictures_of(found: "ImageSet | FeatureStatistics") -> "ImageSet":
    """An image set; UsageError for statistics."""
    from taming_cli.evaluate.image_sets import FeatureStatistics

    if isinstance(found, FeatureStatistics):
        raise UsageError(f"{found.name} holds statistics; this measure needs the pictures themselves")
    return found


def measures(**panels: type[Any]) -> Callable[[Callable[..., "Measurement | int"]], Callable[..., int]]:
    """A decorator: the command, `(session, *configs, **arguments) -> Measurement`, gets the flags of `Session` and of
    these config classes, and says its result, unless it has done so and returns the exit code."""

    def decorate(command: Callable[..., "Measurement | int"]) -> Callable[..., int]:
        own = list(inspect.signature(command).parameters.values())[1 + len(panels) :]
        shared = inspect.signature(Session).parameters

        def run(flags: dict[str, Any], **arguments: Any) -> int:
            file = arguments["config"]
            configs = o.settle(tuple(panels.values()), flags, command="eval", config_file=file).configs
            asked = {name: arguments.pop(name) for name in shared}
            with Session(**asked) as session:
                found = command(session, *configs, **arguments)
                return found if isinstance(found, int) else session.say(found)

        run.__signature__ = inspect.Signature([*own, *shared.values()])  # type: ignore[attr-defined]
        run.__doc__, run.__name__ = command.__doc__, command.__name__
        return o.reads_pictures(o.with_flags(**panels)(run))

    return decorate
