"""What a codec's training is made from and with, settled before anything is written: its pictures, its settings, and
the codec that it starts from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taming_cli.codec.estimate import check_memory
from taming_cli.codec.inputs import data_of
from taming_cli.codec.material import material, tell_labels
from taming_cli.codec.vqgan import VQGAN, codec_from
from taming_cli.config.codec import CodecConfig, CodecTrainConfig, DiscriminatorConfig
from taming_cli.config.fields import from_dict
from taming_cli.data.conditions.counts import Counted
from taming_cli.data.conditions.pairs import each_picture, with_pictures
from taming_cli.data.contents import Content, content
from taming_cli.data.sources import Item, list_items
from taming_cli.data.split import Split, content_keys, split
from taming_cli.errors import UsageError
from taming_cli.runtime.checkpoint import load_model
from taming_cli.runtime.device import pick_device
from taming_cli.runtime.model_files import recorded
from taming_cli.runtime.run import lists
from taming_cli.runtime.run.folder import absolute, read_settings

_COLOUR = 4.0  # brightness varies 3 and 8 times as much as the two directions of colour in photographs


class Settled(NamedTuple):
    """The pictures, split, and the settings with all that follows from them."""

    pictures: Split
    codec: CodecConfig
    train: CodecTrainConfig
    content: Content
    labels: Counted | None
    """Of segmentation maps."""

    keys: Mapping[str, int | None]
    """The pictures' content keys by name; none where `val` names the held-out ones, and nothing had to be read."""


def settled(
    images: Sequence[Path],
    codec: CodecConfig,
    discriminator: DiscriminatorConfig,
    train: CodecTrainConfig,
    *,
    run: Path | None = None,
    processes: int = 1,
) -> Settled:
    """What a training is made from and with; `run` is the folder of a run that goes on, and `processes` share each
    batch. Of segmentation maps, the labels that occur are logged.

    Raises UsageError for settings or inputs that do not fit, and for more labels than memory holds.
    """
    train = replace(train, val=absolute(train.val), init=recorded(train.init), colours=absolute(train.colours))
    train = replace(train, pictures=absolute(train.pictures))
    _check_size(codec, discriminator, train)
    pictures, keys = _split(images, train, run)
    last = None if run is None else run / "checkpoints" / "last.safetensors"
    holds, labels = material([*pictures.train, *pictures.held], train, codec.in_channels, last)
    codec = replace(codec, in_channels=holds.channels, out_ch=holds.channels)
    if labels is not None:
        train = replace(train, labels=labels.labels)
        device = pick_device(train.device)
        own = -(-train.batch_size // processes) if device.type == "cuda" else train.batch_size  # each has its own GPU
        check_memory(codec, discriminator, replace(train, batch_size=own), str(labels), device)
        tell_labels(labels)
    return Settled(pictures, codec, train, holds, labels, keys)


def identity(images: Sequence[Path], discriminator: DiscriminatorConfig, known: Settled) -> dict[str, Any]:
    """What makes a run the one to go on with, as `look` and `open_run` take it: its settings, and what it is made
    from."""
    inputs = lists.recorded(images)
    groups = {"codec": known.codec, "discriminator": discriminator, "train": known.train}
    data = cache(lambda: data_of(known.pictures, known.keys, known.train, known.content, inputs))
    return {"groups": groups, "inputs": inputs, "data": data}


def _check_size(codec: CodecConfig, discriminator: DiscriminatorConfig, train: CodecTrainConfig) -> None:
    """Refuse a size that f does not divide, or that leaves the discriminator no patch, before anything is made."""
    codec.latent(train.size)
    least = discriminator.smallest_side
    if train.disc_weight and min(train.size.width, train.size.height) < least:
        raise UsageError(
            f"size {train.size} is below the {least} pixels a side that disc_num_layers "
            f"{discriminator.disc_num_layers} needs; use fewer layers, or --disc-weight 0"
        )


def held_out(run: Path) -> tuple[Item, ...]:
    """The pictures that the codec in a run folder never learned from, of those that are still there."""
    settings = read_settings(run)
    train = from_dict(CodecTrainConfig, settings["config"]["train"], str(run / "config.json"))
    return _split(lists.inputs_of(run, settings["inputs"]), train, run)[0].held


def _split(images: Sequence[Path], train: CodecTrainConfig, run: Path | None) -> tuple[Split, Mapping[str, int | None]]:
    """The two sides, and the content keys by name where the sides follow from them."""
    listed = _listed(images, train)
    if (val := lists.val_of(run, train.val)) is not None:
        return Split(listed, _listed([Path(val)], train)), {}
    keys = content_keys(listed)
    found = split(listed, held_fraction=train.held, keys=keys)
    return found, {item.name: key for item, key in zip(listed, keys, strict=True)}


def _listed(paths: Sequence[Path], train: CodecTrainConfig) -> tuple[Item, ...]:
    found = list_items(paths, extensions=content(train.kind).extensions)
    beside = [end for end in found.others if end.count(".") > 1]
    if beside and train.kind in ("segmentation", "depth", "pose"):
        raise UsageError(
            f"{paths[0]}: the maps ({beside[0]}) lie beside their pictures, which would be read as maps; put the maps "
            "into a folder of their own"
        )
    items = each_picture(found.items)
    return items if train.pictures is None else with_pictures(items, Path(train.pictures), paths[0])


def first_codec(config: CodecConfig, train: CodecTrainConfig, holds: Content) -> VQGAN:
    """A new codec, or the one that `init` names, whose architecture must be the one asked for."""
    if train.init is None:
        if train.train == "decoder":
            raise UsageError("--train decoder trains the decoder of a finished codec; name it with --init FILE")
        codec = VQGAN(config)
        _whiten(codec.encoder.conv_in.weight, holds)
        return codec
    model = load_model(Path(train.init))
    codec = codec_from(model, train.init)
    for name, value in vars(codec.config).items():
        if getattr(config, name) != value:
            raise UsageError(f"{train.init} has {name} {value}, not {getattr(config, name)}; leave that setting out")
    return codec


@torch.no_grad()
def _whiten(weight: Tensor, holds: Content) -> None:
    """Scale the first layer's initial weights, (ch, C, 3, 3), as if the channels of its input varied alike.

    Of one-hot channels one is 1 and the others 0, so that their sum is sqrt(C) smaller than the initialisation counts
    on. The colours of pictures vary several times less than their brightness. What starts small drowns in the residual
    branches, and is learned late.
    """
    if holds.categorical:
        weight.mul_(holds.channels**0.5)
    elif holds.kind == "image":
        weight.copy_(_COLOUR * weight + (1 - _COLOUR) * weight.mean(1, keepdim=True))
