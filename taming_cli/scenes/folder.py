"""A data set of scenes: a folder of pictures and their maps by class, laid out like a user's own data set."""

import io
import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from taming_cli.config.parsing import parse_json
from taming_cli.config.size import Size
from taming_cli.data.conditions.keypoints import JOINTS
from taming_cli.data.conditions.skeletons import Keypoints
from taming_cli.data.disk import TEMPORARY, write_atomically, write_json
from taming_cli.data.workers import cores, in_order, processes
from taming_cli.errors import UsageError
from taming_cli.scenes.canvas import FIGURES, LABELS, PALETTE
from taming_cli.scenes.generate import Kind, check, label_of, scene

_ENOUGH = 20  # scenes that are worth a process: starting one takes as long as drawing ten
# COCO's drawing order, joints counted from 1.
_COCO_SKELETON = [
    [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9], [8, 10], [9, 11],
    [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7],
]  # fmt: skip


def write(
    out: Path,
    *,
    count: int,
    size: Size,
    seed: int,
    kind: Kind | None = None,
    workers: int = 0,
    on_item: Callable[[int, int], None] | None = None,
) -> Path:
    """Write scenes `seed` to `seed + count - 1`, of `size` pixels, into the folder `out`; returns `out`.

    A scene is images/CLASS/STEM.png, segmentation/ (palette PNG, values are labels), depth/ (16-bit grey, 0 near to
    65535 at the sky), pose/ and, for figures, keypoints/CLASS/STEM.json (COCO). labels.txt names each label on its
    line, colours.txt adds its colour (for maps painted by hand, and `--colours`), seg.png is a 1280 x 832 segmentation,
    and scenes.json records the arguments. Files are complete or absent; the same call again writes missing ones.
    Drawing runs in `workers` processes, or in this one with 0. `on_item(done, count)` is called after each scene, and
    at the beginning if some exist.

    Raises UsageError when `out` holds anything but this data set, or an argument is out of range.
    """
    if count < 1:
        raise UsageError(f"count {count} is too small: write at least 1 scene")
    if workers < 0:
        raise UsageError(f"workers is {workers}; give a number of processes, or 0 for none")
    for number in (seed, seed + count - 1):
        check(number, size.width, size.height, kind)
    _claim(out, {"format": "taming-scenes", "format_version": 1, "count": count, "size": str(size), "seed": seed,
                 "kind": kind})  # fmt: skip
    missing = [n for n in range(seed, seed + count) if not all(path.exists() for path in _paths(out, n, kind).values())]
    done = count - len(missing)
    if on_item and done:
        on_item(done, count)
    draw = partial(_write_scene, out, size, kind)
    begin, here = processes(workers), (draw(number) for number in missing)
    with closing(in_order(begin, draw, missing, ahead=2 * workers) if workers and missing else here) as drawn:
        for now, _ in enumerate(drawn, start=done + 1):
            if on_item:
                on_item(now, count)
    _put(out / "labels.txt", "".join(f"{name}\n" for name in LABELS))
    colours = (f"#{bytes(rgb).hex()} {name}\n" for rgb, name in zip(PALETTE, LABELS, strict=True))
    _put(out / "colours.txt", "".join(colours))
    if not (out / "seg.png").exists():
        # A lake has many labels, and the built-in model paints it well; of figures alone, take the first.
        chosen = seed if kind == "figure" else seed - seed % 8 + 21
        large = scene(chosen, 1280, 832, kind=kind or "landscape")
        _put(out / "seg.png", _png(large.segmentation, palette=True))
    return out


def workers_for(count: int) -> int:
    """Return the number of processes that draw `count` scenes fastest on this machine; 0 for this process alone."""
    workers = min(cores(), count // _ENOUGH)
    return workers if workers > 1 else 0


def _claim(out: Path, record: dict[str, Any]) -> None:
    """Record the arguments in a new or empty folder, or compare them with its record; UsageError on any difference."""
    path = out / "scenes.json"
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a new folder to write scenes to")
    # A call that was interrupted before the record was complete leaves only a temporary file.
    if not out.is_dir() or all(entry.match(TEMPORARY) for entry in out.iterdir()):
        write_json(path, record)
        return
    try:
        existing = parse_json(path.read_text())
    except (OSError, ValueError):
        raise UsageError(f"{out} is not empty and holds no scenes written by this command: name a new folder") from None
    if existing != record:
        differs = sorted(k for k in record if not isinstance(existing, dict) or existing.get(k) != record[k])
        raise UsageError(f"{out} holds scenes written with another {', '.join(differs)}: name a new folder")


def _paths(out: Path, number: int, kind: Kind | None) -> dict[str, Path]:
    """Return the files of one scene by the name of their part."""
    label, stem = label_of(number, kind), f"{number:06d}"
    paths = {part: out / part / label / f"{stem}.png" for part in ("images", "segmentation", "depth", "pose")}
    if label in FIGURES:
        paths["keypoints"] = out / "keypoints" / label / f"{stem}.json"
    return paths


def _write_scene(out: Path, size: Size, kind: Kind | None, number: int) -> None:
    drawn, paths = scene(number, size.width, size.height, kind=kind), _paths(out, number, kind)
    _put(paths["images"], _png(drawn.image))
    _put(paths["segmentation"], _png(drawn.segmentation, palette=True))
    _put(paths["depth"], _png(np.floor(drawn.depth.astype(np.float64) * 65535 + 0.5).astype(np.uint16)))
    _put(paths["pose"], _png(drawn.pose))
    if drawn.keypoints:
        people = _coco(drawn.keypoints, f"{drawn.label}/{paths['images'].name}", size)
        _put(paths["keypoints"], json.dumps(people) + "\n")


def _coco(figures: list[Keypoints], name: str, size: Size) -> dict[str, Any]:
    """Return one picture's people in COCO's format; x and y in pixels from the top left corner."""
    people = []
    for joints in figures:
        xs, ys = zip(*[(x, y) for x, y, v in joints if v > 0] or [(0.0, 0.0)], strict=True)
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        people.append({
            "category_id": 1,
            "keypoints": [value for x, y, v in joints for value in (round(x, 2), round(y, 2), int(v))],
            "num_keypoints": sum(v > 0 for _, _, v in joints),
            "bbox": [round(v, 2) for v in box],
        })  # fmt: skip
    category = {"id": 1, "name": "person", "keypoints": list(JOINTS), "skeleton": _COCO_SKELETON}
    image = {"file_name": name, "width": size.width, "height": size.height}
    return image | {"annotations": people, "categories": [category]}


def _png(pixels: NDArray[Any], *, palette: bool = False) -> bytes:
    """Encode uint8 (H, W) or (H, W, 3), or uint16 (H, W), as PNG; with `palette` the values are labels."""
    image, stream = Image.fromarray(pixels), io.BytesIO()
    if palette:
        image.putpalette(PALETTE.tobytes())
    image.save(stream, format="PNG")
    return stream.getvalue()


def _put(path: Path, content: str | bytes) -> None:
    encoded = content.encode() if isinstance(content, str) else content
    write_atomically(path, lambda temporary: temporary.write_bytes(encoded), durable=False)
