"""Reconstruct pictures, and decode token files to pictures: `taming reconstruct` and `taming decode`."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor

from taming_cli.codec.locate import codec_for, content_in, load_codec, stored_codes
from taming_cli.codec.tiling import tiles
from taming_cli.codec.vqgan import VQGAN, ready
from taming_cli.config.fields import to_dict
from taming_cli.config.shard import Shard
from taming_cli.config.size import Size
from taming_cli.data.batches import Skipped, eval_batches
from taming_cli.data.contents import Content
from taming_cli.data.disk import make_folder
from taming_cli.data.images import SETTINGS, png_settings, write_png
from taming_cli.data.locks import shared
from taming_cli.data.sources import Item
from taming_cli.data.tokens.file import TokenFile
from taming_cli.errors import UsageError
from taming_cli.metrics import psnr
from taming_cli.runtime.checkpoint import tensors_sha256
from taming_cli.runtime.device import autocast, pick_device, pick_precision, precision_name
from taming_cli.runtime.memory import USUAL, Room, room

DECODING = "decoding"
"""The key in a picture's text chunk and in JSON; its value is `exact` or `estimated`."""
STRIP = 2**24
"""Largest number of values of a codec's input at once when a picture is rendered."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """The folder and number of written pictures, and the skipped ones.

    Where there are originals, `psnr` is the mean in dB, or for label maps `accuracy` the mean share of correct pixels.
    `estimated` is the number of pictures that did not fit the memory and were decoded with estimated statistics.
    """

    folder: Path
    count: int
    skipped: tuple[Skipped, ...] = ()
    psnr: float | None = None
    accuracy: float | None = None
    estimated: int = 0


def reconstruct(
    items: Sequence[Item],
    out: Path,
    *,
    ckpt: Path,
    size: Size | None = None,
    batch_size: int = 8,
    device: str = "auto",
    precision: str = "fp32",
    memory: float | None = None,
    workers: int = 2,
    shard: Shard | None = None,
    dry_run: bool = False,
    on_item: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the reconstruction of each picture to `out/<name>.png`: of its centre crop of `size`, or of all of it.

    A codec of condition maps takes maps and renders the reconstructions as pictures. A picture whose sides are not
    multiples of f (of 2 f, with two levels of codes) is padded by repeating its edge, and the result is cropped. A
    picture is decoded in `memory` GiB, by default half of the free memory (see `room`), exactly if it fits; its text
    chunk records that. `shard` selects every n-th picture. `dry_run` writes nothing, and counts what would be written.
    `on_item` receives (done, total).

    Raises UsageError for a name that leads out of the folder, where an original, or a file made with other settings,
    would be overwritten, and while another process writes other pictures into the folder.
    """
    codec, model = load_codec(ckpt)
    content = content_in(model)
    paths = _targets(out, [item.name for item in items], [item.path for item in items])
    targets = dict(zip(items, paths, strict=True))
    where = pick_device(device)
    dtype = pick_precision(precision, where)
    provenance = _provenance(codec, size=str(size), precision=precision_name(dtype))
    stamps = {targets[item]: provenance | {"of": _source_key(item.path, item.member or "")} for item in items}
    _refuse_others(stamps)
    items = items[(shard or Shard()).places]
    if dry_run:
        return Written(folder=out, count=len(items))
    codec = ready(codec, where, dtype)
    space = room(where, memory)
    total, count, estimated, skipped = 0.0, 0, 0, list[Skipped]()
    read = eval_batches(items, size=size, batch_size=batch_size, workers=workers, content=content)
    with _writing(out, stamps), closing(read) as batches:
        for batch in batches:
            if batch.items:
                with autocast(where, dtype):
                    rebuilt, codes = round_trip(codec, batch.images, content, space)
                rec = _shown(rebuilt, content) if content.categorical else rebuilt
                if content.categorical:
                    total += (rebuilt == batch.images).double().mean((1, 2, 3)).sum().item()
                else:
                    total += psnr(_shown(batch.images, content), rec, data_range=255).sum().item()
                exact = tiles.exact(codec, codes.shape[1], codes.shape[2], space.decode)
                estimated += 0 if exact else len(batch.items)
                for item, picture in zip(batch.items, rec, strict=True):
                    write_png(targets[item], picture, {SETTINGS: _text(stamps[targets[item]], exact)})
            skipped += batch.skipped
            count += len(batch.items)
            if on_item is not None:
                on_item(count + len(skipped), len(items))
    mean = total / count if count else None
    figure = {"accuracy" if content.categorical else "psnr": mean}
    return Written(folder=out, count=count, skipped=tuple(skipped), estimated=estimated, **figure)


