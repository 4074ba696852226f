"""Token files that refer to other files, and token files that declare or unpack to much more than they are."""

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
from examples.files import content_of

from attacks import SECRET, Attack, Scene

Change = Callable[[h5py.File], object]


def links(scene: Scene) -> list[Attack]:
    """References in place of /codes, /names and /conditions."""
    other = scene.outside / "other.h5"
    shutil.copy(scene.material.tokens, other)
    secret = scene.outside / "secret"

    def replaced(name: str, link: object) -> Change:
        def change(file: h5py.File) -> None:
            if name in file:
                del file[name]
            file[name] = link

        return change

    def soft(file: h5py.File) -> None:
        file["elsewhere"] = file["codes"]
        replaced("codes", h5py.SoftLink("/elsewhere"))(file)

    def virtual(file: h5py.File) -> None:
        shape, dtype = file["codes"].shape, file["codes"].dtype
        layout = h5py.VirtualLayout(shape=shape, dtype=dtype)
        layout[:] = h5py.VirtualSource(str(other), "codes", shape=shape)
        del file["codes"]
        file.create_virtual_dataset("codes", layout)

    def raw(file: h5py.File) -> None:
        count = len(file["names"])
        attributes = dict(file["names"].attrs)
        del file["names"]
        where = [(str(secret), 0, count * len(SECRET))]
        names = file.create_dataset("names", (count,), h5py.string_dtype("utf-8", len(SECRET)), external=where)
        for name, value in attributes.items():
            names.attrs[name] = value

    changes: dict[str, Change] = {
        "external link": replaced("codes", h5py.ExternalLink(str(other), "/codes")),
        "external names": replaced("names", h5py.ExternalLink(str(other), "/names")),
        "external conditions": replaced("conditions", h5py.ExternalLink(str(other), "/")),
        "external skipped": replaced("skipped", h5py.ExternalLink(str(other), "/")),
        "soft link": soft,
        "broken soft link": replaced("codes", h5py.SoftLink("/nowhere")),
        "link to itself": replaced("codes", h5py.SoftLink("/codes")),
        "virtual": virtual,
        "raw bytes of another file": raw,
    }
    return [_changed(scene, name, change) for name, change in changes.items()]


def bombs(scene: Scene) -> list[Attack]:
    """Columns that are declared but hold nothing, and columns and chunks of zeros, packed."""

    def column(name: str, shape: tuple[int, ...], dtype: Any, **options: Any) -> Change:
        def change(file: h5py.File) -> None:
            attributes = dict(file[name].attrs) if name in file else {}
            if name in file:
                del file[name]
            limits = {"maxshape": (None, *shape[1:])} if "chunks" in options else {}
            created = file.create_dataset(name, shape, dtype, **{**limits, **options})
            for key, value in attributes.items():
                created.attrs[key] = value

        return change

    def rows(count: int, row: tuple[int, ...] = (1, 8, 8), **options: Any) -> Change:
        def change(file: h5py.File) -> None:
            chunks = {"chunks": (256, *row)} if len(row) == 3 and row[1] < 999 else {"chunks": (1, 1, 64, 64)}
            column("codes", (count, *row), "u2", **chunks)(file)
            column("names", (count,), h5py.string_dtype("utf-8", 4), chunks=(1024,))(file)
            column("labels", (count,), "i4", chunks=(1024,), **options)(file)

        return change

    def packed(name: str, count: int, dtype: Any, chunk: int) -> Change:
        def change(file: h5py.File) -> None:
            rows(count)(file)
            column(name, (count,), dtype, chunks=(chunk,), compression="gzip")(file)
            zeros = zlib.compress(bytes(chunk * file[name].dtype.itemsize), 1)
            for start in range(0, count, chunk):
                file[name].id.write_direct_chunk((start,), zeros)

        return change

    text = h5py.string_dtype("utf-8", 1)
    changes: dict[str, Change] = {
        "rows without values": rows(2**31),
        "rows beyond numbers": rows(2**60),
        "a row without values": rows(4, (1, 2**16, 2**16)),
        "views without values": rows(4, (2**28, 2, 2)),
        "label names without values": column("label_names", (2**28,), h5py.string_dtype("utf-8", 64), chunks=(1024,)),
        "one long label name": column("label_names", (1,), h5py.string_dtype("utf-8", 2**30), chunks=(1,)),
        "long names": column("names", (12,), h5py.string_dtype("utf-8", 2**28), chunks=(1,)),
        "packed labels": packed("labels", 2**28, "i4", 2**20),
        "packed label names": packed("label_names", 2**28, text, 2**20),
        "a large chunk": packed("labels", 2**27, "i4", 2**27),
        "a large chunk of few rows": column("labels", (12,), "i4", chunks=(2**28,), maxshape=(None,)),
    }
    return [_changed(scene, name, change) for name, change in changes.items()]


def _changed(scene: Scene, name: str, change: Change) -> Attack:
    path: Path = scene.folder / f"{name}.h5"
    shutil.copy(scene.material.tokens, path)
    with h5py.File(path, "r+") as file:
        change(file)
    return Attack(name, path, content_of, warm=lambda: content_of(scene.material.tokens))
