"""`eval`: how good pictures, codecs and priors are, by the measures that the field quotes."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from taming_cli.cli import options as o
from taming_cli.cli.console import Output
from taming_cli.cli.measured import lines, save, save_all, values
from taming_cli.config.evaluate import FeatureConfig, InceptionScoreConfig, KernelConfig, ManifoldConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

if TYPE_CHECKING:
    from taming_cli.evaluate.codecs import Sending
    from taming_cli.evaluate.look import Look
    from taming_cli.evaluate.protocol import Measured
    from taming_cli.evaluate.sides import Side, Statistics
    from taming_cli.judges.features import FeatureNetwork

Generated = Annotated[
    Path | None,
    typer.Argument(
        metavar="[GENERATED]",
        help="Folder, archive, token file, or .npz of pictures or statistics; else the newest samples.",
        show_default=False,
    ),
]
Reference = Annotated[
    Path | None,
    typer.Argument(
        metavar="[REFERENCE]",
        help="Likewise; else the pictures that the samples' codec was trained on.",
        show_default=False,
    ),
]
Codec = Annotated[
    Path | None, typer.Option("--codec", metavar="FILE", help="Of a token file, where that does not find its own.")
]
CodecFile = Annotated[Path, typer.Argument(metavar="CODEC", help="A codec's model file, or a prior's.")]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Folders, pictures or archives.")]
Perceptual = Annotated[
    str, typer.Option("--perceptual", metavar="NAME", help="lpips-vgg, lpips-alex, efficientnet-lite0 or none.")
]
SizeText = Annotated[
    str | None,
    typer.Option(
        "--size", metavar="WxH", help="Centre crops of this size; by default each picture whole.", envvar="TAMING_SIZE"
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Measure pictures, codecs and priors. Every result says how it was taken; --json has all of it.",
        rich_markup_mode="rich",
    )
    for name, command in (
        ("fid", fid),
        ("is", inception),
        ("kid", kernel),
        ("prc", manifold),
        ("rfid", rfid),
        ("recon", recon),
        ("codebook", codebook),
        ("nll", nll),
        ("all", everything),
    ):
        group.command(name)(command)
    app.add_typer(group, name="eval", rich_help_panel="Measure")


class _Session:
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
        workers: o.Workers = 2,
        json: o.Json = False,
        quiet: o.Quiet = False,
        debug: o.Debug = False,
    ) -> None:
        self.batch_size, self.device_name, self.workers, self.out = batch_size, device, workers, out
        self._json, self._quiet = json, quiet
        self._open = ExitStack()

    def __enter__(self) -> "_Session":
        from taming_cli.runtime.device import pick_device
        from taming_cli.runtime.distributed import own_device, world

        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out} is a file; give a folder for the result")
        self.device = pick_device(own_device(self.device_name))
        self.world = self._open.enter_context(world())
        self.output = Output(json=self._json, quiet=self._quiet or not self.world.first)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def told(self, what: str, unit: str = "pictures") -> Callable[[int, int], None]:
        """A bar, which is told (done, total)."""
        bar = self._open.enter_context(self.output.bar(what, None))

        def on_item(done: int, total: int) -> None:
            bar.total = total
            bar.update(done, f"{done}/{total} {unit}")

        return on_item

    def say(self, measured: "Measured") -> int:
        """The result, by the first process; 3 where pictures were skipped."""
        self._open.close()
        if self.world.first:
            self.heed(measured)
            first = next(iter(measured.values.values()))
            self.output.result(lines(measured), measured.to_dict(), short=f"{first:.6g}")
            if self.out is not None:
                save(measured, self.out)
        return 3 if measured.skipped and self.world.first else 0

    def heed(self, measured: "Measured") -> None:
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
    ) -> "_Sides":
        """Both sides: as named, else the newest samples, and what their codec was trained on, cut to the samples' size;
        said on stderr. Statistics are taken where they are what the network would give."""
        from taming_cli.evaluate.defaults import trained_on
        from taming_cli.evaluate.sides import Side, side

        published = features.features == "inception-v3-compat" and features.resize == "tf1" and features.size is None
        made = side(self.newest(generated), codec=codec, device=self.device, statistics=published)
        if reference is not None:
            return _Sides(made, side(reference, codec=codec, device=self.device, statistics=published), features)
        found = trained_on(Path(made.name))
        size = features.size or (made.first_size() if isinstance(made, Side) else None)
        self.output.note(f"reference: {found.pictures}, what the codec {found.codec} was trained on, cut to {size}")
        return _Sides(made, side(found.pictures, device=self.device), replace(features, size=size))

    def pictures(self, path: Path, codec: Path | None) -> "Side":
        """What a path holds, where statistics are not enough."""
        from taming_cli.evaluate.sides import side

        return _pictures(side(path, codec=codec, device=self.device, statistics=False))

    def network(self, features: FeatureConfig, weights: Path | None, offline: bool) -> "FeatureNetwork":
        """The feature network, its weights fetched if need be."""
        from taming_cli.judges.features import build

        with self.output.bar("weights", None) as bar:

            def on_bytes(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done, f"{done / 1e6:.0f} MB of the network's weights")

            network = build(
                features.features, resize=features.resize, weights=weights, offline=offline, on_bytes=on_bytes
            )
        return network.to(self.device)

    def look(self, features: FeatureConfig, weights: Path | None, offline: bool, *keep: "Side") -> "Look":
        """How to look; of the sides to `keep` all features are kept, and the memory that takes is said."""
        from taming_cli.evaluate.distance import kept_bytes
        from taming_cli.evaluate.look import Look

        network = self.network(features, weights, offline)
        if keep:
            self.output.note(f"all features are kept: {kept_bytes(keep, network) / 2**20:.0f} MiB")
        return Look(
            network=network,
            size=features.size,
            batch_size=self.batch_size,
            workers=self.workers,
            world=self.world,
            on_item=self.told("looking"),
        )

    def sending(self, codec: Path, images: list[Path], size: Size | None) -> "Sending":
        """Pictures on their way through a codec."""
        from taming_cli.evaluate.codecs import AT_ONCE, sending
        from taming_cli.evaluate.sides import pictures_in

        return sending(
            codec,
            pictures_in(images),
            size=size,
            batch_size=min(AT_ONCE, self.batch_size),
            workers=self.workers,
            device=self.device,
            world=self.world,
            on_item=self.told("reconstructing"),
        )


class _Sides(NamedTuple):
    """What is compared, and by which settings."""

    generated: "Side | Statistics"
    reference: "Side | Statistics"
    features: FeatureConfig


def _pictures(found: "Side | Statistics") -> "Side":
    from taming_cli.evaluate.sides import Statistics

    if isinstance(found, Statistics):
        raise UsageError(f"{found.name} holds statistics; this measure needs the pictures themselves")
    return found


def _measures(**panels: type[Any]) -> Callable[[Callable[..., "Measured | int"]], Callable[..., int]]:
    """A decorator: the command, `(session, *configs, **arguments) -> Measured`, gets the flags of `_Session` and of
    these config classes, and says its result, unless it has done so and returns the exit code."""

    def decorate(command: Callable[..., "Measured | int"]) -> Callable[..., int]:
        own = list(inspect.signature(command).parameters.values())[1 + len(panels) :]
        shared = inspect.signature(_Session).parameters

        def run(flags: dict[str, Any], **arguments: Any) -> int:
            configs = o.settle(tuple(panels.values()), flags, command="eval").configs
            asked = {name: arguments.pop(name) for name in shared}
            with _Session(**asked) as session:
                found = command(session, *configs, **arguments)
                return found if isinstance(found, int) else session.say(found)

        run.__signature__ = inspect.Signature([*own, *shared.values()])  # type: ignore[attr-defined]
        run.__doc__, run.__name__ = command.__doc__, command.__name__
        return o.with_flags(**panels)(run)

    return decorate


@_measures(Seen_by=FeatureConfig)
def fid(
    session: _Session,
    features: FeatureConfig,
    generated: Generated = None,
    reference: Reference = None,
    codec: Codec = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> "Measured":
    """Frechet distance of two sides' features: FID, or under another network's name."""
    from taming_cli.evaluate import distance

    sides = session.sides(features, generated, reference, codec)
    look = session.look(sides.features, weights, offline)
    return distance.fid(sides.generated, sides.reference, look, cache=features.cache)


@_measures(Seen_by=FeatureConfig, Parts=InceptionScoreConfig)
def inception(
    session: _Session,
    features: FeatureConfig,
    config: InceptionScoreConfig,
    generated: Generated = None,
    codec: Codec = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> "Measured":
    """Inception score of pictures, and its deviation over parts."""
    from taming_cli.evaluate import distance

    side = session.pictures(session.newest(generated), codec)
    return distance.inception(side, session.look(features, weights, offline, side), config)


@_measures(Seen_by=FeatureConfig, Subsets=KernelConfig)
def kernel(
    session: _Session,
    features: FeatureConfig,
    config: KernelConfig,
    generated: Generated = None,
    reference: Reference = None,
    codec: Codec = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> "Measured":
    """Kernel distance of two sides' features, and its deviation over subsets."""
    from taming_cli.evaluate import distance

    sides = session.sides(features, generated, reference, codec)
    pair = _pictures(sides.generated), _pictures(sides.reference)
    return distance.kernel(*pair, session.look(sides.features, weights, offline, *pair), config)


