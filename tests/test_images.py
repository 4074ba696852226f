"""What comes out of a picture file, whatever is in it."""

import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageSequence, features
from PIL.Image import Resampling

from taming_cli.config.size import Size
from taming_cli.data import formats, images
from taming_cli.data.images import (
    Crop,
    apply,
    centre_crop,
    grid,
    random_resized_crop,
    read_image,
    read_rgb,
    tensor,
    to_float,
    to_uint8,
    whole,
    write_png,
)
from taming_cli.errors import BadImageError, TamingError

RNG = np.random.default_rng(5)
COLOUR = RNG.integers(0, 256, (10, 14, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (10, 14), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (10, 14), dtype=np.uint8)


def encoded(array_or_image, file_format="PNG", **options) -> bytes:
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def read(data: bytes, **options) -> np.ndarray:
    image = read_rgb(data, "picture", **options)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def on_white(colour, alpha) -> np.ndarray:
    """Alpha compositing by its definition."""
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


# --- modes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "PPM", "GIF"])
def test_grey_is_repeated_in_three_channels(file_format):
    assert np.array_equal(read(encoded(GREY, file_format)), np.repeat(GREY[..., None], 3, -1))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "PPM"])
def test_rgb_is_kept_exactly(file_format):
    assert np.array_equal(read(encoded(COLOUR, file_format)), COLOUR)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_are_read(file_format):
    if not features.check({"JPEG": "jpg"}.get(file_format, file_format.lower())):
        pytest.skip(f"this Pillow is built without {file_format}")
    smooth = np.stack(np.meshgrid(np.arange(64) * 2, np.arange(48) * 3), -1)
    smooth = np.concatenate([smooth, smooth[..., :1]], -1).astype(np.uint8)
    assert np.abs(read(encoded(smooth, file_format, quality=95)) - smooth).mean() < 3


def test_one_bit_becomes_black_and_white():
    bits = GREY > 127
    assert np.array_equal(read(encoded(Image.fromarray(bits)))[..., 0], np.where(bits, 255, 0))


def test_palette_becomes_its_colours():
    image = Image.fromarray(GREY % 7)
    palette = RNG.integers(0, 256, (7, 3), dtype=np.uint8)
    image.putpalette(palette.tobytes())
    assert image.mode == "P"
    assert np.array_equal(read(encoded(image)), palette[GREY % 7])


def test_alpha_is_laid_on_white():
    expected = on_white(COLOUR, ALPHA)
    got = read(encoded(np.dstack([COLOUR, ALPHA])))
    assert np.abs(got - expected).max() <= 1
    assert got[ALPHA == 0].size == 0 or (got[ALPHA == 0] == 255).all()


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_grey_with_alpha_is_laid_on_white(file_format):
    data = encoded(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), file_format)
    assert np.abs(read(data) - on_white(np.repeat(GREY[..., None], 3, -1), ALPHA)).max() <= 1


def test_a_palette_with_an_alpha_per_entry_is_laid_on_white():
    image = Image.fromarray(GREY % 4)
    palette = RNG.integers(0, 256, (4, 3), dtype=np.uint8)
    image.putpalette(palette.tobytes())
    entry_alpha = np.array([0, 85, 170, 255])
    got = read(encoded(image, transparency=bytes(entry_alpha.tolist())))
    assert np.abs(got - on_white(palette[GREY % 4], entry_alpha[GREY % 4])).max() <= 1


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_becomes_white(file_format):
    image = Image.fromarray(GREY % 4)
    palette = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [9, 9, 9]], np.uint8)
    image.putpalette(palette.tobytes())
    expected = palette[GREY % 4].astype(int)
    expected[GREY % 4 == 2] = 255
    assert np.array_equal(read(encoded(image, file_format, transparency=2)), expected)


def test_a_transparent_colour_becomes_white():
    colour = COLOUR.copy()
    colour[2:5, 3:6] = (7, 8, 9)
    expected = colour.astype(int)
    expected[2:5, 3:6] = 255
    assert np.array_equal(read(encoded(colour, transparency=(7, 8, 9))), expected)


