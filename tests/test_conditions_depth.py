"""Depth maps of every kind -> numbers from -1 to 1."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taming_cli.data.conditions.depth import read_depth
from taming_cli.errors import BadImageError

RNG = np.random.default_rng(11)
DEPTH = RNG.normal(900, 300, (9, 13)).astype(np.float32)


def encoded(array_or_image, file_format="PNG", **options) -> bytes:
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def in_rgba(array: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(array, "<f4").view(np.uint8).reshape(*array.shape, 4))


def read(data: bytes) -> np.ndarray:
    image = read_depth(data, "d.png")
    assert image.mode == "F"
    return np.asarray(image)


def scaled(array: np.ndarray) -> np.ndarray:
    exact = array.astype(np.float64)
    return 2 * (exact - exact.min()) / (exact.max() - exact.min()) - 1


BYTES = (DEPTH / 10).clip(0, 255).astype(np.uint8)
SHORTS = (DEPTH * 20).clip(0, 65535).astype(np.uint16)


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (encoded(BYTES), BYTES),
        (encoded(BYTES, "BMP"), BYTES),
        (encoded(np.dstack([BYTES] * 3)), BYTES),
        (encoded(np.dstack([BYTES] * 3 + [np.full_like(BYTES, 255)])), BYTES),
        (encoded(SHORTS), SHORTS),
        (encoded(SHORTS, "TIFF"), SHORTS),
        (encoded(DEPTH, "TIFF"), DEPTH),
        (encoded(-DEPTH * 1e9, "TIFF"), -DEPTH * 1e9),
        (encoded(in_rgba(DEPTH)), DEPTH),
        (encoded(in_rgba(DEPTH - 900)), DEPTH - 900),
        (encoded(in_rgba(np.maximum(DEPTH - 900, 0))), np.maximum(DEPTH - 900, 0)),
        (encoded(in_rgba(DEPTH * 1e-7)), DEPTH * np.float32(1e-7)),
        (npy(DEPTH), DEPTH),
        (npy(DEPTH[None]), DEPTH),
        (npy(DEPTH[..., None]), DEPTH),
        (npy(np.asfortranarray(DEPTH.astype(">f8"))), DEPTH),
        (npy(DEPTH.astype(np.float16)), DEPTH.astype(np.float16)),
        (npy(SHORTS), SHORTS),
        (npy(SHORTS.astype(np.int64) - 2**40), SHORTS),
        (npy(DEPTH > 900), DEPTH > 900),
    ],
)
def test_each_format_is_scaled_by_its_own_extremes(data, values):
    got = read(data)
    assert got.shape == (9, 13)
    assert np.abs(got - scaled(values)).max() < 1e-6
    assert (got.min(), got.max()) == (-1, 1)


def test_jpeg_is_read_too_for_depth_may_be_a_little_off():
    smooth = (np.arange(32)[:, None] * 4 + np.arange(40)[None] * 2).astype(np.uint8)
    assert np.abs(read(encoded(smooth, "JPEG", quality=95)) - scaled(smooth)).max() < 0.1


@pytest.mark.parametrize("data", [encoded(np.full((4, 5), 7, np.uint8)), npy(np.full((4, 5), -3.5))])
def test_a_constant_map_is_zero(data):
    assert (read(data) == 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {
        1: DEPTH, 2: DEPTH[:, ::-1], 3: DEPTH[::-1, ::-1], 4: DEPTH[::-1], 5: DEPTH.T, 6: DEPTH.T[:, ::-1],
        7: DEPTH.T[::-1, ::-1], 8: DEPTH.T[::-1],
    }[orientation]  # fmt: skip
    for data in (encoded(in_rgba(DEPTH), exif=exif), encoded(DEPTH, "TIFF", exif=exif)):
        assert np.abs(read(data) - scaled(upright)).max() < 1e-6


def photo(alpha: np.ndarray) -> Image.Image:
    colour = RNG.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return Image.fromarray(np.dstack([colour, alpha.astype(np.uint8)]))


@pytest.mark.parametrize(
    "alpha",
    [
        np.full((9, 13), 255),
        np.full((9, 13), 254),
        np.full((9, 13), 128),
        np.full((9, 13), 1),
        np.zeros((9, 13)),
        np.where(RNG.random((9, 13)) < 0.5, 0, 255),
        RNG.integers(0, 256, (9, 13)),
    ],
    ids=["opaque", "nearly opaque", "half", "nearly clear", "clear", "cut out", "any"],
)
def test_pictures_with_transparency_are_not_taken_for_numbers(alpha):
    with pytest.raises(BadImageError, match=r"^d.png: a picture in colour"):
        read(encoded(photo(alpha)))


def array_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(np.where(DEPTH > 900, np.nan, DEPTH)), "not a number"),
        (npy(np.where(DEPTH > 900, np.inf, DEPTH)), "infinite"),
        (encoded(np.where(DEPTH > 900, np.float32(np.nan), DEPTH), "TIFF"), "not a number"),
        (npy(np.array([[1e308, -1e308]])), "infinite"),
        (npy(np.array([[0x7F800001, 1]], np.uint32).view(np.float32)), "not a number"),  # one that signals
        (npy(np.zeros((2, 3, 4))), "shape (2, 3, 4)"),
        (npy(np.zeros(5)), "shape (5,)"),
        (npy(np.zeros((0, 5))), "shape (0, 5)"),
        (npy(np.zeros((2, 2), complex)), "complex128"),
        (npy(np.array([["a", "b"]])), "<U1"),
        (npy(np.array([[{}, []]], dtype=object)), "object"),
        (npy(DEPTH)[:-1], "ends before its 117 values"),
        (array_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4), }"), "ends before"),
        (array_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4), }"), "shape (-1, -4)"),
        (array_header("__import__('os').abort()"), "damaged .npy"),
        (b"\x93NUMPY", "damaged .npy"),
        (encoded(np.dstack([BYTES, BYTES, BYTES[::-1]])), "in colour"),
        (encoded(np.dstack([BYTES] * 3 + [np.where(BYTES > 90, 255, 0).astype(np.uint8)])), "transparent in places"),
        (encoded(np.zeros((4, 5, 4), np.uint8)), "transparent in places"),
        (encoded(Image.new("CMYK", (3, 3)), "TIFF"), "mode CMYK"),
        (encoded(BYTES)[:60], "damaged"),
        (b"depth", "not a picture"),
        (b"", "empty"),
    ],
)
def test_what_holds_no_depth_is_refused_in_one_line(data, words):
    with pytest.raises(BadImageError) as caught:
        read_depth(data, "a/d.png")
    assert str(caught.value).startswith("a/d.png: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_published_map_is_read_as_floats(shared: Path):
    paths = sorted((shared / "data" / "animals" / "depth").rglob("*.png"))
    assert paths
    for path in paths:
        stored = np.ascontiguousarray(np.asarray(Image.open(path))).view("<f4")[..., 0]
        got = read(path.read_bytes())
        assert np.abs(got - scaled(stored)).max() < 1e-6
        # Depth is smooth: read in another byte order, or as colours, it is noise.
        assert np.abs(np.diff(got, axis=1)).mean() < 0.02


def test_the_published_photos_are_no_depth_maps(shared: Path):
    for path in sorted((shared / "data" / "animals" / "images").rglob("*.*"))[:5]:
        with pytest.raises(BadImageError, match="in colour"):
            read_depth(encoded(Image.open(path).convert("RGBA")), path.name)