@_measures(Seen_by=FeatureConfig, Balls=ManifoldConfig)
def manifold(
    session: _Session,
    features: FeatureConfig,
    config: ManifoldConfig,
    generated: Generated = None,
    reference: Reference = None,
    codec: Codec = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> "Measured":
    """Improved precision and recall of generated pictures; first published with --features vgg16."""
    from taming_cli.evaluate import distance

    sides = session.sides(features, generated, reference, codec)
    pair = _pictures(sides.generated), _pictures(sides.reference)
    return distance.manifold(*pair, session.look(sides.features, weights, offline, *pair), config)


@_measures(Seen_by=FeatureConfig)
def rfid(
    session: _Session,
    features: FeatureConfig,
    codec: CodecFile,
    images: Images,
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> "Measured":
    """Frechet distance from pictures to their reconstructions, which are not written."""
    from taming_cli.evaluate import codecs

    network = session.network(features, weights, offline)
    return codecs.rfid(session.sending(codec, images, features.size), network)


@_measures()
def recon(
    session: _Session,
    codec: CodecFile,
    images: Images,
    size: SizeText = None,
    perceptual: Perceptual = "efficientnet-lite0",
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> "Measured":
    """PSNR, SSIM, L1, perceptual distance and bits per pixel of a codec's reconstructions; -o keeps worst and best."""
    from taming_cli.evaluate import codecs
    from taming_cli.judges.perceptual import build

    judge = build(perceptual, weights=weights, offline=offline)
    sent = session.sending(codec, images, Size.parse(size) if size else None)
    return codecs.recon(sent, None if judge is None else judge.to(session.device))


@_measures()
def codebook(
    session: _Session,
    codec: CodecFile,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...|TOKENS", help="Pictures, or one token file.")],
    size: SizeText = None,
) -> "Measured":
    """How a codebook is used: codes that occur, their perplexity, those that never do; -o keeps a histogram."""
    from taming_cli.evaluate import codecs

    if len(images) == 1 and images[0].suffix.lower() == ".h5":
        if size is not None:
            session.output.note("--size cuts pictures; the codes of a token file are taken as they are")
        return codecs.codebook_of(images[0], codec)
    return codecs.codebook(session.sending(codec, images, Size.parse(size) if size else None))


@_measures()
def nll(
    session: _Session,
    prior: Annotated[Path, typer.Argument(metavar="PRIOR", help="A prior's model file.")],
    tokens: Annotated[Path, typer.Argument(metavar="TOKENS", help="Token file of the prior's codec.")],
    stride: Annotated[
        int, typer.Option("--stride", min=1, help="Columns that share a window; 1 is the published rule.")
    ] = 1,
    precision: o.Precision = "fp32",
) -> "Measured":
    """nats/token and bits/dim of a token file's codes under a prior; by class, and -o keeps a map by position."""
    from taming_cli.evaluate import likelihood

    return likelihood.nll(
        prior,
        tokens,
        stride=stride,
        batch_size=min(16, session.batch_size),
        device=session.device_name,
        precision=precision,
        world=session.world,
        on_item=session.told("reading"),
    )


@_measures(Seen_by=FeatureConfig)
def everything(
    session: _Session,
    features: FeatureConfig,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run of train-vqgan or train-prior.")],
    perceptual: Perceptual = "efficientnet-lite0",
    weights: o.Weights = None,
    offline: o.Offline = False,
) -> int:
    """Everything that fits a run, on what it never learned from, into its eval.json and its report."""
    from taming_cli.evaluate.everything import Means
    from taming_cli.evaluate.everything import everything as verb
    from taming_cli.judges.perceptual import build

    shared = weights if weights is None or weights.is_dir() else None  # a file holds one network: the features'
    judge = build(perceptual, weights=shared, offline=offline)
    means = Means(
        look=session.look(features, weights, offline),
        judge=None if judge is None else judge.to(session.device),
        device=session.device_name,
        note=session.output.note,
    )
    results = dict(verb(run, means))
    skipped = False
    if session.world.first:
        for measured in results.values():
            session.heed(measured)
            skipped |= bool(measured.skipped)
        save_all(results, run)
        text = "\n".join(values(measured) for measured in results.values())
        named = {name: measured.to_dict() for name, measured in results.items()}
        session.output.result(f"{text}\n{run / 'report.html'}", named, short=str(run / "eval.json"))
    return 3 if skipped else 0
