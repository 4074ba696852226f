"""Text attributes of token files: strings of variable length, with a checksum.

HDF5 stores such text in heaps without a checksum, and may loop forever on a damaged heap. So a token file records the
positions of its heaps and the checksum of its text in an attribute of fixed length, which HDF5 protects.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from taming_cli.data.disk import Disk
from taming_cli.errors import BadFileError

CHECK = ("names", "text_check")
"""Dataset and attribute, of fixed length: the CRC-32 of the text, then OFFSET:SIZE in bytes of each heap."""
TEXTS = ("format", "codec_sha256", "codec_path", "preprocess", "created_by", "plan_sha256", "part")
"""Text attributes of the file and of its conditions, where present."""
_MAGIC = b"GCOL\x01\0\0\0"
_LARGEST = 2**24


def write_text(attributes: Any, name: str, text: str) -> None:
    """Write a text attribute of an HDF5 object; the inverse of `read_text`."""
    attributes.create(name, text, dtype=h5py.string_dtype("utf-8"))


def read_text(attributes: Any, name: str) -> str:
    """Read a text attribute, of variable or (in earlier versions) fixed length. Raises `KeyError` or `ValueError`."""
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
    """A file written by HDF5 that records the positions of heaps."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._heaps: set[int] = set()

    def write(self, data: Any) -> int:
        """Accept all bytes; returns their number."""
        start, content = self.tell(), bytes(data)
        place = content.find(_MAGIC)
        while place >= 0:
            self._heaps.add(start + place)
            place = content.find(_MAGIC, place + 1)
        return super().write(data)

    def heaps(self) -> Iterator[tuple[int, int]]:
        """Yield offset and size of each heap that has been written."""
        end = self.seek(0, 2)
        for place in sorted(self._heaps):
            self.seek(place)
            size = int.from_bytes(self.read(16)[8:], "little")
            self.seek(place)
            if size <= min(_LARGEST, end - place) and _is_sound(self.read(size)):
                yield place, size


def seal_text(file: h5py.File, disk: TextDisk) -> None:
    """Write the positions of the heaps and the checksum of all text; `check_text` verifies them."""
    file.flush()
    if disk.refusal is None:
        heaps = " ".join(f"{place}:{size}" for place, size in disk.heaps())
        file[CHECK[0]].attrs[CHECK[1]] = np.bytes_(f"{_checksum(file):08x} {heaps}")


def check_text(file: h5py.File) -> None:
    """Raise BadFileError if text was changed; to be called before any text is read.

    Files of earlier versions have text of fixed length and no checksum. In files rewritten by another program the
    positions of the heaps are unknown.
    """
    column = file.get(CHECK[0])
    if column is None or CHECK[1] not in column.attrs:
        return
    checksum, *heaps = column.attrs[CHECK[1]].decode("ascii").split()
    if any(map(_varies, _attributes(file))):
        with Path(file.filename).open("rb") as stream:
            for heap in heaps:
                place, size = map(int, heap.split(":"))
                stream.seek(place)
                content = stream.read(min(size, _LARGEST))
                if content.startswith(_MAGIC[:4]) and not _is_sound(content):
                    raise BadFileError("damaged: its text attributes cannot be read")
    if _checksum(file) != int(checksum, 16):
        raise BadFileError("damaged: its text attributes differ from what taming wrote")


def _checksum(file: h5py.File) -> int:
    texts = [read_text(each.attrs, name) for each in _objects(file) for name in TEXTS if name in each.attrs]
    return zlib.crc32("\0".join(texts).encode())


def _is_sound(heap: bytes) -> bool:
    """Return whether HDF5 would reach the heap's end: its objects fill it and have distinct numbers.

    A heap is a header of 16 bytes (signature, version, size), then objects: number (2 bytes), references (2), unused
    (4), size (8), and content, padded to 8 bytes. Number 0 is the free space, including its header.
    """
    if not heap.startswith(_MAGIC[:5]) or int.from_bytes(heap[8:16], "little") != len(heap):
        return False
    place, numbers = 16, set[int]()
    while len(heap) - place >= 16:
        number = int.from_bytes(heap[place : place + 2], "little")
        size = int.from_bytes(heap[place + 8 : place + 16], "little")
        if number == 0:
            return size == len(heap) - place
        if number in numbers:
            return False
        numbers.add(number)
        place += 16 + -(-size // 8) * 8
    return place <= len(heap)


def _objects(file: h5py.File) -> Iterator[Any]:
    """Yield the objects with text attributes: the file and its conditions, in order."""
    yield file
    conditions = file.get("conditions")
    if isinstance(conditions, h5py.Group):
        yield from (conditions[kind] for kind in sorted(conditions) if conditions.get(kind) is not None)


def _attributes(file: h5py.File) -> Iterator[Any]:
    return (each.attrs.get_id(name) for each in _objects(file) for name in each.attrs)


def _varies(attribute: Any) -> bool:
    text = h5py.check_string_dtype(attribute.dtype)
    return text is not None and text.length is None
