"""A prior's model file, loaded for sampling: its networks on a device, and the facts that the file records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from taming_cli.codec.condition import ConditionEncoder, MapCodec, encoders
from taming_cli.codec.reconstruct import codes_of
from taming_cli.codec.tiling import tiles
from taming_cli.codec.vqgan import VQGAN, codec_from, ready
from taming_cli.config.fields import one_of
from taming_cli.config.prior import PriorConfig
from taming_cli.config.resolve import Layer
from taming_cli.config.size import Size
from taming_cli.data.contents import Pictures
from taming_cli.errors import UsageError
from taming_cli.prior.model import SUGGESTED, Network, prior_from
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.networks.onednn import pack
from taming_cli.prior.raster.buffers import BufferCache
from taming_cli.runtime.checkpoint import load_model, read_header
from taming_cli.runtime.device import autocast, pick_device, pick_precision
from taming_cli.runtime.memory import USUAL, Room, room
from taming_cli.runtime.model_files import BUILTIN, named
from taming_cli.runtime.weights import sha256

WIDE = 1024
"""Smallest width of a prior, in channels, at which bf16 is the default, on devices that support it. A step of a wide
prior is bound by reading weights, which take half the bytes in bf16. Narrow priors gain nothing, and in fp32 draw the
same pictures on every machine."""
OnProgress = Callable[[int, int], None]
"""A callback that receives (done, total)."""
WITH_MAPS = "sampling_with_maps"
"""The key of a model file's suggested settings that differ with condition maps."""


