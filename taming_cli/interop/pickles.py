"""Other people's checkpoints: tensors, numbers, strings and plain containers out of a file, and nothing is ever run.

A `.ckpt`, `.pt`, `.pth` or `.bin` is a pickle, with the tensors' numbers beside it in a zip archive or after it in the
same file. Tensors stay in the file until they are asked for, so that what is not wanted costs nothing.
"""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from taming_cli.errors import BadFileError
from taming_cli.interop.unpickler import Damaged, Storage, unpickle
from taming_cli.runtime.checkpoint import SAFETENSORS
from taming_cli.runtime.stored import Stored

OLD_MAGIC, OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001
"""The first two numbers in a file that torch wrote before its zip format (1.6)."""


def read(path: Path) -> Any:
    """What a checkpoint holds: nested containers of plain values, with `Stored` tensors and `Inert` stand-ins.

    Zip and older files of torch, and safetensors (a flat dict); what comes as what is told at `unpickle`. BadFileError
    for a file that is damaged, claims more than it holds, or is none of these; it is told in one line and nothing of
    the file has been run. A tensor's `load()` raises the same where its numbers are damaged.
    """
    with _in_one_line(path):
        if not path.is_file():
            raise BadFileError(f"{path} is no file" if path.exists() else f"checkpoint {path} does not exist")
        with path.open("rb") as stream:
            start = stream.read(512)
        if path.suffix == ".safetensors":
            return _safetensors(path)
        if start.startswith(b"PK"):
            return _zip(path)
        if start[257:262] == b"ustar":
            raise Damaged("it is a tar file, as torch before 0.2 wrote them")
        return _old(path)


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """A damaged or unreadable file as a BadFileError of one printable line, whatever names the file put into it."""
    try:
        yield
    except (Damaged, OSError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        shown = "".join(character if character.isprintable() else "?" for character in reason[:300])
        raise BadFileError(f"{path} cannot be read: {shown}") from None


def _later(path: Path, contents: Callable[[str], bytearray], name: str) -> bytearray:
    """A storage's bytes, when a tensor is asked for."""
    with _in_one_line(path):
        return contents(name)


def _zip(path: Path) -> Any:
    """torch >= 1.6: a zip archive with the pickle in `*/data.pkl` and each storage in `*/data/<key>`, uncompressed."""
    size = path.stat().st_size
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # damaged bytes make the zip reader raise anything, too
        raise Damaged(f"it is a damaged zip file ({error})") from None
    members = {member.filename: member for member in archive.infolist()}
    names = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(names) != 1:
        raise Damaged("it is a zip archive, but none that torch.save wrote")
    folder = names[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members:
        raise Damaged("it is a compiled TorchScript model; give the checkpoint that it was made from")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
        raise Damaged("it is a compressed zip archive, which torch.save never writes; unpack it")
    if len(members) < len(archive.infolist()) or sum(member.file_size for member in members.values()) > size:
        raise Damaged("its members overlap, or are larger than the file")

    def contents(name: str) -> bytearray:
        if name not in members:
            raise Damaged(f"{name} is missing in it")
        data, got = bytearray(members[name].file_size), 0
        try:
            with archive.open(members[name]) as stream:
                while chunk := stream.read(1 << 20):  # to the end, where the checksum is compared
                    data[got : got + len(chunk)] = chunk
                    got += len(chunk)
        except Exception as error:
            raise Damaged(f"{name} in it is damaged ({error})") from None
        if got != len(data):
            raise Damaged(f"{name} in it is cut short")
        return data

    if f"{folder}byteorder" in members and contents(f"{folder}byteorder") != b"little":
        raise Damaged("its numbers are in big-endian order")

    def storage(dtype: torch.dtype, key: str, count: int) -> Storage:
        name = f"{folder}data/{key}"
        if name not in members or members[name].file_size != count * dtype.itemsize:
            raise Damaged(f"it claims {count} numbers in {name}, which are not there")
        return Storage(dtype, count, partial(_later, path, contents, name))

    return unpickle(io.BytesIO(contents(names[0])), size, storage)


def _old(path: Path) -> Any:
    """torch < 1.6: five pickles (magic number, version, system, the value, the storages' keys), then the storages."""
    size = path.stat().st_size
    places: dict[str, int] = {}
    claimed: dict[str, Storage] = {}

    def none(*_: object) -> Storage:
        raise Damaged("it refers to a tensor where there can be none")

    def contents(key: str) -> bytearray:
        data = bytearray(claimed[key].numel * claimed[key].dtype.itemsize)
        with path.open("rb") as stream:
            stream.seek(places[key])
            if stream.readinto(data) != len(data):
                raise Damaged("it is cut short")
        return data

    def storage(dtype: torch.dtype, key: str, count: int) -> Storage:
        found = claimed.setdefault(key, Storage(dtype, count, partial(_later, path, contents, key)))
        if (found.dtype, found.numel) != (dtype, count) or count * dtype.itemsize > size:
            raise Damaged(f"it claims {count} numbers in storage {key}, which are not there")
        return found

    with path.open("rb") as stream:
        try:
            known = unpickle(stream, size, none) == OLD_MAGIC and unpickle(stream, size, none) == OLD_VERSION
        except Damaged:
            known = False
        if not known:
            raise Damaged("it is no checkpoint of torch, nor a .safetensors file")
        unpickle(stream, size, none)
        value = unpickle(stream, size, storage)
        keys = unpickle(stream, size, none)
        if (
            not isinstance(keys, list)
            or not all(isinstance(key, str) for key in keys)
            or sorted(keys) != sorted(claimed)
        ):
            raise Damaged("its list of storages is damaged")
        for key in keys:
            (count,) = struct.unpack("<q", stream.read(8).ljust(8, b"\xff"))
            if count != claimed[key].numel:
                raise Damaged(f"storage {key} has another size than it claims")
            places[key] = stream.tell()
            stream.seek(count * claimed[key].dtype.itemsize, io.SEEK_CUR)
        if stream.tell() > size:
            raise Damaged("it is cut short")
    return value


def _safetensors(path: Path) -> dict[str, Stored]:
    types = {name: dtype for dtype, name in SAFETENSORS.items()}
    try:
        file: Any = safe_open(path, framework="pt")
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        raise Damaged(str(error)) from None
    for name, part in parts.items():
        if part.get_dtype() not in types:
            raise Damaged(f"{name} in it holds numbers of type {part.get_dtype()}, which is not read here")

    def load(name: str) -> Tensor:
        with _in_one_line(path):
            try:
                tensor: Tensor = file.get_tensor(name)
            except Exception as error:  # a shape that torch cannot hold ends in any of three kinds
                raise Damaged(f"{name} in it is damaged ({error})") from None
            return tensor

    return {
        name: Stored(types[part.get_dtype()], tuple(part.get_shape()), partial(load, name))
        for name, part in parts.items()
    }
