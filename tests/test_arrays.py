"""Arrays in .npz files: what damaged and hostile ones are refused with."""

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from taming_cli.data.arrays import origin_of, read_pictures
from taming_cli.errors import BadFileError
from taming_cli.evaluate.image_sets import MOST_FEATURES, open_image_set

PICTURES = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_arrays_are_refused_by_name_or_read_as_they_were(save, tmp_path: Path) -> None:
    path, chance = tmp_path / "a.npz", random.Random(0)
    save(path, PICTURES)
    data, refused = path.read_bytes(), list[str]()
    for number in range(600):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 8))):
            place = chance.choice((chance.randrange(len(data)), -1 - chance.randrange(120), chance.randrange(60)))
            changed[place] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            origin_of(path)
            assert np.array_equal(np.stack(list(read_pictures(path))), PICTURES), number
        except BadFileError as error:
            refused.append(str(error))
    assert len(refused) > 300
    assert all(str(path) in line for line in refused)


def test_the_checksum_is_verified_even_where_the_directory_declares_more_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, PICTURES)
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    place = data.rindex(b"PK\1\2") + 20  # compressed and uncompressed size
    size = int.from_bytes(data[place : place + 4], "little") + 1000
    data[place : place + 8] = size.to_bytes(4, "little") * 2
    path.write_bytes(data)
    with pytest.raises(BadFileError, match=r"a\.npz"):
        list(read_pictures(path))


def test_every_feature_of_zip_that_is_not_supported_is_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", PICTURES)
    data = (tmp_path / "a.npz").read_bytes()
    directory = data.rindex(b"PK\1\2")
    for offset, value in ((6, 255), (8, 0x21), (10, 77)):  # version needed, flags (encrypted, patched), compression
        changed = bytearray(data)
        changed[directory + offset] = value
        (tmp_path / "b.npz").write_bytes(changed)
        with pytest.raises(BadFileError, match=r"b\.npz"):
            list(read_pictures(tmp_path / "b.npz"))


@pytest.mark.parametrize("side", [MOST_FEATURES + 1, 10**6, 2**40])
def test_statistics_that_claim_or_unpack_to_much_are_refused_before_they_are_read(side: int, tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mu.npy", header((side,), "<f8"))
        archive.writestr("sigma.npy", header((side, side), "<f8") + bytes(2**20))
    with pytest.raises(BadFileError, match=r"bomb\.npz.* at most 4096"):
        open_image_set(path, device=torch.device("cpu"))
