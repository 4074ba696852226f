"""Pictures in one array: the .npz of `arr_0`, uint8 (N, H, W, 3), and `arr_1`, classes, that the ADM suite publishes
and reads (Dhariwal and Nichol 2021). Read and written picture by picture: tens of thousands do not fit in memory."""

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from taming_cli.errors import BadFileError

PICTURES, CLASSES = "arr_0.npy", "arr_1.npy"
Picture = npt.NDArray[np.uint8]


def members(path: Path) -> set[str]:
    """The names of the arrays in an .npz, with `.npy`. BadFileError where it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadFileError(f"{path}: damaged or no .npz at all ({error}); write or fetch it again") from error


def shape_of(path: Path) -> tuple[int, int, int, int]:
    """(N, H, W, 3) of the pictures in an .npz. BadFileError where there are none, or of another type."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(PICTURES) as stream:
            shape, dtype = _header(stream)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise BadFileError(f"{path}: damaged ({error}); write or fetch it again") from error
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or not math.prod(shape):
        raise BadFileError(f"{path}: {PICTURES} is {dtype} {shape}; pictures are uint8 (N, H, W, 3)")
    count, height, width, channels = map(int, shape)
    return count, height, width, channels


def read_pictures(path: Path) -> Iterator[Picture]:
    """Each picture (H, W, 3) in turn. BadFileError where the file ends too soon or is damaged."""
    shape = shape_of(path)
    each = math.prod(shape[1:])
    with zipfile.ZipFile(path) as archive, archive.open(PICTURES) as stream:
        _header(stream)
        for number in range(shape[0]):
            try:
                data = stream.read(each)
            except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise BadFileError(f"{path}: damaged at picture {number} ({error}); write it again") from error
            if len(data) < each:
                raise BadFileError(f"{path}: ends within picture {number} of {shape[0]}; write it again")
            yield np.frombuffer(data, np.uint8).reshape(shape[1:])


def made_of(path: Path) -> str | None:
    """What `write_pictures` was told that the pictures were made of; None for a file of another's making, or none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment.decode() or None
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def write_pictures(
    path: Path, pictures: Iterable[Picture], count: int, classes: Sequence[int] | None = None, *, made: str = ""
) -> None:
    """Write `count` pictures (H, W, 3) of one size, and their classes where there are any. `made` says of what they
    were made, in the archive's comment, which readers of arrays pass over."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        archive.comment = made.encode()
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


def _header(stream: IO[bytes]) -> tuple[Any, np.dtype[Any]]:
    """The shape and type of the array that a stream goes on with."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if fortran:
        raise ValueError("columns first")
    return shape, dtype
