"""Pictures to condition maps, by frozen networks or by rule: `annotate` is `taming annotate`.

A map is a PNG at its picture's relative path, so that `tokenize --cond KIND=FOLDER` pairs them and `train-vqgan FOLDER
--kind KIND` trains on them. Each says itself, in a text chunk, what made it and of which picture, so it still says so
where it is moved, several processes can write into one folder, and nothing has to be kept beside it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from taming_cli.config.annotate import AnnotateConfig, DepthConfig, EdgesConfig, SegmentationConfig
from taming_cli.config.kinds import CodecKind
from taming_cli.config.shard import Shard
from taming_cli.data.batches import Skipped, eval_batches
from taming_cli.data.conditions.edges import RULE, edges
from taming_cli.data.disk import write_atomically
from taming_cli.data.images import EXTENSIONS, SETTINGS, png_settings, save_png
from taming_cli.data.sources import Item, list_items
from taming_cli.data.split import content_key
from taming_cli.errors import BadImageError, UsageError
from taming_cli.pretrained.annotators import Annotator, pose_finder, segmenter
from taming_cli.pretrained.depth import depth_model
from taming_cli.runtime.device import pick_device
from taming_cli.runtime.interrupt import StopRequest
from taming_cli.runtime.weights import OnBytes

LABELS = "labels.txt"
"""In a folder of segmentation maps: the name of each label, on its line."""

_END_OF_PNG = b"\x00\x00\x00\x00IEND\xaeB`\x82"


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """The folder of maps; how many were made now, and how many were there; what was skipped; what the labels mean."""

    folder: Path
    kind: CodecKind
    made: int
    present: int
    skipped: tuple[Skipped, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Maps that are there now."""
        return self.made + self.present


class _Maker(NamedTuple):
    """What makes a map, uint8 (3, H, W) -> W x H, and what each of its maps says of it."""

    draw: Callable[[Tensor], Image.Image]
    made: Mapping[str, Any]
    labels: tuple[str, ...] = ()


def annotate(
    images: Sequence[Path],
    out: Path,
    config: AnnotateConfig,
    *,
    shard: Shard | None = None,
    weights: Path | None = None,
    offline: bool = False,
    device: str = "auto",
    workers: int = 2,
    dry_run: bool = False,
    on_item: Callable[[int, int], None] | None = None,
    on_bytes: OnBytes | None = None,
) -> Annotated:
    """Write the map of each picture of folders, files and archives to `out`, at its own size; the kind is `config`'s.

    Maps that are there, whole and of the same settings are left, so that the same call goes on where another stopped.
    `shard` takes every n-th picture; several processes may write into one folder. `dry_run` writes and fetches nothing:
    it counts the files that are there, without a look at them. `on_item` is told (done, total), `on_bytes` of a
    download. Raises UsageError, before anything is written, where two pictures would have one map,
    where `out` lies among the pictures, and where it holds what was made otherwise; Interrupted after a signal.
    """
    items = list_items(images).items
    targets = _targets(items, images, out)
    mine = items[(shard or Shard()).places]
    if dry_run:
        there = sum(targets[item.name].exists() for item in mine)
        return Annotated(folder=out, kind=config.kind, made=len(mine) - there, present=there)
    maker = _maker(config, weights=weights, offline=offline, device=device, on_bytes=on_bytes)
    present = _present(out, targets, items, maker.made)
    if maker.labels:
        _write_labels(out / LABELS, maker.labels)
    pending = [item for item in mine if item.name not in present]
    made, skipped = 0, list[Skipped]()
    there = len(mine) - len(pending)
    if on_item is not None:
        on_item(there, len(mine))
    with StopRequest() as stop, closing(eval_batches(pending, batch_size=1, workers=workers)) as batches:
        for batch in batches:
            skipped += batch.skipped
            for item, picture in zip(batch.items, batch.images, strict=True):
                try:
                    drawn = maker.draw(picture)
                except BadImageError as error:
                    skipped.append(Skipped(item.name, str(error)))
                    continue
                save_png(targets[item.name], drawn, {SETTINGS: json.dumps({**maker.made, "of": _key(item)})})
                made += 1
            done = there + made + len(skipped)
            if on_item is not None:
                on_item(done, len(mine))
            if stop.requested and done < len(mine):
                raise stop.interrupted(f"stopped; {there + made} of {len(mine)} maps are in {out}: run the same again")
    return Annotated(
        folder=out, kind=config.kind, made=made, present=there, skipped=tuple(skipped), labels=maker.labels
    )


