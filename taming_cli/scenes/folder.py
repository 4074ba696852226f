"""A folder of scenes: pictures and their maps by class, as a user's own data set would be laid out."""

import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from taming_cli.config.size import Size
from taming_cli.data.conditions.keypoints import JOINTS
from taming_cli.data.conditions.skeletons import Keypoints
from taming_cli.data.disk import TEMPORARY, write_atomically
from taming_cli.data.workers import cores, in_order, processes
from taming_cli.errors import UsageError
from taming_cli.scenes.canvas import FIGURES, LABELS, PALETTE, Bytes
from taming_cli.scenes.generate import Kind, check, label_of, scene

_RECORD = "scenes.json"
_LARGE = (1280, 832)
_ENOUGH = 20
"""Scenes that are worth a process: starting one takes as long as ten of them."""
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
    """Write scenes `seed` to `seed + count - 1`, of `size` pixels, into the folder `out`; returns it.

    Each scene is images/CLASS/STEM.png, segmentation/ (palette PNG, values are labels), depth/ (16-bit grey, 0 near to
    65535 at the sky), pose/ and, for figures, keypoints/CLASS/STEM.json (COCO). Beside them labels.txt names each label
    on its line, colours.txt adds its colour (for maps painted by hand, and `--colours`), seg.png is one 1280 x 832
    segmentation, and scenes.json records the arguments. Files appear complete or not at all; the same call again writes
    what is missing. `workers` processes draw; with 0 this one does. `on_item(done, count)` is called after each scene,
    and at the beginning if some exist.

    Raises UsageError when `out` holds anything but this data set, or an argument is out of range.
    """
    if count < 1:
        raise UsageError(f"count {count} is too small: write at least 1 scene")
    if workers < 0:
        raise UsageError(f"workers is {workers}; give a number of processes, or 0 for none")
    check(seed, size.width, size.height, kind)
    check(seed + count - 1, size.width, size.height, kind)
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
    table = (f"#{bytes(rgb).hex()} {name}\n" for rgb, name in zip(PALETTE, LABELS, strict=True))
    _put(out / "colours.txt", "".join(table))
    if not (out / "seg.png").exists():
        # A lake, for its many labels, that the built-in model paints well; with figures alone, the first of them.
        chosen = seed if kind == "figure" else seed - seed % 8 + 21
        _put(out / "seg.png", _palette_image(scene(chosen, *_LARGE, kind=kind or "landscape").segmentation))
    return out


def workers_for(count: int) -> int:
    """Return how many processes draw `count` scenes soonest on this machine; 0 for none beside this one."""
    workers = min(cores(), count // _ENOUGH)
    return workers if workers > 1 else 0


def _claim(out: Path, record: dict[str, Any]) -> None:
    """Make the folder ours, or verify that it is; UsageError for any other content."""
    path = out / _RECORD
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a new folder to write scenes to")
    # A write that was stopped before its record leaves only the record's temporary file.
    if not out.is_dir() or all(entry.match(TEMPORARY) for entry in out.iterdir()):
        _put(path, json.dumps(record, indent=2) + "\n")
        return
    try:
        existing = json.loads(path.read_text())
    except (OSError, ValueError):
        raise UsageError(f"{out} is not empty and holds no scenes written by this command: name a new folder") from None
    if existing != record:
        differs = sorted(k for k in record if not isinstance(existing, dict) or existing.get(k) != record[k])
        raise UsageError(f"{out} holds scenes written with another {', '.join(differs)}: name a new folder")


def _paths(out: Path, number: int, kind: Kind | None) -> dict[str, Path]:
    """Return every file of one scene."""
    label, stem = label_of(number, kind), f"{number:06d}"
    paths = {part: out / part / label / f"{stem}.png" for part in ("images", "segmentation", "depth", "pose")}
    if label in FIGURES:
        paths["keypoints"] = out / "keypoints" / label / f"{stem}.json"
    return paths


def _write_scene(out: Path, size: Size, kind: Kind | None, number: int) -> None:
    paths, drawn = _paths(out, number, kind), scene(number, size.width, size.height, kind=kind)
    depth = np.floor(drawn.depth.astype(np.float64) * 65535 + 0.5).astype(np.uint16)
    content: dict[str, str | Image.Image] = {
        "keypoints": json.dumps(_coco(drawn.keypoints, f"{drawn.label}/{paths['images'].name}", size)) + "\n",
        "pose": Image.fromarray(drawn.pose),
        "depth": Image.fromarray(depth),
        "segmentation": _palette_image(drawn.segmentation),
        "images": Image.fromarray(drawn.image),
    }
    for part, path in paths.items():
        _put(path, content[part])


def _palette_image(segmentation: Bytes) -> Image.Image:
    image = Image.fromarray(segmentation).convert("L")
    image.putpalette(PALETTE.tobytes())
    return image


def _coco(figures: list[Keypoints], name: str, size: Size) -> dict[str, Any]:
    """Return one picture's people in COCO's format; x and y in pixels from the top left corner."""
    people = []
    for joints in figures:
        xs, ys = zip(*[(x, y) for x, y, v in joints if v > 0] or [(0.0, 0.0)], strict=True)
        people.append(
            {
                "category_id": 1,
                "keypoints": [value for x, y, v in joints for value in (round(x, 2), round(y, 2), int(v))],
                "num_keypoints": sum(v > 0 for _, _, v in joints),
                "bbox": [round(v, 2) for v in (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))],
            }
        )
    category = {"id": 1, "name": "person", "keypoints": list(JOINTS), "skeleton": _COCO_SKELETON}
    return {
        "file_name": name,
        "width": size.width,
        "height": size.height,
        "annotations": people,
        "categories": [category],
    }


def _put(path: Path, content: str | Image.Image) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("xb") as stream:
            if isinstance(content, str):
                stream.write(content.encode())
            else:
                content.save(stream, format="PNG")

    write_atomically(path, write, durable=False)
