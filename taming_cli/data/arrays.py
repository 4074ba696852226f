"""Pictures in one .npz: `arr_0`, uint8 (N, H, W, 3), and `arr_1`, classes, the format of the ADM suite (Dhariwal and
Nichol 2021). Files are read and written picture by picture, because tens of thousands do not fit in memory."""

import math
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from taming_cli.errors import BadFileError, TamingError

PICTURES, CLASSES = "arr_0.npy", "arr_1.npy"
Picture = npt.NDArray[np.uint8]


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an .npz to read it. Any exception in the context becomes a BadFileError that names the file, because zipfile
    and numpy raise nearly every class for damaged bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except TamingError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadFileError(f"{path}: damaged, or not an .npz file ({reason}); write or fetch it again") from error


def members(path: Path) -> set[str]:
    """Return the names of the arrays in an .npz, with `.npy`. Raises BadFileError for other files."""
    with opened(path) as archive:
        return set(archive.namelist())


def shape_of(path: Path) -> tuple[int, int, int, int]:
    """Return the shape (N, H, W, 3) of the pictures in an .npz. Raises BadFileError for missing or other arrays."""
    with opened(path) as archive, archive.open(PICTURES) as stream:
        shape, by_columns, dtype = read_header(stream)
        if by_columns:
            raise ValueError("columns first")
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or not math.prod(shape):
        raise BadFileError(f"{path}: {PICTURES} is {dtype} {shape}; pictures are uint8 (N, H, W, 3)")
    count, height, width, channels = map(int, shape)
    return count, height, width, channels


def read_pictures(path: Path) -> Iterator[Picture]:
    """Yield each picture (H, W, 3) in turn. Raises BadFileError where the file is truncated or damaged."""
    shape = shape_of(path)
    each = math.prod(shape[1:])
    with opened(path) as archive, archive.open(PICTURES) as stream:
        read_header(stream)
        for number in range(shape[0]):
            data = stream.read(each)
            if len(data) < each:
                raise BadFileError(f"{path}: ends within picture {number} of {shape[0]}; write it again")
            if number == shape[0] - 1:
                _check_end(stream)
            yield np.frombuffer(data, np.uint8).reshape(shape[1:])


def read_floats(path: Path, member: str, ndim: int, longest: int) -> npt.NDArray[np.floating[Any]]:
    """Return a floating-point array of an .npz. Raises BadFileError for another type or number of dimensions, and for a
    side above `longest`, before memory is allocated: a small file can claim, and unpack to, a large array."""
    with opened(path) as archive, archive.open(member) as stream:
        shape, by_columns, dtype = read_header(stream)
        if dtype.kind != "f" or len(shape) != ndim or max(shape) > longest:
            raise BadFileError(
                f"{path}: {member} is {dtype} {shape}; floating-point numbers in {ndim} dimensions of at most "
                f"{longest} are expected"
            )
        data = stream.read(math.prod(shape) * dtype.itemsize)
        _check_end(stream)
        return np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")


def _check_end(stream: IO[bytes]) -> None:
    """Raise an error unless a member is read to its end, where zipfile verifies its checksum."""
    if stream.read(1):
        raise ValueError("it holds more values than its header declares")


def origin_of(path: Path) -> str | None:
    """Return the `origin` that `write_pictures` recorded; None for files of other programs and missing ones."""
    try:
        with opened(path) as archive:
            return archive.comment.decode() or None
    except BadFileError:
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