@dataclass(frozen=True)
class LoadedModel:
    """A prior, its codec, the encoders of its conditions, and the facts of the model file, `about`."""

    gpt: Network
    codec: VQGAN
    encoders: Mapping[str, ConditionEncoder]
    about: dict[str, Any]
    path: Path
    sha256: str
    device: torch.device
    precision: torch.dtype
    labels: tuple[str, ...] = field(default=())
    tuned: str = ""
    """The sha256 of the file whose codec replaces the prior's own."""
    buffers: BufferCache = field(default_factory=BufferCache)
    space: Room = USUAL
    """Memory for coding pictures."""
    above: "LoadedModel | None" = None
    """Of a prior of the bottom level of codes, the one that draws the top level."""

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        codec: str | Path | None = None,
        above: str | Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        memory: float | None = None,
    ) -> Self:
        """Load a prior's model file onto `device`; without a path, or with `builtin`, the model of the package.

        `codec` is a file whose codec decodes the pictures in place of the prior's own; only its decoder may differ
        (`train-vqgan --train decoder`). `memory` is GiB for coding a picture, by default half of the memory that is
        free now for decoding; a picture that fits is decoded exactly. A prior of the bottom one of two levels of codes
        needs one of the top level, `above`. `precision` is `fp32`, `bf16`, `fp16`, or `auto`:
        bf16 for a prior of 1024 channels or more on a device that supports it, else fp32. Raises BadFileError if the
        file is not a prior's, UsageError for a codec with other codes.
        """
        path = named(Path(BUILTIN if path is None else path))
        codec = None if codec is None else named(Path(codec))
        where = pick_device(device)
        space = room(where, memory)
        model = load_model(path, "taming-prior")
        gpt, own = prior_from(model, str(path)), codec_from(model, str(path))
        maps = encoders(model, own, str(path))
        above = None if above is None else named(Path(above))
        _check_levels(gpt.config, path, own, above)
        upper = None if above is None else cls.load(above, device=device, precision=precision, memory=memory)
        if precision == "auto" and gpt.config.n_embd < WIDE:
            precision = "fp32"
        dtype = pick_precision(precision, where)
        used = own if codec is None else _with_same_codes(codec, own, path)
        return cls(
            gpt=pack(gpt.to(where, dtype)),
            codec=ready(used, where, dtype, encoder=False),
            encoders={
                kind: each.to(where, space.encode) if isinstance(each, MapCodec) else each
                for kind, each in maps.items()
            },
            about=dict(model.about),
            path=path,
            sha256=sha256(path),
            device=where,
            precision=dtype,
            labels=tuple(model.about.get("label_names", ())),
            tuned="" if codec is None else sha256(codec),
            space=space,
            above=upper,
        )

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Pictures uint8 (n, 3, H, W) in [0, 255], sRGB, of any size -> codes int64 (n, ceil(H/f), ceil(W/f)) on the
        CPU, in fp32 and bounded memory. Sides that f does not divide are extended by repeating the edge."""
        return torch.cat([codes_of(self.codec, image[None], Pictures(), self.space.encode).cpu() for image in images])

    @torch.inference_mode()
    def decode(self, codes: Tensor, batch_size: int = 16, on_progress: OnProgress | None = None) -> Tensor:
        """Codes (n, h, w) of any size -> pictures uint8 (n, 3, f h, f w) on the CPU, in bounded memory.

        `on_progress` receives (cells decoded, cells in total).
        """
        with autocast(self.device, self.precision):
            return tiles.pictures(
                self.codec,
                codes.to(self.device),
                batch_size=batch_size,
                budget=self.space.decode,
                on_progress=on_progress,
            )

    @property
    def any_order(self) -> bool:
        """Whether the prior draws groups of cells, in any order."""
        return isinstance(self.gpt, AnyOrder)

    @property
    def own_settings(self) -> tuple[str, ...]:
        """The names of the settings that only this kind of prior has."""
        return ("sample_steps",) if self.any_order else ("stride", "speculate") if isinstance(self.gpt, GPT) else ()

    def exact(self, grid: Size) -> bool:
        """Whether pictures on this grid are decoded as a whole, with exact statistics, in the memory available."""
        return tiles.exact(self.codec, grid.height, grid.width, self.space.decode)

    def at_once(self, grid: Size, most: int) -> int:
        """The number of pictures on this grid to hold at once, 1 to `most`."""
        return tiles.at_once(self.codec, grid.height, grid.width, most)

    def suggested(self, maps: bool) -> Layer:
        """The sampling settings that the model file suggests, with or without condition maps."""
        return Layer("the model file", self.about.get(SUGGESTED, {}) | (self.about.get(WITH_MAPS, {}) if maps else {}))

    @property
    def trained_grid(self) -> Size:
        """The grid of the training pictures, in cells."""
        return Size.parse(self.about["grid"]) if "grid" in self.about else self.gpt.config.window

    @property
    def map_kinds(self) -> tuple[str, ...]:
        """The conditions that take a map."""
        return tuple(kind for kind, encoder in self.encoders.items() if encoder.reads is not None)

    def class_index(self, name: str) -> int:
        """The index of a class, given by its name, by `#` and its index from 0, or, where classes have no names, by the
        index alone.

        Folders may be named by numbers, so a number is never an index where classes have names. Raises UsageError with
        the nearest name for an unknown class, and for a prior without classes.
        """
        count, number = self.gpt.config.num_classes, name.removeprefix("#")
        if not count:
            raise UsageError(f"class {name!r}: this prior was trained without classes; leave it out")
        if name in self.labels:
            return self.labels.index(name)
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
        """The name of a class, or its index if it has no name."""
        return self.labels[index] if index < len(self.labels) else str(index)


def _check_levels(prior: PriorConfig, path: Path, codec: VQGAN, above: Path | None) -> None:
    """UsageError unless a prior of the bottom level, and no other, has one of the top level of the same codec."""
    if prior.level != "bottom":
        if above is not None:
            raise UsageError(f"{path} does not draw the bottom one of two levels of codes; leave --above out")
        return
    if above is None:
        raise UsageError(f"{path} draws the bottom level of codes; name a prior of the top level: --above FILE")
    header = read_header(above)
    if header.config.get("prior", {}).get("level") != "top":
        raise UsageError(f"{above} does not draw the top level of codes; name one that does with --above")
    if header.about.get("codec_sha256") != codec.sha256():
        raise UsageError(f"{above} was trained on another codec than {path}; name one of the same codec")


def _with_same_codes(file: Path, own: VQGAN, prior: Path) -> VQGAN:
    codec = codec_from(load_model(file), str(file))
    if codec.sha256() != own.sha256():
        raise UsageError(
            f"{file} has other codes than the codec that {prior} was trained on; only the decoder may differ, as after "
            "train-vqgan --train decoder"
        )
    return codec
