"""A prior and its codec as one thing that makes pictures: the public Python API.

from taming_cli import Pipeline
pipeline = Pipeline.load()                                          # the built-in model, or that of a path
samples = pipeline.sample(n=4, seed=7, class_name="lake")           # samples.images: uint8 (4, 3, H, W)
painted = pipeline.sample(cond="seg.png", size="1280x832")
whole = pipeline.complete("photo.png", "mask.png")
codes = pipeline.encode(samples.images)                             # int64 (4, h, w)
images = pipeline.decode(codes)                                     # uint8 (4, 3, f h, f w)
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taming_cli.codec.condition import ConditionEncoder, MapCodec, encoders
from taming_cli.codec.reconstruct import codes_of
from taming_cli.codec.tiling import tiles
from taming_cli.codec.vqgan import VQGAN, codec_from, ready
from taming_cli.config.fields import one_of
from taming_cli.config.resolve import Layer, resolve
from taming_cli.config.sampling import SampleConfig
from taming_cli.config.size import Frame, Size
from taming_cli.data.contents import Pictures
from taming_cli.errors import UsageError
from taming_cli.prior.buffers import Kept
from taming_cli.prior.candidates import complete
from taming_cli.prior.canvas import check_plan
from taming_cli.prior.generate import Given, generate
from taming_cli.prior.model import prior_from
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.networks.onednn import pack
from taming_cli.prior.noise import Stream, uniform
from taming_cli.prior.windows import widest_stride
from taming_cli.runtime.checkpoint import load_model
from taming_cli.runtime.device import autocast, pick_device, pick_precision
from taming_cli.runtime.memory import USUAL, Room, room
from taming_cli.runtime.model_files import BUILTIN, named
from taming_cli.sampling.conditions import Asked, Maps, ask
from taming_cli.sampling.inpainting import Known, known, restored

WIDE = 1024
"""Channels of a prior from which on bf16 is the default, where a device multiplies it. A step of a wide prior is bound
by reading weights, of which bf16 has half the bytes. Narrow priors gain nothing, and keep drawing the same pictures on
every machine."""
OnProgress = Callable[[int, int], None]
SUGGESTED, WITH_MAPS = "sampling", "sampling_with_maps"
"""What a model file may suggest: settings to draw with where none are given, and those that differ where maps are."""


class Samples(NamedTuple):
    """`images` uint8 (n, 3, H, W), `codes` int64 (n, h, w), both on the CPU; `classes` a name or None for each; and
    whether they were decoded with `exact` statistics, not with estimated ones for want of memory."""

    images: Tensor
    codes: Tensor
    classes: tuple[str | None, ...]
    exact: bool = True


@dataclass(frozen=True)
class Pipeline:
    """A prior, its codec, the encoders of its conditions, and what the model file says of them."""

    gpt: GPT
    codec: VQGAN
    encoders: Mapping[str, ConditionEncoder]
    about: dict[str, Any]
    sha256: str
    device: torch.device
    precision: torch.dtype
    labels: tuple[str, ...] = field(default=())
    tuned: str = ""
    """The sha256 of the file whose codec is used in place of the prior's own."""
    kept: Kept = field(default_factory=Kept)
    space: Room = USUAL
    """Memory for coding pictures."""

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        codec: str | Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        memory: float | None = None,
    ) -> "Pipeline":
        """A prior's model file, ready on `device`; without a path, or as `builtin`, the model that comes with the
        package. `codec` is a file whose codec makes the pictures in place of the prior's own: one with another decoder
        (`train-vqgan --train decoder`). `memory` is GiB for coding a picture, by default half of what is free now for
        decoding: a picture that fits is decoded exactly. `precision` is `fp32`, `bf16`, `fp16`, or `auto`: bf16 for a
        prior of 1024 channels or more where the device multiplies it, else fp32. Raises BadFileError where the file is
        not a prior's, UsageError for a codec of other codes."""
        path = named(Path(BUILTIN if path is None else path))
        codec = None if codec is None else named(Path(codec))
        where = pick_device(device)
        space = room(where, memory)
        model = load_model(path, "taming-prior")
        gpt, own = prior_from(model, str(path)), codec_from(model, str(path))
        found = encoders(model, own, str(path))
        dtype = pick_precision(drawing_precision(precision, gpt.config.n_embd), where)
        used = own if codec is None else _of_same_codes(codec, own, path)
        return cls(
            gpt=pack(gpt.to(where, dtype)),
            codec=ready(used, where, dtype, encoder=False),
            encoders={
                kind: each.to(where, space.encode) if isinstance(each, MapCodec) else each
                for kind, each in found.items()
            },
            about=dict(model.about),
            sha256=_sha256(path),
            device=where,
            precision=dtype,
            labels=tuple(model.about.get("label_names", ())),
            tuned="" if codec is None else _sha256(codec),
            space=space,
        )

    def sample(
        self,
        *,
        cond: str | Path | Mapping[str, str | Path] | None = None,
        on_progress: OnProgress | None = None,
        **settings: Any,
    ) -> Samples:
        """New pictures, `images` uint8 (n, 3, H, W) and `codes` int64 (n, h, w), of the next larger grid where f does
        not divide H or W.

        `cond` is a condition map, or a folder of maps that the samples take in turns; `{kind: path}` where the prior
        takes several kinds. `settings` are those of `SampleConfig`, above all `n`, `seed`, `class_name` and `size`
        ("1280x832", by default the map's or the training's); what is left out is as the model file suggests.
        `on_progress` is told (cells drawn, cells in all). Raises UsageError where they do not fit the prior.
        """
        config = self.settings(bool(cond), **settings)
        return self.draw(config, asked=self.ask(config, self._maps(cond)), on_progress=on_progress)

    def complete(
        self,
        picture: str | Path,
        mask: str | Path | None = None,
        *,
        at: tuple[int, int] | None = None,
        cond: str | Path | Mapping[str, str | Path] | None = None,
        on_progress: OnProgress | None = None,
        **settings: Any,
    ) -> Samples:
        """The picture with what is white in `mask` (of its size, or "upper-half" to keep that) made anew; or, with a
        larger `size`, continued around its place `at` (x, y). Its other pixels stay as they are; with `keep="codes"`
        their codes do, and all is decoded.

        Otherwise as `sample`. Raises BadImageError for files that cannot be read.
        """
        config = self.settings(bool(cond), **settings)
        hole = known(self.codec, Path(picture), mask, size=config.size, at=at, budget=self.space.encode)
        return self.draw(config, asked=self.ask(config, self._maps(cond), hole), on_progress=on_progress)

    def settings(self, maps: bool = False, /, **values: Any) -> SampleConfig:
        """These settings, over those that the model file suggests (for maps, where some are given), over the defaults.
        UsageError for unknown ones."""
        (config,) = resolve([SampleConfig], [Layer("settings", values), self.suggested(maps)]).configs
        assert isinstance(config, SampleConfig)
        return config

    def suggested(self, maps: bool) -> Layer:
        """The settings that the model file suggests, with or without maps."""
        return Layer("the model file", self.about.get(SUGGESTED, {}) | (self.about.get(WITH_MAPS, {}) if maps else {}))

    def draw(
        self,
        config: SampleConfig,
        *,
        asked: Asked | None = None,
        numbers: Sequence[int] | None = None,
        on_progress: OnProgress | None = None,
        on_decode: OnProgress | None = None,
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
        classes = self.classes(config, numbers, asked)
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
        given = None if asked.known is None else Given(asked.known.codes, asked.known.keep)
        if given is not None and config.candidates > 1:
            codes = complete(self.gpt, given, candidates=config.candidates, **draw).codes
        else:
            codes = generate(self.gpt, size=(latent.height, latent.width), given=given, kept=self.kept, **draw)
        names = tuple(None if index is None else self.label(index) for index in classes)
        rows, columns = asked.frame.place
        images = self.decode(codes, config.batch_size, on_decode)[:, :, rows, columns].contiguous()
        if asked.known is not None and config.keep == "pixels":
            images = restored(images, asked.known)
        return Samples(images, codes.cpu(), names, self.exact(latent))

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Pictures uint8 (n, 3, H, W) in [0, 255], sRGB, of any size -> codes int64 (n, ceil(H/f), ceil(W/f)) on the
        CPU, in fp32 and bounded memory. Sides that f does not divide are continued by their edge."""
        return torch.cat([codes_of(self.codec, image[None], Pictures(), self.space.encode).cpu() for image in images])

    @torch.inference_mode()
    def decode(self, codes: Tensor, batch_size: int = 16, on_progress: OnProgress | None = None) -> Tensor:
        """Codes (n, h, w) of any size -> pictures uint8 (n, 3, f h, f w) on the CPU, in bounded memory.

        `on_progress` is told (cells decoded, cells in all).
        """
        with autocast(self.device, self.precision):
            return tiles.pictures(
                self.codec,
                codes.to(self.device),
                batch_size=batch_size,
                budget=self.space.decode,
                on_progress=on_progress,
            )

    def exact(self, latent: Size) -> bool:
        """Whether pictures on this grid fit the memory for decoding: their statistics are then those of the whole."""
        return tiles.exact(self.codec, latent.height, latent.width, self.space.decode)

    def ask(self, config: SampleConfig, maps: Maps = MappingProxyType({}), hole: Known | None = None) -> Asked:
        """The codes of condition maps, on the grid that covers `config.size`: by default the first map's size, and
        that of the training's pictures where there is none. What is known of a `hole` (`codec.hole.known`) stays, and
        decides the size.

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
        f = self.codec.config.downsample_factor
        frame = None if config.size is None else Frame(config.size, f)
        if hole is not None:
            frame = hole.frame
        asked = ask(self.encoders, maps, f, frame, self.learned)._replace(known=hole)
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
        return tiles.at_once(self.codec, latent.height, latent.width, most)

    def classes(self, config: SampleConfig, numbers: Sequence[int], asked: Asked) -> list[int | None]:
        """The class of each sample: the one asked for, else one drawn as often as in the training data; but none beside
        a map, where the prior has learned maps without a class: not every class fits every map."""
        if not self.gpt.config.num_classes:
            if config.class_name is not None:
                raise UsageError(f"class {config.class_name!r}: this prior was trained without classes; leave it out")
            return [None] * len(numbers)
        if config.class_name is not None:
            return [self.class_index(config.class_name)] * len(numbers)
        if asked.names and self.about.get("learned_apart"):
            return [None] * len(numbers)
        counts = torch.tensor(self.about.get("label_counts") or [1] * self.gpt.config.num_classes, dtype=torch.float64)
        places = torch.tensor(numbers, dtype=torch.int64)
        draws = uniform(config.seed, Stream.CLASS, places >> 32, places & 0xFFFFFFFF, 1)[:, 0].double()
        bounds = (counts / counts.sum()).cumsum(0)
        return [min(int(index), len(counts) - 1) for index in torch.searchsorted(bounds, draws, right=True)]

    def class_index(self, name: str) -> int:
        """A class by its name; by `#` and its number, counted from 0; and where it has no name, by the number alone.

        Folders may be named by numbers, so a number is never taken for an index where classes have names. UsageError
        with the nearest name otherwise.
        """
        if name in self.labels:
            return self.labels.index(name)
        count, number = self.gpt.config.num_classes, name.removeprefix("#")
        index = int(number) if number.isdecimal() else count
        if index < count and (name != number or index >= len(self.labels)):
            return index
        if not self.labels:
            raise UsageError(f"class {name!r} is unknown; this prior has classes 0 to {count - 1}")
        if name != number and number.isdecimal():
            raise UsageError(f"class {name!r} is unknown; this prior has classes '#0' to '#{count - 1}'")
        by_number = f"; class number {index} is '#{index}' ({self.labels[index]})" if index < count else ""
        raise UsageError(f"class {name!r} is unknown{by_number}; {one_of(self.labels, name)}")

    def label(self, index: int) -> str:
        """The name of a class, or its number where it has none."""
        return self.labels[index] if index < len(self.labels) else str(index)

    def _maps(self, cond: str | Path | Mapping[str, str | Path] | None) -> dict[str, Path]:
        """Condition maps by kind, where one alone needs none."""
        if cond is None or isinstance(cond, Mapping):
            return {kind: Path(path) for kind, path in (cond or {}).items()}
        if len(self.kinds) != 1:
            has = f"kinds of map: give {{kind: path}} with {', '.join(self.kinds)}" if self.kinds else "no map"
            raise UsageError(f"this prior takes {has}")
        return {self.kinds[0]: Path(cond)}


def drawing_precision(name: str, width: int) -> str:
    """`auto` for a prior of so many channels: as the device has it where the prior is wide, else fp32, which draws the
    same picture on every device. Any other name is itself."""
    return "fp32" if name == "auto" and width < WIDE else name


def _of_same_codes(file: Path, own: VQGAN, prior: Path) -> VQGAN:
    codec = codec_from(load_model(file), str(file))
    if codec.sha256() != own.sha256():
        raise UsageError(
            f"{file} has other codes than the codec that {prior} was trained on; only the decoder may differ, as after "
            "train-vqgan --train decoder"
        )
    return codec


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
