"""The setup of a codec's training, resolved and checked before anything is written: pictures or maps, how they are
read, settings, and the codec with its initial weights."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from taming_cli.codec.estimate import check_memory
from taming_cli.codec.initial import suit
from taming_cli.codec.locate import content_in
from taming_cli.codec.palette import first_colours, palette_pixels
from taming_cli.codec.vqgan import VQGAN, codec_from
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.fields import from_dict, to_dict
from taming_cli.data.conditions.counts import Counted, count_labels
from taming_cli.data.conditions.depth import WHOLE
from taming_cli.data.conditions.labels import read_colours
from taming_cli.data.conditions.pairs import each_picture, with_pictures
from taming_cli.data.contents import Content, Depth, Segmentation, content
from taming_cli.data.pixels import Pixels
from taming_cli.data.sources import Item, list_items
from taming_cli.data.split import Split, content_keys, digest, split
from taming_cli.errors import BadImageError, UsageError
from taming_cli.runtime.checkpoint import load_model, read_header
from taming_cli.runtime.device import pick_device
from taming_cli.runtime.model_files import recorded
from taming_cli.runtime.run import lists
from taming_cli.runtime.run.data import Data, Fingerprints, content_hashes, name_hashes
from taming_cli.runtime.run.folder import absolute, read_settings
from taming_cli.runtime.weights import sha256

_log = logging.getLogger(__name__)
_GRIDS = ("fsq", "lfq")
_FSQ_LEVELS = ((8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5), (8, 8, 8, 6, 5), (8, 8, 8, 5, 5, 5))
"""For about 2^8, 2^10, 2^12, 2^14 and 2^16 codes (Mentzer et al. 2023, table 1)."""
_LISTED_BY = ("kind", "held", "val_images")
"""Settings that decide which pictures are listed, and how the model file counts them."""


class Setup(NamedTuple):
    """The pictures, split into training and held-out ones, and the settings with all that follows from the pictures.

    `labels` are those of segmentation maps. `keys` are the pictures' content keys by name; empty where `val` names the
    held-out pictures, so that no file had to be read. `pixels` are those that a palette is found for.
    """

    pictures: Split
    codec: CodecConfig
    train: CodecTrainConfig
    content: Content
    labels: Counted | None
    keys: Mapping[str, int | None]
    pixels: Pixels | None


def set_up(
    images: Sequence[Path],
    codec: CodecConfig,
    discriminator: DiscriminatorConfig,
    train: CodecTrainConfig,
    *,
    run: Path | None = None,
    processes: int = 1,
) -> Setup:
    """Resolve the settings of a training on `images`. `run` is the folder of a run that is resumed; `processes` share
    each batch. Logs which labels occur in segmentation maps.

    Raises UsageError for settings or inputs that do not fit, and for more labels than fit into memory.
    """
    train = replace(train, val=absolute(train.val), init=recorded(train.init), colours=absolute(train.colours))
    train = replace(train, pictures=absolute(train.pictures), perturb_prior=recorded(train.perturb_prior))
    codec, train = _with_grid(codec, train)
    _check_size(codec, discriminator, train)
    _check_network(codec, train)
    _check_quantizer(codec, train)
    _check_perturb(codec, train, run)
    _check_start(codec, train)
    pictures, keys = _split(images, train, run)
    files = _content(train, run)
    labels = None
    if isinstance(files, Segmentation):
        known = train.labels or (codec.in_channels if train.init else 0)
        labels = count_labels(
            [*pictures.train, *pictures.held],
            labels=known,
            unlabelled=files.unlabelled,
            colours=files.colours,
            values=files.values,
        )
        files = replace(files, labels=labels.labels)
        train = replace(train, labels=labels.labels)
    codec = replace(codec, in_channels=files.channels, out_ch=files.channels)
    if labels is not None:
        device = pick_device(train.device)
        own = -(-train.batch_size // processes) if device.type == "cuda" else train.batch_size  # each has its own GPU
        check_memory(codec, discriminator, replace(train, batch_size=own), str(labels), device)
        for line in (str(labels), *(f"warning: {warning}" for warning in labels.warnings)):
            _log.warning("%s", line)
    pixels = palette_pixels(pictures.train, codec, train) if codec.network == "palette" else None
    return Setup(pictures, codec, train, files, labels, keys, pixels)


def identity(images: Sequence[Path], discriminator: DiscriminatorConfig, setup: Setup) -> dict[str, Any]:
    """The settings and the data by which a run is recognised, as keyword arguments of `inspect_run` and `open_run`."""
    inputs = lists.recorded(images)
    groups = {"codec": setup.codec, "discriminator": discriminator, "train": setup.train}
    return {"groups": groups, "inputs": inputs, "data": cache(lambda: _data_of(setup, inputs))}


def picture_counts(pictures: Split, train: CodecTrainConfig) -> dict[str, object]:
    """The record of the pictures in the model file: their numbers, and digests of their listings."""
    return {
        "train": len(pictures.train),
        "held": len(pictures.held),
        "sha256": digest(pictures.train),
        "held_sha256": digest(pictures.held[: train.val_images]),
    }


def held_out(run: Path) -> tuple[Item, ...]:
    """The held-out pictures of the codec in a run folder, of those that still exist."""
    settings = read_settings(run)
    train = from_dict(CodecTrainConfig, settings["config"]["train"], str(run / "config.json"))
    return _split(lists.inputs_of(run, settings["inputs"]), train, run)[0].held


def first_codec(setup: Setup) -> VQGAN:
    """A new codec, or the one that `init` names. UsageError where that one has another architecture than the settings
    say."""
    config, train = setup.codec, setup.train
    if train.init is None:
        if train.train == "decoder":
            raise UsageError("--train decoder trains the decoder of a finished codec; name it with --init FILE")
        codec = VQGAN(config)
        suit(codec, setup.content)
        if train.quantizer == "simvq":
            nn.init.normal_(codec.entries(), std=config.codebook_dim**-0.5)
        if setup.pixels is not None:
            codec.entries().data.copy_(first_colours(setup.pixels, config.codebook_size, train.seed))
        return codec
    model = load_model(Path(train.init))
    codec = codec_from(model, train.init)
    for name, value in vars(codec.config).items():
        if getattr(config, name) != value:
            raise UsageError(f"{train.init} has {name} {value}, not {getattr(config, name)}; leave that setting out")
    return codec


def _check_size(codec: CodecConfig, discriminator: DiscriminatorConfig, train: CodecTrainConfig) -> None:
    """UsageError for a size that is not a multiple of f, or that leaves the discriminator no patch."""
    codec.latent(train.size)
    least = discriminator.smallest_side
    if train.disc_weight and min(train.size.width, train.size.height) < least:
        raise UsageError(
            f"size {train.size} is below the {least} pixels a side that disc_num_layers "
            f"{discriminator.disc_num_layers} needs; use fewer layers, or --disc-weight 0"
        )


def _check_network(codec: CodecConfig, train: CodecTrainConfig) -> None:
    """UsageError for kinds, parts and losses that a network does not have."""
    network = codec.network
    if network == "vq-vae-2" and train.kind != "image":
        raise UsageError(f"network is 'vq-vae-2', which is for pictures; use 'vqgan' for maps of kind {train.kind!r}")
    if network in ("vqgan", "vq-vae-2"):
        return
    if network == "dvae" and train.kind == "segmentation":
        raise UsageError("network is 'dvae', which has no labels as pixels; use 'vqgan' for segmentation maps")
    if network == "palette" and (train.kind != "image" or train.train == "decoder"):
        other = f"kind is {train.kind!r}" if train.kind != "image" else "train is 'decoder'"
        raise UsageError(f"{other}, but network is 'palette', which has only the colours of pictures; use 'vqgan'")
    if train.perceptual != "none" or train.disc_weight:
        raise UsageError(
            f"network is {network!r}, which has neither a perceptual loss nor a discriminator; use --perceptual none "
            f"and --disc-weight 0, or --preset {network}"
        )


def _with_grid(codec: CodecConfig, train: CodecTrainConfig) -> tuple[CodecConfig, CodecTrainConfig]:
    """The settings of a fixed grid of codes: the architecture says what the training says, or the other way round."""
    if codec.codebook == "fsq" or codec.codebook == "lfq":  # noqa: PLR1714 - of the codec to start from
        return codec, replace(train, quantizer=codec.codebook)
    if train.quantizer == "fsq":
        levels = codec.fsq_levels or min(
            _FSQ_LEVELS, key=lambda each: abs(math.log(math.prod(each) / codec.codebook_size))
        )
        grid: dict[str, Any] = {"fsq_levels": levels, "codebook_size": math.prod(levels), "codebook_dim": len(levels)}
    elif train.quantizer == "lfq":
        grid = {"codebook_dim": codec.codebook_size.bit_length() - 1}
        if codec.codebook_size != 2 ** grid["codebook_dim"]:
            raise UsageError(f"codebook_size is {codec.codebook_size}; with quantizer 'lfq', it must be a power of two")
    else:
        return codec, train
    if codec.codebook != "nearest" or codec.network != "vqgan":
        given = f"network is {codec.network!r} with codebook {codec.codebook!r}"
        raise UsageError(f"{given}; quantizer {train.quantizer!r} is for 'vqgan' without --codebook")
    return replace(codec, codebook=train.quantizer, **grid), train


def _check_quantizer(codec: CodecConfig, train: CodecTrainConfig) -> None:
    """UsageError for a quantizer or gradient that a network does not have."""
    plain = codec.network == "vqgan" and codec.codebook in ("nearest", *_GRIDS)
    if not plain and (train.quantizer not in ("ema", "vq") or train.gradient != "straight-through"):
        raise UsageError(
            f"network is {codec.network!r} with codebook {codec.codebook!r}; quantizer {train.quantizer!r} with "
            f"gradient {train.gradient!r} is for 'vqgan' with 'nearest'"
        )


def _check_perturb(codec: CodecConfig, train: CodecTrainConfig, run: Path | None) -> None:
    """UsageError for perturbed codes of two levels, and for a prior of another codec."""
    if train.perturb and codec.levels > 1:
        raise UsageError(
            f"perturb is {train.perturb:g}, but network is {codec.network!r}, with two levels of codes; leave it out"
        )
    if train.perturb_prior is None or train.init is None:
        return
    own, other = (read_header(path).about for path in (_started_from(train, run), Path(train.perturb_prior)))
    if other.get("codec_sha256") != own.get("codec_sha256"):
        raise UsageError(
            f"perturb_prior is {train.perturb_prior}, a prior of another codec than {train.init}; give one of the same "
            "codec (taming info FILE prints codec_sha256)"
        )


def _check_start(codec: CodecConfig, train: CodecTrainConfig) -> None:
    """UsageError where no vectors are quantised, or no codebook is placed on them when quantisation starts."""
    if not train.quantize_start:
        return
    if train.init is not None:
        why = "a codec from --init has a codebook already; leave quantize_start out"
    elif train.quantizer in ("vq", "ibq") and not train.revive:
        why = "revive is 0, so that no codebook is placed on vectors; use --revive 0.1"
    elif codec.network != "vqgan" or codec.codebook == "gumbel":
        given = f"network is {codec.network!r} with codebook {codec.codebook!r}"
        why = f"{given}; it is for 'vqgan' with other codebooks than 'gumbel'"
    else:
        return
    raise UsageError(f"quantize_start is {train.quantize_start:g}, but {why}")


def _split(images: Sequence[Path], train: CodecTrainConfig, run: Path | None) -> tuple[Split, Mapping[str, int | None]]:
    """Training and held-out pictures, and the content keys by name where the split follows from them."""
    listed = _listed(images, train)
    if (val := lists.val_of(run, train.val)) is not None:
        return Split(listed, _listed([Path(val)], train)), {}
    keys = content_keys(listed)
    sides = split(listed, held_fraction=train.held, keys=keys)
    return sides, {item.name: key for item, key in zip(listed, keys, strict=True)}


def _listed(paths: Sequence[Path], train: CodecTrainConfig) -> tuple[Item, ...]:
    listing = list_items(paths, extensions=content(train.kind).extensions)
    companions = [end for end in listing.others if end.count(".") > 1]
    if companions and train.kind in ("segmentation", "depth", "pose"):
        raise UsageError(
            f"{paths[0]}: the maps ({companions[0]}) lie beside their pictures, which would be read as maps; put the "
            "maps into a folder of their own"
        )
    items = each_picture(listing.items)
    return items if train.pictures is None else with_pictures(items, Path(train.pictures), paths[0])


def _content(train: CodecTrainConfig, run: Path | None) -> Content:
    """How the files of a training are read.

    Settings that are not given are taken from the codec that the training starts from. For a resumed run that is its
    last model, so that the file of `train.init` need not exist any more. UsageError for a codec of another kind.
    """
    requested = content(
        train.kind,
        labels=train.labels,
        unlabelled=train.unlabelled,
        colours=read_colours(Path(train.colours)) if train.colours else None,
        label_values=train.label_values,
        missing=train.missing,
        depth_range=train.depth_range,
    )
    start = _started_from(train, run)
    if train.init is None or (run is not None and not start.exists()):
        return requested
    before = content_in(read_header(start))
    if before.kind != train.kind:
        raise UsageError(
            f"{train.init} is a codec of kind {before.kind!r}, not {train.kind!r}; use --kind {before.kind}"
        )
    return _completed(requested, before)


def _started_from(train: CodecTrainConfig, run: Path | None) -> Path:
    """The last model of a resumed run, where there is one, else the file of `train.init`."""
    last = None if run is None else run / "checkpoints" / "last.safetensors"
    return last if last is not None and last.exists() else Path(train.init or "")


def _completed(requested: Content, before: Content) -> Content:
    """The requested content; settings that were not given are those of the codec `before`."""
    if isinstance(requested, Segmentation) and isinstance(before, Segmentation):
        given = requested.unlabelled or requested.colours is not None or requested.values
        return requested if given else replace(before, labels=requested.labels)
    if isinstance(requested, Depth) and isinstance(before, Depth):
        percentiles = before.percentiles if requested.percentiles == WHOLE else requested.percentiles
        return Depth(requested.missing or before.missing, percentiles)
    return requested


def _data_of(setup: Setup, inputs: Sequence[str]) -> Data:
    """The data by which a run recognises its pictures.

    Where content keys are known, the same contents under other names are the same pictures. Otherwise a picture is
    identified by its name and size, since the start of each file would be read for this purpose alone.
    """
    pictures, train, keys = setup.pictures, setup.train, setup.keys
    if train.val is None:
        listings = {"inputs": _fingerprints([*pictures.train, *pictures.held], keys)}
    else:
        listings = {"inputs": _fingerprints(pictures.train, keys), "val": _fingerprints(pictures.held, keys)}
    if train.pictures is not None:  # which give the sizes of the maps
        of_maps = [item.picture for item in (*pictures.train, *pictures.held) if item.picture is not None]
        listings["pictures"] = _fingerprints(of_maps, {})
    settings = to_dict(train)
    return Data(
        noun="pictures",
        listings=listings,
        places={
            "inputs": " ".join(inputs),
            "val": f"--val {train.val}",
            "pictures": f"--pictures {train.pictures}",
            "colour table": f"--colours {train.colours}",
            "prior": f"--prior {train.perturb_prior}",
        },
        about={"data": picture_counts(pictures, train), **setup.content.about()},
        by={name: settings[name] for name in _LISTED_BY},
        named=not keys,
        hashes={
            **({"colour table": repr(setup.content.about()["colours"])} if train.colours else {}),
            **({"prior": sha256(Path(train.perturb_prior))} if train.perturb_prior else {}),
        },
        init=train.init,
    )


def _fingerprints(items: Sequence[Item], keys: Mapping[str, int | None]) -> Fingerprints:
    contents: Iterable[bytes] = (b"%d" % (keys[item.name] or 0) if keys else _size(item) for item in items)
    return Fingerprints(name_hashes(item.name for item in items), content_hashes(contents))


def _size(item: Item) -> bytes:
    try:
        return b"%d" % item.size()
    except BadImageError:
        return b"-1"