def _maker(
    config: AnnotateConfig, *, weights: Path | None, offline: bool, device: str, on_bytes: OnBytes | None
) -> _Maker:
    where = pick_device(device)
    if isinstance(config, EdgesConfig):
        return _Maker(_edges, {"kind": config.kind, "rule": RULE})
    network: Annotator
    if isinstance(config, SegmentationConfig):
        network = segmenter(config.model, weights=weights, offline=offline, on_bytes=on_bytes)
    elif isinstance(config, DepthConfig):
        network = depth_model(config.model, weights=weights, offline=offline)
    else:
        network = pose_finder(
            score=config.score, joint_score=config.joint_score, weights=weights, offline=offline, on_bytes=on_bytes
        )
    made = {"kind": config.kind, "network": network.stamp._asdict(), **network.settings}
    return _Maker(network.to(where), made, network.labels)


def _edges(picture: Tensor) -> Image.Image:
    return edges(Image.fromarray(picture.permute(1, 2, 0).numpy()))


def _targets(items: Sequence[Item], images: Sequence[Path], out: Path) -> dict[str, Path]:
    """Each picture's map: the name of the picture, its suffix replaced by .png."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder for the maps")
    for path in images:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise UsageError(f"{out} lies in {path}, so that its maps would be taken for pictures; give another folder")
    targets: dict[str, Path] = {}
    taken: dict[Path, str] = {}
    for item in items:
        path = out / (item.name.removesuffix(PurePosixPath(item.name).suffix) + ".png")
        if path in taken:
            raise UsageError(f"{taken[path]} and {item.name} would have one map, {path}; rename one of them")
        targets[item.name] = path
        taken[path] = item.name
    return targets


def _present(out: Path, targets: Mapping[str, Path], items: Sequence[Item], made: Mapping[str, Any]) -> set[str]:
    """The names of the pictures whose maps need not be made.

    A folder holds maps of one making: UsageError where a picture in `out` was made otherwise, is no map at all, or is
    the map of another picture than the one that has its name now.
    """
    found = [path for path in sorted(out.rglob("*")) if path.suffix.lower() in EXTENSIONS and not _hidden(path, out)]
    with ThreadPoolExecutor(8) as readers:
        stamps = dict(zip(found, readers.map(_stamp, found), strict=True))
        there = [item for item in items if targets[item.name] in stamps]
        keys = dict(zip((item.name for item in there), readers.map(_key, there), strict=True))
    for path, stamp in stamps.items():
        if "kind" not in stamp:
            raise UsageError(f"{path} is not a map that this command made; give another folder, or move it away")
        differing = sorted(name for name in {*stamp, *made} - {"of"} if stamp.get(name) != made.get(name))
        if differing:
            raise UsageError(f"{path} was made with another {' and '.join(differing)}; give another folder")
    for item in there:
        path = targets[item.name]
        if keys[item.name] not in (None, stamps[path].get("of")):  # what cannot be read will be skipped
            raise UsageError(
                f"{path} is the map of another picture than {item.name}; remove it, or give another folder"
            )
    return {name for name, key in keys.items() if key is not None and _whole(targets[name])}


def _key(item: Item) -> str | None:
    """Tells a picture from another of the same name; None where it cannot be read."""
    key = content_key(item)
    return None if key is None else f"{key:016x}"


def _stamp(path: Path) -> dict[str, Any]:
    """What a map says of itself; empty for other files."""
    try:
        stamp = json.loads(png_settings(path) or "{}")
    except ValueError:
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _whole(path: Path) -> bool:
    """Whether a PNG ends as one does: the machine may have lost its power before the last of it was written."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - len(_END_OF_PNG)))
        return stream.read() == _END_OF_PNG


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _write_labels(path: Path, labels: Sequence[str]) -> None:
    """Whole or not at all, and only if it is not there; several processes may do this at once."""
    content = "".join(f"{name}\n" for name in labels)
    if path.exists():
        if path.read_text() != content:
            raise UsageError(f"{path} names other labels than these {len(labels)}; give another folder")
        return
    write_atomically(path, lambda temporary: temporary.write_text(content), durable=False)
