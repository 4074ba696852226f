"""Annotate pictures with condition maps, by frozen networks or by rule: `annotate` is `taming annotate`.

A map is a PNG at its picture's relative path, so that `tokenize --cond KIND=FOLDER` pairs them and `train-vqgan FOLDER
--kind KIND` trains on them. Each map records its settings and its picture in a text chunk. So the record moves with the
map, several processes can write into one folder, and no other files are needed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from taming_cli.config.annotate import AnnotateConfig, DepthConfig, EdgesConfig, SegmentationConfig
from taming_cli.config.kinds import CodecKind
from taming_cli.config.parsing import parse_json
from taming_cli.config.shard import Shard
from taming_cli.data.batches import Skipped, eval_batches
from taming_cli.data.conditions.edges import RULE, edges
from taming_cli.data.disk import make_folder, sync_folder, write_atomically
from taming_cli.data.images import EXTENSIONS, SETTINGS, png_settings, save_png
from taming_cli.data.locks import shared
from taming_cli.data.sources import Item, list_items
from taming_cli.data.split import content_key
from taming_cli.errors import BadImageError, UsageError
from taming_cli.pretrained.annotators import Annotator, pose_finder, segmenter
from taming_cli.pretrained.depth import depth_model
from taming_cli.runtime.device import pick_device
from taming_cli.runtime.interrupt import StopRequest
from taming_cli.runtime.weights import OnBytes

LABELS = "labels.txt"
"""File in a folder of segmentation maps: the name of each label on its line."""

_END_OF_PNG = b"\x00\x00\x00\x00IEND\xaeB`\x82"


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """The folder of maps, the numbers of maps written and of maps present before, skipped pictures, and label names."""

    folder: Path
    kind: CodecKind
    made: int
    present: int
    skipped: tuple[Skipped, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of maps that are present now."""
        return self.made + self.present


class _Maker(NamedTuple):
    """A function that draws a map, uint8 (3, H, W) -> W x H, the settings that its maps record, and its labels."""

    draw: Callable[[Tensor], Image.Image]
    settings: Mapping[str, Any]
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
    """Write the map of each picture in folders, files and archives to `out`, at the picture's size.

    `config` states the kind of map. Complete maps of the same settings are kept, so that the same call continues where
    another stopped. `shard` selects every n-th picture; several processes may write into one folder. `dry_run` neither
    writes nor downloads: it counts existing files without reading them. `on_item` is called with (done, total),
    `on_bytes` during a download. Raises UsageError, before anything is written, where two pictures would have one map,
    where `out` is inside a folder of pictures, and where it holds files of other settings; Interrupted after a signal.
    """
    items = list_items(images).items
    targets = _targets(items, images, out)
    selected = items[(shard or Shard()).places]
    if dry_run:
        kept = sum(targets[item.name].exists() for item in selected)
        return Annotated(folder=out, kind=config.kind, made=len(selected) - kept, present=kept)
    maker = _maker(config, weights=weights, offline=offline, device=device, on_bytes=on_bytes)
    present = _present(out, targets, items, maker.settings)
    pending = [item for item in selected if item.name not in present]
    made, skipped = 0, list[Skipped]()
    with ExitStack() as stack:
        if pending:
            make_folder(out)
            stack.enter_context(shared(out, json.dumps(maker.settings)))
        if any(targets[item.name].exists() for item in pending):  # another process has just made them
            present = _present(out, targets, items, maker.settings)
            pending = [item for item in pending if item.name not in present]
        if maker.labels:
            _write_labels(out / LABELS, maker.labels)
        kept = len(selected) - len(pending)
        if on_item is not None:
            on_item(kept, len(selected))
        stop = stack.enter_context(StopRequest())
        batches = stack.enter_context(closing(eval_batches(pending, batch_size=1, workers=workers)))
        for batch in batches:
            skipped += batch.skipped
            for item, picture in zip(batch.items, batch.images, strict=True):
                try:
                    drawn = maker.draw(picture)
                except BadImageError as error:
                    skipped.append(Skipped(item.name, str(error)))
                    continue
                save_png(targets[item.name], drawn, {SETTINGS: json.dumps({**maker.settings, "of": _key(item)})})
                made += 1
            done = kept + made + len(skipped)
            if on_item is not None:
                on_item(done, len(selected))
            if stop.requested and done < len(selected):
                raise stop.interrupted(
                    f"stopped; {kept + made} of {len(selected)} maps are in {out}: repeat the command to continue"
                )
    for folder in {targets[item.name].parent for item in pending} if made else ():
        if folder.is_dir():
            sync_folder(folder)
    return Annotated(folder=out, kind=config.kind, made=made, present=kept, skipped=tuple(skipped), labels=maker.labels)


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
    settings = {"kind": config.kind, "network": network.stamp._asdict(), **network.settings}
    return _Maker(network.to(where), settings, network.labels)