def test_a_transparent_grey_becomes_white():
    grey = np.where(GREY == 100, 101, GREY).astype(np.uint8)
    grey[4:6] = 100
    expected = np.repeat(grey[..., None], 3, -1).astype(int)
    expected[4:6] = 255
    assert np.array_equal(read(encoded(grey, transparency=100)), expected)


WIDE = np.concatenate([[0, 1, 128, 129, 257, 32767, 32896, 65278, 65407, 65408, 65535], RNG.integers(0, 65536, 29)])
WIDE = WIDE.astype(np.uint16).reshape(5, 8)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(file_format):
    got = read(encoded(WIDE, file_format))[..., 0]
    assert np.array_equal(got, [[(int(v) * 255 + 32767) // 65535 for v in row] for row in WIDE])
    assert got.flat[10] == 255


def test_big_endian_16_bit_tiff_is_scaled():
    data = encoded(WIDE.astype(">u2"), "TIFF")
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "I;16B"
    assert np.array_equal(read(data)[..., 0], np.floor(WIDE / 257 + 0.5))


def test_16_bit_grey_png_with_a_transparent_value_is_scaled_and_that_value_is_white():
    wide = WIDE.copy()
    wide[0, 0] = 5000
    wide[wide != 5000] |= 1
    expected = np.floor(wide / 257 + 0.5)
    expected[wide == 5000] = 255
    assert np.array_equal(
        read(png(wide, depth=16, colour_type=0, transparency=struct.pack(">H", 5000)))[..., 0], expected
    )


def test_16_bit_rgb_png_keeps_black_and_white():
    wide = np.array([[[0, 65535, 32768], [65535, 65535, 65535]]], np.uint16)
    got = read(png(wide, depth=16, colour_type=2))
    assert np.array_equal(got, [[[0, 255, 128], [255, 255, 255]]])


def test_32_bit_integers_up_to_16_bits_are_scaled_and_larger_ones_refused():
    assert np.array_equal(read(encoded(WIDE.astype(np.int32), "TIFF"))[..., 0], np.floor(WIDE / 257 + 0.5))
    with pytest.raises(BadImageError, match="picture: holds 32-bit integers"):
        read(encoded(WIDE.astype(np.int32) + 1, "TIFF"))


def test_floats_have_white_at_one_or_at_255():
    unit = (GREY / 255).astype(np.float32)
    for values in (unit, unit * 255):
        assert np.array_equal(read(encoded(values, "TIFF"))[..., 0], GREY)
    beyond = np.array([[-0.5, 0.0, 1.0, 1.7]], np.float32)
    assert read(encoded(beyond, "TIFF"))[..., 0].tolist() == [[0, 0, 255, 255]]
    with pytest.raises(BadImageError, match="infinite values or nan"):
        read(encoded(np.full((3, 3), np.nan, np.float32), "TIFF"))


def test_cmyk_without_a_profile_is_ink_on_white():
    ink = np.zeros((2, 5, 4), np.uint8)
    ink[:, 1, 0] = ink[:, 2, 1] = ink[:, 3, 2] = ink[:, 4, 3] = 255
    colours = [(255, 255, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0)]
    image = Image.frombytes("CMYK", (5, 2), ink.tobytes())
    assert np.array_equal(read(encoded(image, "TIFF")), np.array([colours] * 2))
    big = image.resize((80, 32), Resampling.NEAREST)  # JPEG stores CMYK inverted
    assert np.abs(read(encoded(big, "JPEG", quality=100))[8, 8::16] - colours).max() <= 2


def test_ycbcr_tiff_is_converted():
    image = Image.fromarray(COLOUR).convert("YCbCr")
    y, cb, cr = np.moveaxis(np.asarray(image).astype(float), -1, 0)
    expected = np.stack(
        [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)], -1
    )
    assert np.abs(read(encoded(image, "TIFF")) - expected.clip(0, 255)).max() <= 1.5


def test_lab_tiff_is_converted():
    lab = [(100, 0, 0), (0, 0, 0), (54, 81, 70), (60, -50, 40)]
    signed = bytes(value for light, a, b in lab for value in (round(light * 2.55), a & 255, b & 255))
    got = read(encoded(Image.frombytes("LAB", (4, 1), signed), "TIFF"))
    assert np.abs(got[0] - [srgb_of_lab(*each) for each in lab]).max() <= 5


# --- EXIF --------------------------------------------------------------------------------------------------------

# What each orientation means, in numpy's own words: the stored array that shows `upright` when read with it.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: np.rot90(upright, 2),
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def orientation_exif(orientation) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_undone_in_png(orientation):
    stored = np.ascontiguousarray(STORED[orientation](COLOUR))
    assert np.array_equal(read(encoded(stored, exif=orientation_exif(orientation))), COLOUR)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_orientation_is_undone_once_in_tiff(orientation, compression):
    stored = np.ascontiguousarray(STORED[orientation](COLOUR))
    data = encoded(stored, "TIFF", tiffinfo={0x0112: orientation}, compression=compression)
    assert np.array_equal(read(data), COLOUR)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("file_format", ["WEBP", "AVIF", "JPEG"])
def test_exif_orientation_is_undone_in_lossy_formats(orientation, file_format):
    if not features.check({"JPEG": "jpg"}.get(file_format, file_format.lower())):
        pytest.skip(f"this Pillow is built without {file_format}")
    upright = np.kron(np.array([[0, 80, 160], [240, 200, 40]], np.uint8), np.ones((32, 32), np.uint8))
    stored = np.ascontiguousarray(STORED[orientation](np.repeat(upright[..., None], 3, -1)))
    got = read(encoded(stored, file_format, quality=95, exif=orientation_exif(orientation)))
    assert got.shape == (64, 96, 3)
    assert np.abs(got[16::32, 16::32, 0] - upright[16::32, 16::32]).max() <= 4


def test_damaged_exif_does_not_lose_the_picture():
    data = encoded(COLOUR, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xee" * 11)
    assert np.array_equal(read(data), COLOUR)


# --- reduced decoding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_decoding_never_falls_below_the_smallest_size(orientation):
    smooth = np.linspace(0, 255, 403 * 301).reshape(301, 403).astype(np.uint8)
    stored = np.ascontiguousarray(STORED[orientation](np.repeat(smooth[..., None], 3, -1)))
    data = encoded(stored, "JPEG", exif=orientation_exif(orientation))
    reduced = set()
    for smallest in (
        Size(403, 301),
        Size(202, 151),
        Size(201, 150),
        Size(100, 75),
        Size(300, 30),
        Size(30, 150),
        Size(9, 9),
    ):
        got = read_rgb(data, "picture", min_size=smallest)
        assert got.width >= smallest.width
        assert got.height >= smallest.height
        assert abs(got.width / got.height - 403 / 301) < 0.03
        reduced.add(got.width)
    assert reduced >= {403, 202, 101, 51}


def test_a_smallest_size_beyond_the_picture_leaves_it_as_it_is():
    data = encoded(COLOUR, "JPEG")
    assert read_rgb(data, "picture", min_size=Size(1000, 1000)).size == (14, 10)


# --- colour profiles ---------------------------------------------------------------------------------------------


def profile(space: bytes, pcs: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2.1 (ICC.1:2001-04), from its tags."""
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78), b"cprt": b"text\0\0\0\0-\0", **tags}
    tags[b"wtpt"] = xyz(0.9642, 1.0, 0.8249)
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s", offset + len(body), b"none", 0x02100000, kind, space, pcs)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + xyz(0.9642, 1.0, 0.8249)[8:] + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


def xyz(*values) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma(value) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


# Colorants of each space, adapted to D50: columns R, G, B (as printed in the published profiles).
SRGB_D50 = np.array([[0.4360, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
P3_D50 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
ADOBE_D50 = np.array([[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]])


def matrix_profile(colorants, exponent) -> bytes:
    tags = {name: xyz(*colorants[:, n]) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(exponent))
    return profile(b"RGB ", b"XYZ ", b"mntr", tags)


def srgb_encode(linear) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def srgb_of_lab(light, a, b) -> np.ndarray:
    fy = (light + 16) / 116
    f = np.array([fy + a / 500, fy, fy - b / 200])
    white = np.array([0.9642, 1.0, 0.8249])
    return srgb_encode(np.linalg.inv(SRGB_D50) @ (white * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))))


@pytest.mark.parametrize(("colorants", "exponent"), [(P3_D50, 2.2), (ADOBE_D50, 2.19921875)])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_wide_gamut_colours_become_srgb(colorants, exponent, file_format):
    exponent = round(exponent * 256) / 256
    colour = (COLOUR // 2 + 60).astype(np.uint8)  # away from black, where a pure power and 8 bits are coarse
    expected = srgb_encode((colour / 255) ** exponent @ (np.linalg.inv(SRGB_D50) @ colorants).T)
    got = read(encoded(colour, file_format, icc_profile=matrix_profile(colorants, exponent)))
    assert np.abs(got - expected).max() <= 2
    assert np.abs(got - colour).max() > 10  # the profile mattered


def test_a_profile_and_alpha_work_together():
    colour = (COLOUR // 2 + 60).astype(np.uint8)
    expected = srgb_encode((colour / 255) ** 2.19921875 @ (np.linalg.inv(SRGB_D50) @ ADOBE_D50).T)
    data = encoded(np.dstack([colour, ALPHA]), icc_profile=matrix_profile(ADOBE_D50, 2.19921875))
    assert np.abs(read(data) - on_white(expected, ALPHA)).max() <= 2.5


def test_a_grey_profile_is_converted():
    curve = profile(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": gamma(1.5)})
    expected = srgb_encode((GREY / 255) ** 1.5)
    assert np.abs(read(encoded(GREY, icc_profile=curve))[..., 0] - expected).max() <= 2
    assert np.abs(GREY - expected).max() > 10  # the profile mattered
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (14, 10), 255)])
    assert np.abs(read(encoded(grey_alpha, icc_profile=curve))[..., 2] - expected).max() <= 2


def test_a_cmyk_profile_decides_the_colours_of_its_inks():
    # An A2B table of 2 points an ink: no ink is white, all of the first ink is a red, everything else black.
    table = np.zeros((2, 2, 2, 2, 3), np.uint8)
    table[...] = (0, 128, 128)
    table[0, 0, 0, 0] = (255, 128, 128)
    table[1, 0, 0, 0] = (138, 128 + 70, 128 + 50)
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if n % 4 == 0 else 0 for n in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table.tobytes() + ramp * 3
    inks = Image.frombytes("CMYK", (2, 1), bytes([0, 0, 0, 0, 255, 0, 0, 0]))
    got = read(encoded(inks, "TIFF", icc_profile=profile(b"CMYK", b"Lab ", b"prtr", {b"A2B0": lut})))
    assert np.abs(got[0] - [(255, 255, 255), srgb_of_lab(138 / 2.55, 70, 50)]).max() <= 3


def test_a_profile_that_is_srgb_changes_nothing():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(read(encoded(COLOUR, icc_profile=srgb)), COLOUR)


def test_another_makers_srgb_profile_changes_nothing_either():
    levels = np.linspace(0, 1, 256)
    curve = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    table = b"curv\0\0\0\0" + struct.pack(">I256H", 256, *(round(65535 * value) for value in curve))
    colorants = SRGB_D50 * 0.993  # real files are off by such amounts
    tags = {name: xyz(*colorants[:, n]) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), table)
    nearly = profile(b"RGB ", b"XYZ ", b"mntr", tags)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    converted = ImageCms.profileToProfile(Image.fromarray(COLOUR), ImageCms.getOpenProfile(io.BytesIO(nearly)), srgb)
    moved = np.abs(np.asarray(converted).astype(int) - COLOUR).max()
    assert moved == 1  # so converting would change the picture by nothing but rounding
    assert np.array_equal(read(encoded(COLOUR, icc_profile=nearly)), COLOUR)


@pytest.mark.parametrize("broken", [b"no profile", matrix_profile(P3_D50, 2.2)[:150], bytes(200)])
def test_a_broken_profile_is_ignored(broken):
    assert np.array_equal(read(encoded(COLOUR, icc_profile=broken)), COLOUR)


def test_a_profile_of_another_kind_of_picture_is_ignored():
    assert np.array_equal(read(encoded(GREY, icc_profile=matrix_profile(P3_D50, 2.2)))[..., 1], GREY)


# --- several frames ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_frame_of_an_animation_is_taken(file_format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **lossless)
    assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(data))))) == 3
    assert np.array_equal(read(data), np.broadcast_to([255, 0, 0], (8, 8, 3)))


def test_the_first_picture_of_a_multi_picture_jpeg_is_taken_and_may_be_reduced():
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "lime")]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert np.abs(read(data) - [254, 0, 0]).max() <= 2
    assert read(data, min_size=Size(32, 24)).shape == (24, 32, 3)


# --- what cannot be read -----------------------------------------------------------------------------------------


def png(values: np.ndarray, *, depth, colour_type, size=None, transparency=None) -> bytes:
    """A PNG file by the specification, for what Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = size or values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else np.uint8).tobytes() for row in values)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    head += b"" if transparency is None else chunk(b"tRNS", transparency)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


NOISE = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_a_bad_image_named_in_one_line(file_format, share):
    data = encoded(NOISE, file_format)
    with pytest.raises(BadImageError, match=r"^holiday/1\.x: [^\n]+$"):
        read_rgb(data[: int(len(data) * share)], "holiday/1.x")


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg></svg>"]
)
def test_what_is_no_picture_is_a_bad_image(data):
    with pytest.raises(BadImageError, match=r"^notes: [^\n]+$"):
        read_rgb(data, "notes")


def test_formats_that_run_other_programs_are_not_opened():
    with pytest.raises(BadImageError, match="not a picture in a format that can be read"):
        read(encoded(COLOUR, "EPS"))


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    bomb = png(np.zeros((1, 1), np.uint8), depth=8, colour_type=0, size=(60000, 60000))
    assert len(bomb) < 100
    with pytest.raises(BadImageError, match=r"bomb\.png: larger than is safe to decode"):
        read_rgb(bomb, "bomb.png")


def test_pictures_above_half_the_limit_are_read_without_a_warning(monkeypatch: pytest.MonkeyPatch):
    data = encoded(COLOUR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", COLOUR.shape[0] * COLOUR.shape[1] - 1)
    assert np.array_equal(read(data), COLOUR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", COLOUR.shape[0] * COLOUR.shape[1] // 2 - 1)
    with pytest.raises(BadImageError):
        read(data)


def test_random_damage_gives_a_picture_or_a_bad_image_and_nothing_else():
    rng = np.random.default_rng(1)
    outcomes = set()
    for file_format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"):
        whole_file = np.frombuffer(encoded(COLOUR, file_format), np.uint8)
        for _ in range(60):
            damaged = whole_file.copy()
            damaged[rng.integers(0, len(damaged), 4)] = rng.integers(0, 256, 4)
            try:
                outcomes.add(read_rgb(damaged.tobytes(), "x").mode)
            except BadImageError as error:
                outcomes.add("more than one line" if "\n" in str(error) else "bad")
    assert outcomes == {"RGB", "bad"}


def test_warnings_stay_silent_while_many_threads_read():
    data = encoded(COLOUR, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xee" * 11)
    failures = []

    def work():
        try:
            for _ in range(20):
                read_rgb(data, "x")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_other_modules_warnings_are_not_silenced():
    read(encoded(COLOUR))
    with pytest.warns(UserWarning, match="still heard"):
        warnings.warn("still heard", UserWarning, stacklevel=1)


# --- writing, and the two ranges ---------------------------------------------------------------------------------


def test_written_pictures_and_texts_come_back(tmp_path: Path):
    image = torch.from_numpy(COLOUR.transpose(2, 0, 1).copy())
    path = tmp_path / "ü 1.png"
    text = {"seed": "7", "title": "çà", "prompt": "猫 🐈", "file": "a\udcffb"}
    write_png(path, image, text)
    assert torch.equal(read_image(path.read_bytes(), "x"), image)
    with Image.open(path) as stored:
        assert stored.info == {**text, "file": "a\\udcffb"}
    assert [each.name for each in tmp_path.iterdir()] == ["ü 1.png"]


def test_writing_takes_channels_last_memory_and_replaces_a_file(tmp_path: Path):
    image = torch.from_numpy(COLOUR).permute(2, 0, 1)
    for _ in range(2):
        write_png(tmp_path / "a.png", image)
    assert torch.equal(read_image((tmp_path / "a.png").read_bytes(), "x"), image)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.png"
    write_png(path, torch.zeros(3, 2, 2, dtype=torch.uint8))
    before = path.read_bytes()

    def fail(self, stream, *args, **kwargs):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(TamingError, match=r"a\.png: cannot be written \(No space left"):
        write_png(path, torch.ones(3, 2, 2, dtype=torch.uint8))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_made_and_an_impossible_one_is_named(tmp_path: Path):
    write_png(tmp_path / "away" / "a.png", torch.zeros(3, 2, 2, dtype=torch.uint8))
    assert (tmp_path / "away" / "a.png").exists()
    with pytest.raises(TamingError, match=r"a\.png/b\.png: cannot be written \("):
        write_png(tmp_path / "away" / "a.png" / "b.png", torch.zeros(3, 2, 2, dtype=torch.uint8))


def test_all_byte_values_survive_the_float_range():
    values = torch.arange(256, dtype=torch.uint8)
    floats = to_float(values)
    assert floats.dtype == torch.float32
    assert (floats[0], floats[255]) == (-1, 1)
    assert torch.equal(to_uint8(floats), values)
    assert torch.equal(to_uint8(to_float(values.view(2, 8, 4, 4))), values.view(2, 8, 4, 4))


def test_floats_beyond_the_range_are_clamped_and_others_rounded():
    assert to_uint8(torch.tensor([-3.0, 3.0, 0.003, -0.003])).tolist() == [0, 255, 128, 127]
    assert to_uint8(torch.tensor([-1.0, 1.0], dtype=torch.bfloat16)).tolist() == [0, 255]


def test_a_grid_is_read_row_by_row():
    tiles = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 4)
    sheet = grid(tiles, 3, gap=1)
    assert sheet.shape == (3, 2 * 3 - 1, 3 * 5 - 1)
    assert sheet[0, 0].tolist() == [0, 0, 0, 0, 255, 1, 1, 1, 1, 255, 2, 2, 2, 2]
    assert sheet[0, 3].tolist() == [3, 3, 3, 3, 255, 4, 4, 4, 4, 255, 255, 255, 255, 255]
    assert (sheet[:, 2] == 255).all()


# --- crops -------------------------------------------------------------------------------------------------------

SHAPES = [
    (Size(640, 480), Size(128, 128)),
    (Size(481, 333), Size(64, 48)),
    (Size(333, 481), Size(96, 32)),
    (Size(7, 1001), Size(256, 256)),
    (Size(128, 96), Size(128, 96)),
    (Size(3, 3), Size(17, 64)),
]


@pytest.mark.parametrize(("source", "out"), SHAPES)
def test_the_centre_crop_is_the_largest_box_of_the_aspect_in_the_middle(source, out):
    crop = centre_crop(source, out)
    assert crop.width / crop.height == pytest.approx(out.width / out.height)
    assert crop.width == source.width or crop.height == source.height
    assert crop.left + crop.width / 2 == pytest.approx(source.width / 2)
    assert crop.top + crop.height / 2 == pytest.approx(source.height / 2)
    assert crop.left >= 0
    assert crop.top >= 0
    assert not crop.flip


@pytest.mark.parametrize(("source", "out"), SHAPES)
def test_random_crops_lie_inside_and_keep_their_bounds(source, out):
    rng = np.random.default_rng(0)
    for _ in range(200):
        crop = random_resized_crop(source, out, rng, scale=(0.3, 0.8), ratio=(0.8, 1.25))
        aspect = crop.width / crop.height
        assert 0.8 - 1e-9 <= aspect / (out.width / out.height) <= 1.25 + 1e-9
        largest = min(source.width, source.height * aspect) * min(source.height, source.width / aspect)
        assert 0.3 - 1e-9 <= crop.width * crop.height / largest <= 0.8 + 1e-9
        assert crop.left >= 0
        assert crop.top >= 0
        assert crop.left + crop.width <= source.width + 1e-6
        assert crop.top + crop.height <= source.height + 1e-6


def test_random_crops_reach_the_whole_picture_evenly_and_mirror_half():
    rng = np.random.default_rng(0)
    crops = [random_resized_crop(Size(100, 60), Size(10, 10), rng, scale=(0.25, 1.0)) for _ in range(4000)]
    place = np.array([[c.left / (100 - c.width), c.top / (60 - c.height), c.width * c.height / 3600] for c in crops])
    assert np.abs(place.mean(0) - [0.5, 0.5, 0.625]).max() < 0.02
    assert np.abs(place.std(0) - [1 / 12**0.5, 1 / 12**0.5, 0.75 / 12**0.5]).max() < 0.02
    assert 0.47 < np.mean([crop.flip for crop in crops]) < 0.53
    assert not any(random_resized_crop(Size(9, 9), Size(4, 4), rng, flip=False).flip for _ in range(50))


def test_the_same_generator_gives_the_same_crop():
    one, two = (random_resized_crop(Size(90, 70), Size(8, 8), np.random.default_rng(3)) for _ in range(2))
    assert one == two


def test_a_crop_of_whole_pixels_cuts_exactly_those():
    image = Image.fromarray(COLOUR)
    crop = Crop(3, 2, 6, 5, Size(6, 5))
    assert np.array_equal(np.asarray(apply(image, crop)), COLOUR[2:7, 3:9])
    assert np.array_equal(np.asarray(apply(image, crop._replace(flip=True))), COLOUR[2:7, 3:9][:, ::-1])
    assert np.array_equal(np.asarray(apply(image, whole(Size(14, 10), Size(14, 10)))), COLOUR)


def test_scaling_down_averages_instead_of_dropping_pixels():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(apply(Image.fromarray(stripes), whole(Size(64, 64), Size(9, 9))))
    assert np.abs(small.astype(int) - 127).max() < 12


def test_a_map_of_labels_keeps_its_labels_and_its_place_under_the_pictures_crop():
    labels = np.kron(RNG.integers(0, 200, (12, 16)), np.ones((10, 10))).astype(np.uint8)
    crop = random_resized_crop(Size(160, 120), Size(40, 30), np.random.default_rng(2), scale=(0.2, 0.4))
    cut = np.asarray(apply(Image.fromarray(labels), crop, Resampling.NEAREST))
    assert set(np.unique(cut)) <= set(np.unique(labels))
    column = crop.left + (np.arange(40) + 0.5) * crop.width / 40
    row = crop.top + (np.arange(30) + 0.5) * crop.height / 30
    expected = labels[row.astype(int)][:, column.astype(int)]
    assert np.array_equal(cut, expected[:, ::-1] if crop.flip else expected)


def test_the_tensor_is_a_copy_with_channels_first():
    image = Image.fromarray(COLOUR)
    values = tensor(image)
    assert values.shape == (3, 10, 14)
    assert values.is_contiguous()
    assert np.array_equal(values.numpy().transpose(1, 2, 0), COLOUR)


def test_every_listed_suffix_is_one_that_pillow_opens_with_the_admitted_decoders():
    Image.init()
    for suffix in images.EXTENSIONS - {".heic", ".heif", ".hif"}:
        assert Image.EXTENSION.get(suffix, "AVIF") in (*formats.FORMATS, "MPO")


def test_real_photos_are_read(shared: Path):
    for path in sorted((shared / "data" / "photos").iterdir())[:5]:
        with Image.open(path) as image:
            if "icc_profile" in image.info:
                continue
            assert np.array_equal(read(path.read_bytes()), np.asarray(image.convert("RGB")))
