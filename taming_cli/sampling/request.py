"""A sampling request: everything that determines the samples and their files, resolved and checked once."""

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taming_cli.codec.reconstruct import DECODING, decoding
from taming_cli.config.fields import to_dict
from taming_cli.config.levels import SCALE
from taming_cli.config.parsing import parse_json
from taming_cli.config.resolve import Layer, Resolved, resolve, suggest
from taming_cli.config.sampling import SampleConfig
from taming_cli.config.shard import Shard
from taming_cli.config.size import Frame, Size
from taming_cli.data.images import png_settings
from taming_cli.errors import UsageError
from taming_cli.prior.estimate import SamplingCost, sampling_cost
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.networks.pixelsnail import PixelSNAIL
from taming_cli.prior.noise import Stream, uniform
from taming_cli.prior.raster.code_grid import check_plan
from taming_cli.prior.raster.generate import check_constant
from taming_cli.prior.raster.windows import widest_stride
from taming_cli.runtime.device import precision_name
from taming_cli.sampling.conditions import EncodedMaps, Maps, encode_maps, map_paths
from taming_cli.sampling.inpainting import KnownPicture, read_known, read_sample
from taming_cli.sampling.model import LoadedModel

WHOLE = Shard()
OF_KINDS = ("stride", "speculate", "sample_steps")
"""Settings that only some kinds of prior have."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What to draw from `model`, and the files to write. Built by `resolve_request`."""

    model: LoadedModel
    config: SampleConfig
    """The settings; the model file's suggestions have replaced defaults."""
    maps: EncodedMaps
    """Condition codes, none where the prior takes none, and the frame of the pictures."""
    known: KnownPicture | None
    """The known part of a picture to complete."""
    stride: int
    """Columns that share a window."""
    numbers: range
    """The numbers of the samples to draw; with `accept_rate` below 1, those of all candidates."""
    classes: Sequence[int | None]
    """The class of each of `numbers`."""
    shard: Shard = WHOLE
    """The part of the samples to draw."""
    folder: Path | None = None
    """Where the PNGs are written; None is the next folder of `runs/sample`."""
    tokens: Path | None = None
    npz: Path | None = None
    class_map: Path | None = None
    """JSON from the prior's classes to those of the classifier that scores candidates."""
    weights: Path | None = None
    offline: bool = False

    @property
    def frame(self) -> Frame:
        """The pictures on their grid of cells."""
        return self.maps.frame

    @property
    def grid(self) -> Size:
        """The size of the grid, in cells."""
        return self.frame.grid

    @property
    def samples(self) -> range:
        """The numbers of the samples to write, if every drawn sample is accepted."""
        return self.numbers[: self.config.n]

    @property
    def repeats(self) -> bool:
        """Whether pictures will repeat themselves: they are larger than those the prior learned as a whole, and no
        condition map determines the layout."""
        model, learned, prior = self.model, self.model.trained_grid, self.model.gpt.config
        whole = learned.width * learned.height <= prior.cells if model.any_order else learned == prior.window
        larger = self.grid.width > learned.width or self.grid.height > learned.height
        return larger and whole and not model.encoders

    def class_of(self, number: int) -> int | None:
        """The class of a sample."""
        return self.classes[number - self.numbers.start]

    def label_of(self, number: int) -> str | None:
        """The name of a sample's class."""
        index = self.class_of(number)
        return None if index is None else self.model.label(index)

    def conditions(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """The condition codes of these samples by kind, class included, as `generate` takes them."""
        conditions = self.maps.of(numbers)
        if self.model.gpt.config.num_classes:
            classes = [self.class_of(number) for number in numbers]
            indices = [-1 if index is None else index for index in classes]
            conditions["class"] = torch.tensor(indices, dtype=torch.int64)[:, None]
        return conditions

    def hashes(self, numbers: Sequence[int]) -> dict[str, str]:
        """Hashes of the maps and of the known picture of these samples; empty without any."""
        inputs: dict[str, tuple[Tensor, ...]] = {kind: (codes,) for kind, codes in self.maps.of(numbers).items()}
        if self.known is not None:
            inputs["known"] = tuple(self.known.cells)
            inputs["pixels"] = (self.known.pixels, self.known.mask)
        return {
            name: hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()[:16]
            for name, tensors in inputs.items()
        }

    def settings_of(self, number: int, label: str | None) -> str:
        """Everything that a sample depends on, as JSON: the text chunk of its PNG."""
        values = self.settings
        for name in ("n", "class_name", "size"):
            values.pop(name)
        if hashes := self.hashes([number]):
            values["asked"] = hashes
        if self.model.tuned:
            values["codec_file_sha256"] = self.model.tuned
        if self.model.above is not None:
            values["above_sha256"] = self.model.above.sha256
        return json.dumps(
            {
                "prior_sha256": self.model.sha256,
                "sample": number,
                "class": label,
                "size": str(self.frame.size),
                "grid": str(self.grid),
                "precision": precision_name(self.model.precision),
                DECODING: decoding(self.model.exact(self.grid)),
                **values,
                **({"stride": self.stride} if "stride" in self.model.own_settings else self.cost._asdict()),
            },
            sort_keys=True,
        )

    @cached_property
    def cost(self) -> SamplingCost:
        """The cost of one picture; with a raster prior, that of a whole one also where a picture is completed."""
        steps, guided = self.config.sample_steps, self.config.guided
        known = None if self.known is None else self.known.cells.mask.numpy()
        return sampling_cost(self.model.gpt.config, self.grid, self.stride, steps, known, guided=guided)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that pictures of this prior depend on, up to rounding: a raster prior has a stride and
        speculates, one for any order has steps, a PixelSNAIL none of them."""
        values = to_dict(self.config)
        for name in ("batch_size", *OF_KINDS):
            if name not in self.model.own_settings:
                values.pop(name)
        return values

    @property
    def shared_settings(self) -> str:
        """The settings that all samples share, as JSON: those of processes that may write into one folder at once."""
        values = json.loads(self.settings_of(self.numbers.start, self.config.class_name))
        del values["sample"]
        return json.dumps({**values, "asked": self.hashes(range(max(1, len(self.maps.names))))})

    def plan(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Everything that these samples together depend on: an equal plan gives equal pictures."""
        plan: dict[str, Any] = {
            "config": {**self.settings, "batch_size": None},
            "prior": self.model.sha256,
            "precision": precision_name(self.model.precision),
            DECODING: decoding(self.model.exact(self.grid)),
            "numbers": hashlib.sha256(repr(list(numbers)).encode()).hexdigest(),
        }
        if hashes := self.hashes(numbers):
            plan["asked"] = hashes
        if self.model.tuned:
            plan["codec"] = self.model.tuned
        if self.model.above is not None:
            plan["above"] = self.model.above.sha256
        return plan


def resolve_request(
    model: LoadedModel,
    settings: Mapping[str, Any] | Resolved,
    *,
    cond: Maps | None = None,
    complete: str | Path | None = None,
    mask: str | Path | None = None,
    redraw: str | Path | None = None,
    at: tuple[int, int] | None = None,
    first: int = 0,
    shard: Shard = WHOLE,
    folder: Path | None = None,
    tokens: Path | None = None,
    npz: Path | None = None,
    class_map: Path | None = None,
    weights: Path | None = None,
    offline: bool = False,
) -> Request:
    """Resolve and check a request; nothing is drawn or written.

    `settings` are fields of `SampleConfig` by name, or resolved from several origins. The model file's suggestions
    replace defaults. `n` is by default the number of maps, at least 1. `cond` are condition maps, `complete` and `mask`
    a picture to complete (see `inpainting.read_known`); with `redraw`, a mask, it is a sample of this prior, whose
    other codes stay (see `inpainting.read_sample`) and whose class is the default. Samples are numbered from `first`.
    The size is that of `settings`, else of the picture to complete, else of the maps, else of the training pictures.

    Raises UsageError for arguments that do not fit the prior or each other, and for an unknown setting, class or
    condition; BadImageError for a map or picture that cannot be read.
    """
    if not isinstance(settings, Resolved):
        settings = resolve([SampleConfig], [Layer("settings", settings)])
    suggested = model.suggested(bool(cond))
    resolved = suggest(settings, suggested)
    config: SampleConfig = resolved.configs[0]
    used = [f"{name} {vars(config)[name]}" for name, origin in resolved.origins.items() if origin == suggested.origin]
    if used:
        _log.info("set by %s: %s", suggested.origin, ", ".join(used))
    _refuse_other_architectures(model, config, resolved.origins)
    _refuse_levels(model, complete)
    known = None
    if redraw is not None:
        resized = config.size is not None and resolved.origins["size"] in ("flag", "settings")
        if complete is None or mask is not None or at is not None or resized:
            raise UsageError(
                "--redraw is a mask for a sample: name it with --complete, without --mask, --at and --size"
            )
        picture = Path(complete)
        known = read_sample(model.codec, picture, redraw)
        config = _as_drawn(config, resolved.origins, picture)
    elif complete is not None:
        picture = Path(complete)
        known = read_known(model.codec, picture, mask, size=config.size, at=at, budget=model.space.encode)
    elif mask is not None or at is not None:
        raise UsageError("--mask and --at belong to a picture that is completed; name it with --complete")
    maps = _encoded(model, cond, config.size, known)
    stride = config.stride or widest_stride(model.gpt.config.window.width)
    _refuse_other_grids(model, config, maps.frame.grid, stride)
    if resolved.origins["n"] == "default":
        config = replace(config, n=max(1, len(maps.names)))
    if shard.count > 1 and (tokens or npz or config.accept_rate < 1 or folder is None):
        raise UsageError(
            "--shard draws a part of one folder, named with -o; --npz, --tokens and --accept-rate need all samples: "
            "give them to the same command without --shard afterwards"
        )
    numbers = range(first, first + math.ceil(config.n / config.accept_rate))
    classes = _classes(model, config, numbers, bool(maps.names))
    if config.accept_rate < 1:
        if not model.gpt.config.num_classes:
            raise UsageError("accept_rate is below 1, but this prior has no classes to score by; use 1")
        if classes[0] is None:
            raise UsageError("accept_rate is below 1, but with a map no class is drawn to score by; name one: --class")
    return Request(
        model=model,
        config=config,
        maps=maps,
        known=known,
        stride=stride,
        numbers=numbers,
        classes=classes,
        shard=shard,
        folder=folder,
        tokens=tokens,
        npz=npz,
        class_map=class_map,
        weights=weights,
        offline=offline,
    )


def _refuse_levels(model: LoadedModel, complete: str | Path | None) -> None:
    """UsageError for a prior of the top level alone, and for a picture to complete with two levels of codes."""
    if model.gpt.config.level == "top":
        raise UsageError(
            f"{model.path} draws the top level of codes alone; give it with --above to a prior of the bottom level"
        )
    if complete is not None and model.above is not None:
        raise UsageError("--complete needs a codec of one level of codes; this one has two")


def _refuse_other_architectures(model: LoadedModel, config: SampleConfig, origins: Mapping[str, str]) -> None:
    """UsageError where a setting that this kind of prior does not have was given for this request."""
    own = model.own_settings
    order = "in any order" if model.any_order else "in raster order" if own else "cell by cell"
    for name in OF_KINDS:
        if (
            name not in own
            and origins[name] in ("flag", "settings")
            and vars(config)[name] != vars(SampleConfig())[name]
        ):
            remedy = f"use {own[0]} in its place" if own and name != "speculate" else "leave it out"
            raise UsageError(f"{name} is {vars(config)[name]}, but this prior draws {order}: {remedy}")


def _refuse_other_grids(model: LoadedModel, config: SampleConfig, grid: Size, stride: int) -> None:
    """UsageError for a grid, a stride, or a setting that changes on the way, which this kind of prior cannot draw."""
    if model.above is not None:
        if grid.width % SCALE or grid.height % SCALE:
            sides = SCALE * model.codec.config.downsample_factor
            raise UsageError(f"size is {grid.times(model.codec.config.downsample_factor)}; use multiples of {sides}")
        above = replace(model.above, above=None)
        _refuse_other_grids(above, config, Size(grid.width // SCALE, grid.height // SCALE), stride=1)
    if not model.any_order:
        check_constant(config)
    if isinstance(model.gpt, PixelSNAIL) and grid != (own := model.gpt.config.window):
        f = model.about["downsample_factor"]
        raise UsageError(
            f"{model.path} is a PixelSNAIL, which always draws {own.times(f)} pixels ({own} cells), not "
            f"{grid.times(f)}; leave --size out"
        )
    elif isinstance(model.gpt, GPT):
        check_plan(model.gpt.config, (grid.height, grid.width), stride)


def _as_drawn(config: SampleConfig, origins: Mapping[str, str], picture: Path) -> SampleConfig:
    """The settings with which a sample is redrawn: by default with its class, and decoded as a whole."""
    try:
        label = parse_json(png_settings(picture) or "{}")["class"]
    except (KeyError, TypeError, ValueError):
        label = None
    if config.class_name is None and isinstance(label, str):
        config = replace(config, class_name=label)
    return replace(config, keep="codes") if origins["keep"] == "default" else config


def _encoded(model: LoadedModel, cond: Maps | None, size: Size | None, known: KnownPicture | None) -> EncodedMaps:
    """The condition codes on the samples' grid. Raises UsageError where a map is missing that the prior needs."""
    paths = map_paths(model.map_kinds, cond)
    needed = model.gpt.config.vocabulary == "shared" or model.about.get("condition_dropout") == 0
    for kind in model.map_kinds:
        if kind not in paths and needed:
            raise UsageError(f"this prior draws pictures of {kind} maps only; give one: --cond FILE")
    f = model.codec.config.downsample_factor
    frame = known.frame if known is not None else None if size is None else Frame(size, f)
    return encode_maps(model.encoders, paths, f, frame, model.trained_grid)


def _classes(model: LoadedModel, config: SampleConfig, numbers: range, with_maps: bool) -> list[int | None]:
    """The class of each sample: the one requested, else one drawn with its frequency in the training data. With maps, a
    prior that has learned maps without a class draws none, since not every class fits every map."""
    if config.class_name is not None:
        return [model.class_index(config.class_name)] * len(numbers)
    if not model.gpt.config.num_classes or (with_maps and model.about.get("learned_apart")):
        return [None] * len(numbers)
    counts = torch.tensor(model.about.get("label_counts") or [1] * model.gpt.config.num_classes, dtype=torch.float64)
    places = torch.tensor(numbers, dtype=torch.int64)
    draws = uniform(config.seed, Stream.CLASS, places >> 32, places & 0xFFFFFFFF, 1)[:, 0].double()
    bounds = (counts / counts.sum()).cumsum(0)
    return [min(int(index), len(counts) - 1) for index in torch.searchsorted(bounds, draws, right=True)]
