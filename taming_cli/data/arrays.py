"""Pictures in one .npz: `arr_0`, uint8 (N, H, W, 3), and `arr_1`, classes, the format of the ADM suite (Dhariwal and
Nichol 2021). Files are read and written picture by picture, because tens of thousands do not fit in memory."""

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from taming_cli.errors import BadFileError

PICTURES, CLASSES = "arr_0.npy", "arr_1.npy"
Picture = npt.NDArray[np.uint8]


def members(path: Path) -> set[str]:
    """Return the names of the arrays in an .npz, with `.npy`. Raises BadFileError for other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadFileError(f"{path}: damaged, or not an .npz file ({error}); write or fetch it again") from error


def shape_of(path: Path) -> tuple[int, int, int, int]:
    """Return the shape (N, H, W, 3) of the pictures in an .npz. Raises BadFileError for missing or other arrays."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(PICTURES) as stream:
            shape, by_columns, dtype = read_header(stream)
            if by_columns:
                raise ValueError("columns first")
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise BadFileError(f"{path}: damaged ({error}); write or fetch it again") from error
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or not math.prod(shape):
        raise BadFileError(f"{path}: {PICTURES} is {dtype} {shape}; pictures are uint8 (N, H, W, 3)")
    count, height, width, channels = map(int, shape)
    return count, height, width, channels


def read_pictures(path: Path) -> Iterator[Picture]:
    """Yield each picture (H, W, 3) in turn. Raises BadFileError where the file is truncated or damaged."""
    shape = shape_of(path)
    each = math.prod(shape[1:])
    with zipfile.ZipFile(path) as archive, archive.open(PICTURES) as stream:
        read_header(stream)
        for number in range(shape[0]):
            try:
                data = stream.read(each)
            except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise BadFileError(f"{path}: damaged at picture {number} ({error}); write it again") from error
            if len(data) < each:
                raise BadFileError(f"{path}: ends within picture {number} of {shape[0]}; write it again")
            yield np.frombuffer(data, np.uint8).reshape(shape[1:])


def origin_of(path: Path) -> str | None:
    """Return the `origin` that `write_pictures` recorded; None for files of other programs and missing ones."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment.decode() or None
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def write_pictures(
    path: Path, pictures: Iterable[Picture], count: int, classes: Sequence[int] | None = None, *, origin: str = ""
) -> None:
    """Write `count` pictures (H, W, 3) of one size, and their classes if given.

    `origin` identifies what the pictures depend on; the archive's comment records it, which readers of arrays ignore.
    """
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        archive.comment = origin.encode()
        with archive.open(PICTURES, "w", force_zip64=True) as stream:
            shape: tuple[int, ...] = ()
            for picture in pictures:
                if not shape:
                    shape = (count, *picture.shape)
                    about = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(stream, about)
                assert picture.shape == shape[1:], (picture.shape, shape)
                stream.write(picture.tobytes())
        if classes is not None:
            with archive.open(CLASSES, "w") as stream:
                np.save(stream, np.asarray(classes, dtype=np.int64))


class ArrayHeader(NamedTuple):
    """The header of an array in numpy's .npy format."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]


def read_header(stream: BinaryIO | IO[bytes]) -> ArrayHeader:
    """Read the header of an .npy array; the stream is then at its values. Raises what numpy raises."""
    version = np.lib.format.read_magic(stream)
    # Later versions are for long headers.
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return ArrayHeader(*read(stream))
