"""Checkpoint files of other programs: tensors, numbers, strings and plain containers, read without running any code.

A `.ckpt`, `.pt`, `.pth` or `.bin` file is a pickle, with the tensors' values beside it in a zip archive, or behind it
in the same file. Values stay in the file until a tensor is loaded.
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
from safetensors import SafetensorError
from torch import Tensor

from taming_cli.errors import BadFileError
from taming_cli.interop.unpickler import DamagedError, Storage, unpickle
from taming_cli.runtime.checkpoint import SAFETENSORS, check_header, open_safetensors
from taming_cli.runtime.stored import Stored

OLD_MAGIC, OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001
"""The first two numbers in a file of torch's format before zip (version 1.6)."""


def read(path: Path) -> Any:
    """Read a checkpoint: nested containers of plain values, with `Stored` tensors and placeholders (see `unpickle`).

    Supports both formats of torch, and safetensors (a flat dict). BadFileError, in one line, if the file is damaged,
    claims more than it contains, or has another format; a tensor's `load()` raises it if its values are damaged.
    """
    with _one_line_errors(path):
        if not path.is_file():
            raise BadFileError(f"{path} is not a file" if path.exists() else f"checkpoint {path} does not exist")
        with path.open("rb") as stream:
            start = stream.read(512)
        if path.suffix == ".safetensors":
            check_header(path)
            return _read_safetensors(path)
        if start.startswith(b"PK"):
            return _read_zip(path)
        if start[257:262] == b"ustar":
            raise DamagedError("it is a tar file, as torch before 0.2 wrote them")
        return _read_old(path)


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Convert errors to a BadFileError of one printable line, regardless of the names in the file."""
    try:
        yield
    except (DamagedError, OSError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        printable = "".join(character if character.isprintable() else "?" for character in reason[:300])
        raise BadFileError(f"{path} cannot be read: {printable}") from None


def _read_later(path: Path, read_values: Callable[[str], bytearray], key: str) -> bytearray:
    """The bytes of a storage, read when its tensor is loaded."""
    with _one_line_errors(path):
        return read_values(key)


def _read_zip(path: Path) -> Any:
    """torch >= 1.6: a zip archive with the pickle in `*/data.pkl` and each storage in `*/data/<key>`, uncompressed."""
    size = path.stat().st_size
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # for damaged bytes, zipfile can raise any exception
        raise DamagedError(f"it is a damaged zip file ({error})") from None
    members = {member.filename: member for member in archive.infolist()}
    names = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(names) != 1:
        raise DamagedError("it is a zip archive that torch.save did not write")
    folder = names[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members:
        raise DamagedError("it is a compiled TorchScript model; give the checkpoint that it was made from")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
        raise DamagedError("it is a compressed zip archive, which torch.save never writes; unpack it")
    if len(members) < len(archive.infolist()) or sum(member.file_size for member in members.values()) > size:
        raise DamagedError("its members overlap, or are larger than the file")

    def read_member(name: str) -> bytearray:
        if name not in members:
            raise DamagedError(f"its member {name} is missing")
        data, done = bytearray(members[name].file_size), 0
        try:
            with archive.open(members[name]) as stream:
                while chunk := stream.read(1 << 20):  # to the end, so that the checksum is verified
                    data[done : done + len(chunk)] = chunk
                    done += len(chunk)
        except Exception as error:
            raise DamagedError(f"its member {name} is damaged ({error})") from None
        if done != len(data):
            raise DamagedError(f"its member {name} is cut short")
        return data

    if f"{folder}byteorder" in members and read_member(f"{folder}byteorder") != b"little":
        raise DamagedError("its values are in big-endian byte order")

    def find_storage(dtype: torch.dtype, key: str, count: int) -> Storage:
        name = f"{folder}data/{key}"
        if name not in members or members[name].file_size != count * dtype.itemsize:
            raise DamagedError(f"its member {name} does not have the {count} values that the pickle claims")
        return Storage(dtype, count, partial(_read_later, path, read_member, name))

    return unpickle(io.BytesIO(read_member(names[0])), size, find_storage)


def _read_old(path: Path) -> Any:
    """torch < 1.6: five pickles (magic number, version, system, the value, the storages' keys), then the storages."""
    size = path.stat().st_size
    offsets: dict[str, int] = {}
    storages: dict[str, Storage] = {}

    def no_storage(*_: object) -> Storage:
        raise DamagedError("it refers to a tensor in its header")

    def read_values(key: str) -> bytearray:
        data = bytearray(storages[key].numel * storages[key].dtype.itemsize)
        with path.open("rb") as stream:
            stream.seek(offsets[key])
            if stream.readinto(data) != len(data):
                raise DamagedError("it is cut short")
        return data

    def find_storage(dtype: torch.dtype, key: str, count: int) -> Storage:
        storage = storages.setdefault(key, Storage(dtype, count, partial(_read_later, path, read_values, key)))
        if (storage.dtype, storage.numel) != (dtype, count) or count * dtype.itemsize > size:
            raise DamagedError(f"its storage {key} does not have the {count} values that the pickle claims")
        return storage

    with path.open("rb") as stream:
        try:
            header = [unpickle(stream, size, no_storage), unpickle(stream, size, no_storage)]
        except DamagedError:
            header = []
        if header != [OLD_MAGIC, OLD_VERSION]:
            raise DamagedError("it is neither a torch checkpoint nor a .safetensors file")
        unpickle(stream, size, no_storage)
        value = unpickle(stream, size, find_storage)
        keys = unpickle(stream, size, no_storage)
        strings = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
        if not strings or sorted(keys) != sorted(storages):
            raise DamagedError("its list of storages is damaged")
        for key in keys:
            (count,) = struct.unpack("<q", stream.read(8).ljust(8, b"\xff"))
            if count != storages[key].numel:
                raise DamagedError(f"its storage {key} has another size than the pickle claims")
            offsets[key] = stream.tell()
            stream.seek(count * storages[key].dtype.itemsize, io.SEEK_CUR)
        if stream.tell() > size:
            raise DamagedError("it is cut short")
    return value


def _read_safetensors(path: Path) -> dict[str, Stored]:
    dtypes = {name: dtype for dtype, name in SAFETENSORS.items()}
    try:
        file = open_safetensors(path)
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise DamagedError(str(error)) from None
    for name, part in slices.items():
        if part.get_dtype() not in dtypes:
            raise DamagedError(f"its tensor {name} has the type {part.get_dtype()}, which is not supported")

    def load(name: str) -> Tensor:
        with _one_line_errors(path):
            try:
                tensor: Tensor = file.get_tensor(name)
            except Exception as error:  # a shape that torch cannot represent raises one of three kinds
                raise DamagedError(f"its tensor {name} is damaged ({error})") from None
            return tensor

    return {
        name: Stored(dtypes[part.get_dtype()], tuple(part.get_shape()), partial(load, name))
        for name, part in slices.items()
    }
