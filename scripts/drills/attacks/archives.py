"""Archives whose members lead out of a folder, and archives that unpack to much more than they are."""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attacks import Attack, Scene
from taming_cli.data.images import read_image
from taming_cli.data.sources import list_items

BOMB, BLOCK = 3 * 2**27, bytes(2**24)
"""Bytes that a bomb unpacks to, and a part of it."""


def read(path: Path) -> Any:
    """Every picture of an archive, decoded; its names may not lead out of a folder."""
    found = []
    for item in list_items([path]).items:
        if item.name.startswith("/") or ".." in item.name.split("/"):
            raise ValueError(f"{item.name} leads out of a folder")
        found.append((item.name, read_image(item.read(), item.name)))
    return found


def escapes(scene: Scene) -> list[Attack]:
    """Members with names that lead out, links, and devices."""
    picture = next(scene.material.pictures.rglob("*.png")).read_bytes()
    secret = str(scene.outside / "secret")
    names = ("../up.png", "a/../../up.png", f"{scene.outside}/made.png", "..\\up.png", "/etc/passwd.png", "C:\\up.png")
    attacks = []
    for number, name in enumerate(names):
        zipped, tarred = scene.folder / f"name{number}.zip", scene.folder / f"name{number}.tar"
        with zipfile.ZipFile(zipped, "w") as archive:
            archive.writestr(name, picture)
        with tarfile.open(tarred, "w") as tar:
            _add(tar, name, picture)
        attacks += [Attack(f"{path.suffix} {name}", path, read, may_be_read=True) for path in (zipped, tarred)]
    for kind, code in {"symlink": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}.items():
        path = scene.folder / f"{kind}.tar"
        with tarfile.open(path, "w") as tar:
            about = tarfile.TarInfo("a.png")
            about.type, about.linkname = code, secret
            tar.addfile(about)
        attacks.append(Attack(f"tar {kind}", path, read))
    linked = scene.folder / "link.zip"
    with zipfile.ZipFile(linked, "w") as archive:
        member = zipfile.ZipInfo("a.png")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, secret)
    return [*attacks, Attack("zip symlink", linked, read, named="a.png")]


def bombs(scene: Scene) -> list[Attack]:
    """Members and archives of zeros, packed; and sizes that are only claimed."""
    attacks = []
    for name in ("a.png", "a.bmp", "a.cls", "a.unknown"):
        path = scene.folder / f"{name}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("b.png", b"no picture")
            with archive.open(name, "w", force_zip64=True) as stream:
                for _ in range(BOMB // len(BLOCK)):
                    stream.write(BLOCK)
        attacks.append(Attack(f"zip {name}", path, read, named=name if name[2:] in ("png", "bmp", "cls") else "b.png"))
    packers: dict[str, Callable[[bytes], bytes]] = {
        "tar.gz": gzip.compress,
        "tar.bz2": bz2.compress,
        "tar.xz": lzma.compress,
    }
    for suffix, pack in packers.items():
        zeros = pack(BLOCK) * (BOMB // len(BLOCK))  # a file of several streams unpacks to all of them
        for kind in ("member", "header", "nothing"):
            path = scene.folder / f"{kind}.{suffix}"
            about = tarfile.TarInfo("a.png")
            about.size, about.type = BOMB, tarfile.XHDTYPE if kind == "header" else tarfile.REGTYPE
            start = b"" if kind == "nothing" else pack(about.tobuf(tarfile.GNU_FORMAT))
            path.write_bytes(start + zeros)
            attacks.append(Attack(f"{suffix} {kind}", path, read))
    for power in (33, 45, 62):
        path = scene.folder / f"claimed{power}.tar"
        about = tarfile.TarInfo("a.png")
        about.size = 2**power
        path.write_bytes(about.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        attacks.append(Attack(f"tar claims 2^{power} bytes", path, read))
    return attacks


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))
