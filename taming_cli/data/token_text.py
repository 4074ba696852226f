"""Text attributes of token files: strings of varying length, as h5py gives them back, and safe where damaged.

HDF5 keeps such text in a heap that no checksum covers, and may not come back from reading one that is damaged. So a
token file says where its heaps are, and their checksums, in an attribute of fixed length, which HDF5 protects.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from taming_cli.data.disk import Disk
from taming_cli.errors import BadFileError

HEAPS = ("names", "text_heaps")
"""Dataset and attribute, of fixed length: of each heap "PLACE:SIZE:CRC32", in bytes and hexadecimal."""
_MAGIC = b"GCOL\x01\0\0\0"
_LARGEST = 2**24


def write_text(attributes: Any, name: str, text: str) -> None:
    """Write a text attribute of an HDF5 object; the partner of `read_text`."""
    attributes.create(name, text, dtype=h5py.string_dtype("utf-8"))


def read_text(attributes: Any, name: str) -> str:
    """Read a text attribute, of varying or (from earlier versions) of fixed length; raises `KeyError` or
    `ValueError`."""
    stored = attributes[name]
    if isinstance(stored, np.ndarray) and stored.size == 1:
        stored = stored.reshape(-1)[0]
    if not isinstance(stored, str | bytes):
        raise ValueError(f"attribute {name} is {type(stored).__name__}, not text")
    try:
        return stored.decode("utf-8") if isinstance(stored, bytes) else str(stored).encode("utf-8").decode()
    except UnicodeError:
        raise ValueError(f"attribute {name} is not utf-8") from None


class TextDisk(Disk):
    """A file that HDF5 writes to, which sees where the heaps go."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._heaps: set[int] = set()

    def write(self, data: Any) -> int:
        """Take all of it; returns its length."""
        start, content = self.tell(), bytes(data)
        place = content.find(_MAGIC)
        while place >= 0:
            self._heaps.add(start + place)
            place = content.find(_MAGIC, place + 1)
        return super().write(data)

    def heaps(self) -> Iterator[tuple[int, int, int]]:
        """Place, size and CRC-32 of each heap that has been written."""
        end = self.seek(0, 2)
        for place in sorted(self._heaps):
            self.seek(place)
            size = int.from_bytes(self.read(16)[8:], "little")
            if size <= min(_LARGEST, end - place):
                self.seek(place)
                yield place, size, zlib.crc32(self.read(size))


def seal_text(file: h5py.File, disk: TextDisk) -> None:
    """Write where the heaps are, once all text is; the partner of `check_text`."""
    file.flush()
    if disk.refusal is None:
        said = " ".join(f"{place}:{size}:{checksum:08x}" for place, size, checksum in disk.heaps())
        file[HEAPS[0]].attrs[HEAPS[1]] = np.bytes_(said)


def check_text(file: h5py.File) -> None:
    """BadFileError where text is not as it was written. To be called before any is read.

    Files of earlier versions have text of fixed length and no heaps; in those that another program wrote anew the heaps
    lie elsewhere, and are not known.
    """
    column = file.get(HEAPS[0])
    if column is None or HEAPS[1] not in column.attrs or not any(map(_varies, _attributes(file))):
        return
    with Path(file.filename).open("rb") as stream:
        for said in column.attrs[HEAPS[1]].decode("ascii").split():
            place, size, checksum = said.split(":")
            stream.seek(int(place))
            content = stream.read(min(int(size), _LARGEST))
            if content.startswith(_MAGIC[:4]) and zlib.crc32(content) != int(checksum, 16):
                raise BadFileError("damaged: its text attributes are not as taming wrote them; make it again")


def _attributes(file: h5py.File) -> Iterator[Any]:
    conditions = file.get("conditions")
    kinds = conditions.values() if isinstance(conditions, h5py.Group) else ()
    for each in (file, *(kind for kind in kinds if kind is not None)):
        yield from (each.attrs.get_id(name) for name in each.attrs)


def _varies(attribute: Any) -> bool:
    text = h5py.check_string_dtype(attribute.dtype)
    return text is not None and text.length is None
