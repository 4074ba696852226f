"""Encode pictures into a token file: `tokenize` is `taming tokenize`."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

import taming_cli
from taming_cli.codec.condition import Condition, MapCodec, build_conditions
from taming_cli.codec.locate import picture_codec
from taming_cli.codec.tiling import tiles
from taming_cli.codec.vqgan import VQGAN, code_levels, ready
from taming_cli.config.shard import Shard
from taming_cli.config.size import Size
from taming_cli.data.batches import Skipped, eval_batches
from taming_cli.data.images import Crop, centre_crop, random_resized_crop
from taming_cli.data.sources import Item
from taming_cli.data.split import digest
from taming_cli.data.tokens.header import TokenHeader
from taming_cli.data.tokens.merge import Finished
from taming_cli.data.tokens.writer import TokenJob
from taming_cli.errors import UsageError
from taming_cli.runtime.device import autocast, pick_device, pick_precision
from taming_cli.runtime.interrupt import StopRequest
from taming_cli.runtime.memory import room
from taming_cli.runtime.model_files import named

PICTURE = ""
"""The key of the pictures' own codes among those of their conditions."""
_MAP_SETTINGS = ("label_values", "missing", "depth_range")
"""The settings recorded in a codec's file that change how maps are read."""
SHARD_IMAGES = 256
"""Pictures per shard: a kill loses at most this much work."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """The `count` views of a picture: the centre crop, its mirror image, then random crops, all scaled to `size`.

    The area of a random crop is at least `smallest` times that of the largest crop, and half of them are mirrored. They
    follow from the picture's name, so a restarted job makes the same crops.
    """

    size: Size
    count: int
    smallest: float = 0.5

    def __call__(self, item: Item, source: Size) -> list[Crop]:
        """`count` crops of the picture `item`, which has size `source`."""
        centre = centre_crop(source, self.size)
        key = hashlib.blake2b(item.name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        drawn = [random_resized_crop(source, self.size, rng, scale=(self.smallest, 1.0)) for _ in range(2, self.count)]
        return [centre, centre._replace(flip=True), *drawn][: self.count]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that is resolved before the first picture is read: the networks, the `size` of the crops in pixels,
    and the job that writes the token file, whose header has the size of the grid."""

    codec: VQGAN
    conditions: Sequence[Condition]
    size: Size
    precision: torch.dtype
    job: TokenJob