def decode(
    tokens: Path,
    out: Path,
    *,
    codec_path: Path | None = None,
    batch_size: int = 8,
    device: str = "auto",
    precision: str = "fp32",
    memory: float | None = None,
    shard: Shard | None = None,
    dry_run: bool = False,
    on_item: Callable[[int, int], None] | None = None,
    on_decode: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the pictures of a token file to `out/<name>.png`, and further views to `out/<name>.view1.png` and so on.

    A picture is decoded in `memory` GiB as by `reconstruct`. `shard` selects a contiguous part of the file. `dry_run`
    writes nothing, and counts what would be written. `on_item` receives (pictures written, total pictures), and
    `on_decode` (cells decoded, total cells) for each batch.

    Raises UsageError for a name that leads out of the folder, where a file made with other settings would be
    overwritten, and while another process writes other pictures into the folder; BadFileError for a file that is
    damaged or whose codec is not found.
    """
    file = TokenFile(tokens)
    codec, _, _ = codec_for(file.header, tokens, codec_path)
    views, place = file.header.views, file.header.frame.place
    targets = _targets(out, file.names(), views=views)
    where = pick_device(device)
    dtype = pick_precision(precision, where)
    provenance = _provenance(codec, of=_source_key(tokens), precision=precision_name(dtype))
    budget = room(where, memory).decode
    exact = tiles.exact(codec, file.header.height, file.header.width, budget)
    stamps = {_view(path, view): provenance for path in targets for view in range(views)}
    _refuse_others(stamps)
    selected = (shard or Shard()).stretch(len(file))
    if dry_run:
        return Written(folder=out, count=len(selected) * views)
    codec = ready(codec, where, dtype)
    batch_size = tiles.at_once(codec, file.header.height * views, file.header.width, batch_size)
    with _writing(out, stamps):
        for start in range(selected.start, selected.stop, batch_size):
            rows = slice(start, min(start + batch_size, selected.stop))
            codes = stored_codes(file, codec, rows).flatten(0, 1).to(where)
            with autocast(where, dtype):
                decoded = tiles.pictures(codec, codes, budget=budget, on_progress=on_decode)[:, :, place[0], place[1]]
            for index, picture in enumerate(decoded):
                target = _view(targets[start + index // views], index % views)
                write_png(target, picture, {SETTINGS: _text(provenance, exact)})
            if on_item is not None:
                on_item(rows.stop - selected.start, len(selected))
    return Written(folder=out, count=len(selected) * views, estimated=0 if exact else len(selected) * views)


def decoding(exact: bool) -> str:
    """The value of DECODING: `exact` if the statistics of a picture were taken over all of its pixels."""
    return "exact" if exact else "estimated"


class RoundTrip(NamedTuple):
    """A codec's reconstruction, uint8 (B, 3, H, W), or the most likely labels (B, 1, H, W), and its `codes` (B, h, w);
    both on the CPU."""

    rebuilt: Tensor
    codes: Tensor


def round_trip(codec: VQGAN, images: Tensor, content: Content, space: Room = USUAL) -> RoundTrip:
    """Encode and decode a content's tensors (B, C, H, W) of any size."""
    height, width = images.shape[-2:]

    def finish(x_rec: Tensor) -> Tensor:
        return (x_rec.argmax(1, keepdim=True) if content.categorical else content.show(x_rec)).cpu()

    codes = codes_of(codec, images, content, space.encode)
    rebuilt = tiles.decode(codec, codes, finish=finish, budget=space.decode)
    return RoundTrip(rebuilt[..., :height, :width], codes.cpu())


def codes_of(codec: VQGAN, images: Tensor, content: Content, budget: int = tiles.BUDGET) -> Tensor:
    """A content's tensors (B, C, H, W), padded to the sides that the codec needs by repeating the edge -> codes (B, h,
    w)."""
    m = codec.config.multiple
    rows, columns = (torch.arange(math.ceil(n / m) * m).clamp(max=n - 1) for n in images.shape[-2:])
    return tiles.encode(codec, images[:, :, rows][..., columns], to_input=content.to_input, budget=budget)


def _shown(images: Tensor, content: Content) -> Tensor:
    """A content's tensors (B, C, H, W) as pictures, uint8 (B, 3, H, W), in strips, since a codec's input is large."""
    strips = torch.split(images, max(1, STRIP // (content.channels * images.shape[3])), 2)
    return torch.cat([content.show(content.to_input(strip)) for strip in strips], 2)


def _provenance(codec: VQGAN, **settings: str) -> dict[str, str]:
    """The codec and the settings that a picture was decoded with, for its text chunk."""
    return {"codec_sha256": tensors_sha256(codec.state_dict(), to_dict(codec.config)), **settings}


def _source_key(path: Path, member: str = "") -> str:
    """A hash of a source's path: it identifies the source in a picture that is passed on, without revealing folders."""
    return hashlib.sha256(f"{path.resolve()} {member}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _text(stamp: Mapping[str, str], exact: bool) -> str:
    return json.dumps({**stamp, DECODING: decoding(exact)}, sort_keys=True)


def _refuse_others(stamps: Mapping[Path, Mapping[str, str]]) -> None:
    """UsageError where a file exists that was made with other settings: nothing is overwritten silently."""
    for path, stamp in stamps.items():
        if path.exists() and png_settings(path) not in (_text(stamp, True), _text(stamp, False)):
            raise UsageError(f"{path} exists and was made with other settings; give another folder")


@contextmanager
def _writing(out: Path, stamps: Mapping[Path, Mapping[str, str]]) -> Iterator[None]:
    """A context in which only processes of the same pictures, such as other shards, write into the folder."""
    make_folder(out)
    with shared(out, json.dumps([[str(path.relative_to(out)), dict(stamp)] for path, stamp in stamps.items()])):
        _refuse_others(stamps)
        yield


def _view(path: Path, view: int) -> Path:
    return path.with_suffix(f".view{view}.png") if view else path


def _targets(out: Path, names: Sequence[str], originals: Sequence[Path] = (), *, views: int = 1) -> list[Path]:
    """A PNG below `out` for each name, in the same subfolders, with its suffix replaced. Where two pictures or views
    would have the same path, `.png` is appended to every name instead; where that is not enough, their numbers too.

    UsageError for a name that leads out of the folder, and where an original would be overwritten.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder for the pictures")
    for name in names:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise UsageError(f"{name!r} would be written outside of {out}; rename it first")
    targets = [out / PurePosixPath(name).with_suffix(".png") for name in names]
    if _collide(targets, views):
        targets = [out / f"{name}.png" for name in names]
    if _collide(targets, views):
        targets = [out / f"{name}.{number}.png" for number, name in enumerate(names)]
    taken = {path.resolve() for path in originals}
    for path in targets:
        if path.resolve() in taken:
            raise UsageError(f"{path} is one of the originals; give another folder")
    return targets


def _collide(targets: Sequence[Path], views: int) -> bool:
    return len({_view(path, view) for path in targets for view in range(views)}) < len(targets) * views
