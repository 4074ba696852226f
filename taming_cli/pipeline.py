"""A prior and its codec as one thing that makes pictures: the public Python API, and `taming sample`.

from taming_cli.pipeline import Pipeline
pipeline = Pipeline.load("runs/train-prior/001/checkpoints/best.safetensors")
samples = pipeline.sample(SampleConfig(n=4, seed=7, class_name="dog"))   # samples.images: uint8 (4, 3, H, W)
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

import taming_cli
from taming_cli.codec.condition import Encoder, MapCodec, encoders
from taming_cli.codec.hole import Known
from taming_cli.codec.maps import Asked, Maps, ask
from taming_cli.codec.tiles import at_once, pictures
from taming_cli.codec.vqgan import VQGAN, codec_from
from taming_cli.config.fields import one_of, to_dict
from taming_cli.config.sampling import SampleConfig
from taming_cli.config.size import Size
from taming_cli.data.arrays import write_pictures
from taming_cli.data.images import SETTINGS, SHEET, grid, png_settings, read_image, write_png
from taming_cli.data.token_writer import TokenJob
from taming_cli.data.tokens import TokenHeader
from taming_cli.errors import UsageError
from taming_cli.prior.canvas import check_plan
from taming_cli.prior.completion import complete
from taming_cli.prior.generate import Given, generate
from taming_cli.prior.gpt import GPT
from taming_cli.prior.model import prior_from
from taming_cli.prior.noise import Stream, uniform
from taming_cli.prior.packed import pack
from taming_cli.prior.windows import widest_stride
from taming_cli.prior.workspace import Kept
from taming_cli.runtime.checkpoint import load_model, write_atomically
from taming_cli.runtime.device import autocast, pick_device, pick_precision, precision_name
from taming_cli.runtime.interrupt import StopRequest

CHUNK = 64
"""Samples drawn, decoded and written before the next, at most: what a kill can cost."""
GRID_MOST = 100
"""Pictures in the grid, at most; more would only make it unreadable."""


class Samples(NamedTuple):
    """`images` uint8 (n, 3, H, W), `codes` int64 (n, h, w), both on the CPU; `classes` a name or None for each."""

    images: Tensor
    codes: Tensor
    classes: tuple[str | None, ...]


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One picture on disk: its file, the number of the sample, and its class."""

    path: Path
    sample: int
    label: str | None
    map: str | None