def tokenize(
    items: Sequence[Item],
    *,
    ckpt: Path,
    out: Path,
    size: Size | None = None,
    views: int = 1,
    cond: Mapping[str, Path | None] | None = None,
    cond_ckpts: Sequence[Path] = (),
    batch_size: int = 16,
    device: str = "auto",
    precision: str = "fp32",
    memory: float | None = None,
    workers: int = 2,
    shard: Shard | None = None,
    on_item: Callable[[int, int], None] | None = None,
) -> Finished:
    """Encode `views` crops of `size` of each picture into the token file `out`. The default size is the codec's
    training size.

    `cond` maps the conditions to encode as well to the folders of their maps, or to None where they are computed from
    the picture; `cond_ckpts` are the codecs of the maps. A picture whose map is missing or unreadable is skipped.

    Work is saved in shards of 256 pictures: the same call continues where a killed one stopped, and leaves a finished
    file unchanged. `shard` writes one part of the file; `merge` joins the parts. `on_item` receives (done, total); the
    first call counts the pictures of earlier calls.

    fp32 gives the same codes on every machine, up to ties; bf16 is faster. `memory` is in GiB. A picture that does not
    fit is encoded in parts, with the statistics of the whole, which changes codes no more than rounding does. The
    default is the same on every machine; another value is recorded in the file.

    Raises UsageError where `out` was made with other settings, and Interrupted after a signal.
    """
    where = pick_device(device)
    prepared = prepare(
        items,
        ckpt=ckpt,
        out=out,
        size=size,
        views=views,
        cond=cond,
        cond_ckpts=cond_ckpts,
        precision=pick_precision(precision, where),
        memory=memory,
        shard=shard,
    )
    budget = room(where, memory).encode
    job, dtype, header, chosen = prepared.job, prepared.precision, prepared.job.header, prepared.size
    latent = Size(header.width, header.height)
    codec = ready(prepared.codec, where, dtype)
    conditions = [
        replace(each, encoder=each.encoder.to(where, budget)) if isinstance(each.encoder, MapCodec) else each
        for each in prepared.conditions
    ]

    def cut(item: Item, picture: Image, crops: Sequence[Crop]) -> dict[str, Tensor]:
        return {each.encoder.kind: each.cuts(item, picture, crops, latent) for each in conditions}

    with job, StopRequest() as stop:
        pending = job.pending()
        total = len((shard or Shard()).stretch(len(items)))
        done = total - sum(each.stop - each.start for each in pending)
        if on_item is not None:
            on_item(done, total)
        for each_slice in pending:
            codes: dict[str, list[Tensor]] = {name: [] for name in (PICTURE, *header.conditions)}
            kept, skipped = list[Item](), list[Skipped]()
            batches = eval_batches(
                items[each_slice.start : each_slice.stop],
                views=Views(size=chosen, count=views),
                batch_size=max(1, batch_size // views),
                workers=workers,
                extras=cut if conditions else None,
            )
            with closing(batches):
                for batch in batches:
                    if batch.items:
                        with autocast(where, dtype):
                            codes[PICTURE].append(tiles.encode(codec, batch.images, budget=budget).cpu())
                            for each in conditions:
                                cuts = batch.extras[each.encoder.kind]
                                codes[each.encoder.kind].append(each.encoder.encode(cuts))
                    kept += batch.items
                    skipped += batch.skipped
                    done += len(batch.items) + len(batch.skipped)
                    if on_item is not None:
                        on_item(done, total)
                    if stop.requested:
                        raise stop.interrupted(
                            f"stopped; finished shards are in {out}.parts: repeat the command to continue"
                        )
            empty = torch.empty((0, latent.height, latent.width), dtype=torch.int64)
            columns = {
                name: torch.cat([empty, *parts]).numpy().reshape(-1, views, latent.height, latent.width)
                for name, parts in codes.items()
            }
            bottom, *top = code_levels(codec.config, torch.from_numpy(columns.pop(PICTURE)))
            job.write(
                each_slice,
                codes=bottom.numpy(),
                top=top[0].numpy() if top else None,
                names=[item.name for item in kept],
                labels=[item.label for item in kept],
                conditions=columns,
                skipped=skipped,
            )
        return job.finish()


def prepare(
    items: Sequence[Item],
    *,
    ckpt: Path,
    out: Path,
    size: Size | None = None,
    views: int = 1,
    cond: Mapping[str, Path | None] | None = None,
    cond_ckpts: Sequence[Path] = (),
    precision: torch.dtype = torch.float32,
    memory: float | None = None,
    shard: Shard | None = None,
) -> Prepared:
    """Resolve the arguments of `tokenize` without writing anything. UsageError where they do not fit together."""
    ckpt = named(ckpt)
    codec, model = picture_codec(ckpt)
    chosen = size or training_size(model.about, codec)
    latent = codec.config.latent(chosen)
    conditions = build_conditions(cond or {}, cond_ckpts, items, ckpt)
    header = TokenHeader(
        codec_sha256=codec.sha256(),
        codec_path=str(ckpt.resolve()),
        codebook_size=codec.config.codebook_size,
        downsample_factor=codec.config.downsample_factor,
        preprocess={
            "size": str(chosen),
            "crop": "centre",
            "views": views,
            "range": [-1, 1],
            "precision": str(precision),
            **({} if memory is None else {"memory_gib": memory}),
            **_map_settings(conditions),
        },
        created_by=f"taming {taming_cli.__version__}",
        views=views,
        height=latent.height,
        width=latent.width,
        top_codebook_size=codec.config.codebook_size if codec.config.levels > 1 else 0,
        conditions={each.encoder.kind: each.encoder.header for each in conditions},
    )
    plan = {"items": digest(items), "order": hashlib.sha256(repr([item.name for item in items]).encode()).hexdigest()}
    maps = {each.encoder.kind: digest(each.maps.values()) for each in conditions if each.maps is not None}
    if maps:
        plan["maps"] = hashlib.sha256(repr(sorted(maps.items())).encode()).hexdigest()
    job = TokenJob(out, header=header, plan=plan, total=len(items), shard_size=SHARD_IMAGES, part=shard)
    return Prepared(codec=codec, conditions=conditions, size=chosen, precision=precision, job=job)


def _map_settings(conditions: Sequence[Condition]) -> dict[str, object]:
    """The settings by which maps are read, where their codecs differ from the default."""
    about = {each.encoder.kind: each.encoder.reads.about() for each in conditions if each.encoder.reads is not None}
    settings = {
        kind: {name: values[name] for name in _MAP_SETTINGS if name in values} for kind, values in about.items()
    }
    maps = {kind: values for kind, values in settings.items() if values}
    return {"maps": maps} if maps else {}


def training_size(about: object, codec: VQGAN) -> Size:
    """The picture size that a codec was trained on, as its file records it, or else its nominal resolution."""
    recorded = about.get("size") if isinstance(about, dict) else None
    try:
        return Size.parse(str(recorded))
    except UsageError:
        return Size(codec.config.resolution, codec.config.resolution)
