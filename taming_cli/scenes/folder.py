"""Scenes as a folder: pictures and their maps by class, the way a user's own data set would lie on a disk."""

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
from taming_cli.data.conditions.pose import Keypoints
from taming_cli.data.disk import refusals
from taming_cli.data.workers import cores, in_order, processes
from taming_cli.errors import UsageError
from taming_cli.scenes.canvas import FIGURES, LABELS, PALETTE, Bytes, Floats
from taming_cli.scenes.generate import Kind, check, label_of, scene

_RECORD = "scenes.json"
_LARGE = (1280, 832)
_ENOUGH = 20
"""Scenes that are worth a process: to begin takes as long as ten of them."""
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
    on its line, colours.txt says its colour too (for maps painted by hand, and `--colours`), seg.png is one 1280 x 832
    segmentation, and scenes.json records the arguments. Files appear complete or not at all; the same call again writes
    what is missing. `workers` processes draw; with 0 this one does. `on_item(done, count)` is called after each scene
    drawn, and at the beginning if some are there.

    Raises UsageError when `out` holds anything but this very data set, or an argument is out of range.
    """
    if count < 1:
        raise UsageError(f"count {count} is too small: write at least 1 scene")
    if workers < 0:
        raise UsageError(f"workers is {workers}; give a number of processes, or 0 for none")
    check(seed, size.width, size.height, kind)
    check(seed + count - 1, size.width, size.height, kind)
    record = {"format": "taming-scenes", "format_version": 1, "count": count, "size": str(size),
              "seed": seed, "kind": kind}  # fmt: skip
    _claim(out, record)
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
    _replace(out / "labels.txt", "".join(f"{name}\n" for name in LABELS).encode())
    table = (f"#{bytes(rgb).hex()} {name}\n" for rgb, name in zip(PALETTE, LABELS, strict=True))
    _replace(out / "colours.txt", "".join(table).encode())
    if not (out / "seg.png").exists():
        # A lake, for its many labels; where only figures are wanted, the first of them.
        chosen = seed if kind == "figure" else seed - seed % 8 + 5
        _save(out / "seg.png", _palette_image(scene(chosen, *_LARGE, kind=kind or "landscape").segmentation))
    return out


def workers_for(count: int) -> int:
    """How many processes draw so many scenes soonest on this machine; 0 for none beside this one."""
    pays = min(cores(), count // _ENOUGH)
    return pays if pays > 1 else 0


def _claim(out: Path, record: dict[str, Any]) -> None:
    """Make the folder ours, or find that it is; anything else there is left alone."""
    path = out / _RECORD
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a new folder to write scenes to")
    # A write that was stopped before its record leaves only the record's temporary file.
    if out.is_dir() and any(entry.name != _RECORD + ".part" for entry in out.iterdir()):
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            raise UsageError(
                f"{out} is not empty and holds no scenes written by this command: name a new folder"
            ) from None
        if found != record:
            differs = sorted(key for key in record if not isinstance(found, dict) or found.get(key) != record[key])
            raise UsageError(f"{out} holds scenes written with another {', '.join(differs)}: name a new folder")
        return
    out.mkdir(parents=True, exist_ok=True)
    _replace(path, (json.dumps(record, indent=2) + "\n").encode())


def _paths(out: Path, number: int, kind: Kind | None) -> dict[str, Path]:
    """Every file of one scene."""
    label, stem = label_of(number, kind), f"{number:06d}"
    paths = {part: out / part / label / f"{stem}.png" for part in ("images", "segmentation", "depth", "pose")}
    if label in FIGURES:
        paths["keypoints"] = out / "keypoints" / label / f"{stem}.json"
    return paths


def _write_scene(out: Path, size: Size, kind: Kind | None, number: int) -> None:
    paths, drawn = _paths(out, number, kind), scene(number, size.width, size.height, kind=kind)
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    if "keypoints" in paths:
        content = _coco(drawn.keypoints, f"{drawn.label}/{paths['images'].name}", size.width, size.height)
        _replace(paths["keypoints"], (json.dumps(content) + "\n").encode())
    _save(paths["pose"], Image.fromarray(drawn.pose))
    _save(paths["depth"], Image.fromarray(_sixteen_bit(drawn.depth)))
    _save(paths["segmentation"], _palette_image(drawn.segmentation))
    _save(paths["images"], Image.fromarray(drawn.image))


def _sixteen_bit(depth: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    return np.floor(depth.astype(np.float64) * 65535 + 0.5).astype(np.uint16)


def _palette_image(segmentation: Bytes) -> Image.Image:
    image = Image.fromarray(segmentation).convert("L")
    image.putpalette(PALETTE.tobytes())
    return image


def _coco(figures: list[Keypoints], name: str, width: int, height: int) -> dict[str, Any]:
    """One picture's people as COCO writes them; x and y in pixels from the top left corner."""
    people = []
    for joints in figures:
        seen = [(x, y) for x, y, v in joints if v > 0]
        xs, ys = [x for x, _ in seen] or [0.0], [y for _, y in seen] or [0.0]
        people.append(
            {
                "category_id": 1,
                "keypoints": [value for x, y, v in joints for value in (round(x, 2), round(y, 2), int(v))],
                "num_keypoints": len(seen),
                "bbox": [round(v, 2) for v in (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))],
            }
        )
    category = {"id": 1, "name": "person", "keypoints": list(JOINTS), "skeleton": _COCO_SKELETON}
    return {"file_name": name, "width": width, "height": height, "annotations": people, "categories": [category]}


def _save(path: Path, image: Image.Image) -> None:
    part = path.with_name(path.name + ".part")
    with refusals(path, part):
        image.save(part, format="PNG")
        part.replace(path)


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with refusals(path, part):
        part.write_bytes(content)
        part.replace(path)