@dataclass(frozen=True)
class Pipeline:
    """A prior, its codec, the encoders of its conditions, and what the model file says of them."""

    gpt: GPT
    codec: VQGAN
    encoders: Mapping[str, Encoder]
    about: dict[str, Any]
    sha256: str
    device: torch.device
    precision: torch.dtype
    labels: tuple[str, ...] = field(default=())
    kept: Kept = field(default_factory=Kept)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", precision: str = "fp32") -> "Pipeline":
        """A prior's model file, ready on `device`. Raises BadFileError where the file is not a prior's."""
        where = pick_device(device)
        dtype = pick_precision(precision, where)
        model = load_model(Path(path), "taming-prior")
        gpt, codec = prior_from(model, str(path)), codec_from(model, str(path))
        found = encoders(model, codec, str(path))
        return cls(
            gpt=pack(gpt.to(where, dtype)),
            codec=codec.to(where).to(memory_format=torch.channels_last),
            encoders={kind: each.to(where) if isinstance(each, MapCodec) else each for kind, each in found.items()},
            about=dict(model.about),
            sha256=_sha256(Path(path)),
            device=where,
            precision=dtype,
            labels=tuple(model.about.get("label_names", ())),
        )

    def sample(
        self,
        config: SampleConfig,
        *,
        asked: Asked | None = None,
        numbers: Sequence[int] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        on_decode: Callable[[int, int], None] | None = None,
    ) -> Samples:
        """Draw the samples of these numbers, by default 0 to n - 1.

        `asked` is what `ask` made of condition maps or of a picture to complete. A picture depends on the model, the
        settings, its map and its number alone, not on which others are drawn with it. `on_progress` is told (cells
        drawn, cells in all), and then `on_decode` (cells decoded, cells in all). Raises UsageError where the settings
        do not fit the prior.
        """
        numbers = range(config.n) if numbers is None else numbers
        asked = asked or self.ask(config)
        latent = asked.latent
        classes = self.classes(config, numbers)
        conditions = asked.of(numbers)
        if self.gpt.config.num_classes:
            known = [-1 if index is None else index for index in classes]
            conditions["class"] = torch.tensor(known, dtype=torch.int64)[:, None]
        draw: dict[str, Any] = {
            "samples": numbers,
            "seed": config.seed,
            "decoding": config,
            "conditions": conditions,
            "stride": self.stride(config),
            "batch_size": config.batch_size,
            "on_progress": on_progress,
        }
        given = None if asked.known is None else Given(*asked.known)
        if given is not None and config.candidates > 1:
            codes = complete(self.gpt, given, candidates=config.candidates, **draw).codes
        else:
            codes = generate(self.gpt, size=(latent.height, latent.width), given=given, kept=self.kept, **draw)
        names = tuple(None if index is None else self.label(index) for index in classes)
        return Samples(self.decode(codes, config.batch_size, on_decode), codes.cpu(), names)

    @torch.inference_mode()
    def decode(
        self, codes: Tensor, batch_size: int = 16, on_progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Codes (n, h, w) of any size -> pictures uint8 (n, 3, f h, f w) on the CPU, in bounded memory.

        `on_progress` is told (cells decoded, cells in all).
        """
        with autocast(self.device, self.precision):
            return pictures(self.codec, codes.to(self.device), batch_size=batch_size, on_progress=on_progress)

    def ask(self, config: SampleConfig, maps: Maps = MappingProxyType({}), known: Known | None = None) -> Asked:
        """The codes of condition maps, on the grid of `config.size`: by default that of the first map, and of the
        training's pictures where there is none. Cells that are `known` (`codec.hole.known`) stay, and decide the size.

        Raises UsageError for a kind that the prior does not have, or that it needs and is not given, and for maps that
        do not belong together; BadImageError for a map that cannot be read.
        """
        has = self.kinds
        for kind in maps:
            if kind not in has:
                what = one_of(has, kind) if has else "it takes no map: leave it out"
                raise UsageError(f"this prior does not know the condition {kind!r}; {what}")
        needs = self.gpt.config.vocabulary == "shared" or self.about.get("condition_dropout") == 0
        for kind in has:
            if kind not in maps and needs:
                raise UsageError(f"this prior makes pictures of {kind} maps alone; give one: --cond FILE")
        f, size = self.codec.config.downsample_factor, config.size
        if known is not None:
            size = Size(f * known.keep.shape[1], f * known.keep.shape[0])
        if size is not None:
            self.codec.config.latent(size)
        asked = ask(self.encoders, maps, f, size, self.learned)._replace(known=known)
        check_plan(self.gpt.config, (asked.latent.height, asked.latent.width), self.stride(config))
        return asked

    def stride(self, config: SampleConfig) -> int:
        """Columns that share a window: those asked for, else as many as may."""
        return config.stride or widest_stride(self.gpt.config.window.width)

    @property
    def learned(self) -> Size:
        """The grid of the training's pictures, in codes."""
        return Size.parse(self.about["grid"]) if "grid" in self.about else self.gpt.config.window

    @property
    def kinds(self) -> tuple[str, ...]:
        """The conditions that take a map."""
        return tuple(kind for kind, encoder in self.encoders.items() if encoder.reads is not None)

    def repeats(self, latent: Size) -> bool:
        """Whether a picture on this grid will repeat itself: larger than what the prior learned as a whole, with no
        condition that says what belongs where."""
        window = self.gpt.config.window
        beyond = latent.width > window.width or latent.height > window.height
        return beyond and self.learned == window and not self.encoders

    def at_once(self, latent: Size, most: int) -> int:
        """How many pictures of this grid are held at once, 1 to `most`."""
        return at_once(self.codec, latent.height, latent.width, most)

    def classes(self, config: SampleConfig, numbers: Sequence[int]) -> list[int | None]:
        """The class of each sample: the one asked for, else one drawn as often as in the training data."""
        if not self.gpt.config.num_classes:
            if config.class_name is not None:
                raise UsageError(f"class {config.class_name!r}: this prior was trained without classes; leave it out")
            return [None] * len(numbers)
        if config.class_name is not None:
            return [self.class_index(config.class_name)] * len(numbers)
        counts = torch.tensor(self.about.get("label_counts") or [1] * self.gpt.config.num_classes, dtype=torch.float64)
        places = torch.tensor(numbers, dtype=torch.int64)
        draws = uniform(config.seed, Stream.CLASS, places >> 32, places & 0xFFFFFFFF, 1)[:, 0].double()
        bounds = (counts / counts.sum()).cumsum(0)
        return [min(int(index), len(counts) - 1) for index in torch.searchsorted(bounds, draws, right=True)]

    def class_index(self, name: str) -> int:
        """A class by its name, or by its number. UsageError with the nearest one otherwise."""
        if name in self.labels:
            return self.labels.index(name)
        count = self.gpt.config.num_classes
        if name.isdecimal() and int(name) < count:
            return int(name)
        if self.labels:
            raise UsageError(f"class {name!r} is unknown; {one_of(self.labels, name)}")
        raise UsageError(f"class {name!r} is unknown; this prior has classes 0 to {count - 1}")

    def label(self, index: int) -> str:
        """The name of a class, or its number where it has none."""
        return self.labels[index] if index < len(self.labels) else str(index)


def sample_to(
    pipeline: Pipeline,
    config: SampleConfig,
    out: Path,
    *,
    asked: Asked | None = None,
    first: int = 0,
    numbers: Sequence[int] | None = None,
    tokens: Path | None = None,
    ckpt: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_decode: Callable[[int, int], None] | None = None,
) -> Iterator[Sampled]:
    """Draw samples `first` to `first + n - 1`, or `numbers`, into the folder `out`, yielding each once it is written.

    Each is `NNNNNN.png` with its settings in the text chunk `taming`; `grid.png` shows up to 100 of them; `tokens`
    receives the codes. `asked` is what `Pipeline.ask` made of condition maps. Pictures that are there with the very
    same settings are kept, so a killed job goes on where it stopped. Raises UsageError where another picture is in the
    way, Interrupted after a signal.
    """
    numbers = range(first, first + config.n) if numbers is None else numbers
    asked = asked or pipeline.ask(config)
    classes = pipeline.classes(config, numbers)
    settings = {
        number: settings_of(pipeline, config, asked, number, index)
        for number, index in zip(numbers, classes, strict=True)
    }
    targets = {number: out / f"{number:06d}.png" for number in numbers}
    for number, target in targets.items():
        if target.exists() and png_settings(target) != settings[number]:
            raise UsageError(f"{target} exists and was made with other settings; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    cells, step = asked.latent.width * asked.latent.height, pipeline.at_once(asked.latent, CHUNK)
    with ExitStack() as stack:
        job = stack.enter_context(_job(pipeline, config, asked, tokens, ckpt, numbers)) if tokens else None
        pending = {part.start: part for part in job.pending()} if job is not None else {}
        stop = stack.enter_context(StopRequest())
        for start in range(0, len(numbers), step):
            chunk = numbers[start : start + step]
            if start in pending or not all(targets[number].exists() for number in chunk):
                done = start * cells

                def told(now: int, total: int, done: int = done, chunk: Sequence[int] = chunk) -> None:
                    if on_progress is not None:
                        on_progress(done + now * len(chunk) * cells // max(1, total), len(numbers) * cells)

                drawn = pipeline.sample(config, asked=asked, numbers=chunk, on_progress=told, on_decode=on_decode)
                for number, image in zip(chunk, drawn.images, strict=True):
                    write_png(targets[number], image, {SETTINGS: settings[number]})
                if job is not None and start in pending:
                    names = [targets[number].name for number in chunk]
                    codes = drawn.codes[:, None].numpy()
                    job.write(pending[start], codes=codes, names=names, labels=drawn.classes, conditions={}, skipped=[])
            for number, index in zip(chunk, classes[start : start + step], strict=True):
                label = None if index is None else pipeline.label(index)
                name = asked.names[number % len(asked.names)] if asked.names else None
                yield Sampled(path=targets[number], sample=number, label=label, map=name)
            if stop.requested and chunk[-1] != numbers[-1]:
                raise stop.interrupted(f"stopped; {start + len(chunk)} pictures are in {out}: run the same again")
        if job is not None:
            job.finish()
    if shown := numbers[: pipeline.at_once(asked.latent, GRID_MOST)]:
        _write_grid(out, [targets[number] for number in shown])


def write_npz(path: Path, pictures: Sequence[Path], classes: Sequence[int | None], made: str) -> None:
    """Put samples that are on disk into one .npz, as the ADM suite reads them: all pictures, and the classes if there
    are any. The file appears whole, and says what it was `made` of."""
    known = None if None in classes else [index for index in classes if index is not None]
    rows = (read_image(each.read_bytes(), str(each)).permute(1, 2, 0).numpy() for each in pictures)
    write_atomically(path, lambda temporary: write_pictures(temporary, rows, len(pictures), known, made=made))


def plan_of(pipeline: Pipeline, config: SampleConfig, asked: Asked, numbers: Sequence[int]) -> dict[str, Any]:
    """All that decides what these samples together look like: the same plan, the same pictures."""
    plan: dict[str, Any] = {
        "config": {**to_dict(config), "batch_size": None},
        "prior": pipeline.sha256,
        "precision": precision_name(pipeline.precision),
        "numbers": hashlib.sha256(repr(list(numbers)).encode()).hexdigest(),
    }
    if hashes := asked.hashes(numbers):
        plan["asked"] = hashes
    return plan


def _job(
    pipeline: Pipeline, config: SampleConfig, asked: Asked, tokens: Path, ckpt: Path | None, numbers: Sequence[int]
) -> TokenJob:
    header = TokenHeader(
        codec_sha256=pipeline.codec.sha256(),
        codec_path=str(ckpt.resolve()) if ckpt else "",
        codebook_size=pipeline.codec.config.codebook_size,
        downsample_factor=pipeline.codec.config.downsample_factor,
        preprocess={"sampled": True},
        created_by=f"taming {taming_cli.__version__}",
        views=1,
        height=asked.latent.height,
        width=asked.latent.width,
    )
    plan = plan_of(pipeline, config, asked, numbers)
    return TokenJob(
        tokens, header=header, plan=plan, total=len(numbers), shard_size=pipeline.at_once(asked.latent, CHUNK)
    )


def settings_of(pipeline: Pipeline, config: SampleConfig, asked: Asked, number: int, index: int | None) -> str:
    """What a picture's text chunk says: all that it depends on, as JSON."""
    values = to_dict(config)
    for name in ("n", "batch_size", "class_name", "size"):
        values.pop(name)
    if hashes := asked.hashes([number]):
        values["asked"] = hashes
    return json.dumps(
        {
            "prior_sha256": pipeline.sha256,
            "sample": number,
            "class": None if index is None else pipeline.label(index),
            "grid": str(asked.latent),
            "precision": precision_name(pipeline.precision),
            **values,
            "stride": pipeline.stride(config),
        },
        sort_keys=True,
    )


def _write_grid(out: Path, paths: Sequence[Path]) -> None:
    images = torch.stack([read_image(path.read_bytes(), path.name) for path in paths])
    columns = max(1, round((len(paths) * images.shape[2] / images.shape[3]) ** 0.5))
    write_png(out / "grid.png", grid(images, columns=columns), {SETTINGS: SHEET})


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