def _edges(picture: Tensor) -> Image.Image:
    return edges(Image.fromarray(picture.permute(1, 2, 0).numpy()))


def _targets(items: Sequence[Item], images: Sequence[Path], out: Path) -> dict[str, Path]:
    """Return the path of each picture's map: the picture's name with the suffix .png."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder for the maps")
    for path in images:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise UsageError(f"{out} is inside {path}, where its maps would be listed as pictures; give another folder")
    targets: dict[str, Path] = {}
    taken: dict[Path, str] = {}
    for item in items:
        path = out / (item.name.removesuffix(PurePosixPath(item.name).suffix) + ".png")
        if path in taken:
            raise UsageError(f"{taken[path]} and {item.name} would have one map, {path}; rename one of them")
        targets[item.name] = path
        taken[path] = item.name
    return targets


def _present(out: Path, targets: Mapping[str, Path], items: Sequence[Item], settings: Mapping[str, Any]) -> set[str]:
    """Return the names of the pictures whose maps are present.

    A folder holds maps of the same settings: raises UsageError if a picture in `out` has other settings, is not a map,
    or is the map of another picture than the one of that name.
    """
    files = [path for path in sorted(out.rglob("*")) if path.suffix.lower() in EXTENSIONS and not _hidden(path, out)]
    with ThreadPoolExecutor(8) as readers:
        stamps = dict(zip(files, readers.map(_stamp, files), strict=True))
        annotated = [item for item in items if targets[item.name] in stamps]
        keys = dict(zip((item.name for item in annotated), readers.map(_key, annotated), strict=True))
    for path, stamp in stamps.items():
        if "kind" not in stamp:
            raise UsageError(f"{path} is not a map written by this command; give another folder, or move the file away")
        differing = sorted(name for name in {*stamp, *settings} - {"of"} if stamp.get(name) != settings.get(name))
        if differing:
            raise UsageError(f"{path} was made with another {' and '.join(differing)}; give another folder")
    for item in annotated:
        path = targets[item.name]
        if keys[item.name] not in (None, stamps[path].get("of")):  # unreadable pictures will be skipped
            raise UsageError(
                f"{path} is the map of another picture than {item.name}; remove it, or give another folder"
            )
    return {name for name, key in keys.items() if key is not None and _is_complete(targets[name])}


def _key(item: Item) -> str | None:
    """Return a key that distinguishes pictures of the same name; None if it cannot be read."""
    key = content_key(item)
    return None if key is None else f"{key:016x}"


def _stamp(path: Path) -> dict[str, Any]:
    """Return the settings recorded in a map; empty for other files."""
    try:
        stamp = parse_json(png_settings(path) or "{}")
    except ValueError:
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _is_complete(path: Path) -> bool:
    """Return whether a PNG is complete; its end may be missing after a power failure."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - len(_END_OF_PNG)))
        return stream.read() == _END_OF_PNG


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _write_labels(path: Path, labels: Sequence[str]) -> None:
    """Write the names of the labels unless they are present; several processes may do this at once."""
    content = "".join(f"{name}\n" for name in labels)
    if path.exists():
        if path.read_text() != content:
            raise UsageError(f"{path} names other labels than these {len(labels)}; give another folder")
        return
    write_atomically(path, lambda temporary: temporary.write_text(content), durable=False)
