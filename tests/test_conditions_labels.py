"""Label maps come out as they were stored, or not at all."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.data.conditions.labels import Colours, paint, read_colours, read_labels
from taming_cli.errors import BadImageError, UsageError

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 256, (9, 13), dtype=np.uint8)
TABLE = Colours(np.array([[10, 20, 30], [0, 0, 0], [255, 0, 7], [10, 20, 31]], np.uint8), ("a", "b", "c", ""))


def encoded(array_or_image, file_format="PNG", **options) -> bytes:
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2, 4 or 8 bits a pixel, by the format's own definition."""
    rows = b""
    for row in values:
        text = "".join(format(int(value), f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def sixteen_bit_colour(values: np.ndarray) -> bytes:
    """A PNG of three equal channels of 16 bits, which Pillow cannot write, and reads as 8 bits."""
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def read(data: bytes, mode: str = "L", **options) -> np.ndarray:
    image = read_labels(data, "seg.png", **options)
    assert image.mode == mode
    return np.asarray(image)


def palette(values: np.ndarray, colours: np.ndarray) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette(colours.tobytes())
    return image


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_grey_values_are_labels(file_format):
    assert (read(encoded(LABELS, file_format)) == LABELS).all()


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_a_palettes_index_is_the_label_and_never_its_colour(file_format):
    colours = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    colours[0], colours[255] = (1, 2, 3), (4, 5, 6)  # so that nobody takes it for grey
    assert (read(encoded(palette(LABELS, colours), file_format)) == LABELS).all()


def test_a_palette_of_few_colours_is_packed_and_still_an_index():
    values = RNG.integers(0, 3, (9, 13), dtype=np.uint8)
    data = encoded(palette(values, np.array([[9, 9, 9], [0, 0, 0], [200, 0, 0]], np.uint8)), bits=2)
    assert data[24] == 2
    assert (read(data) == values).all()
    clear = encoded(palette(values, np.array([[9, 9, 9], [0, 0, 0], [200, 0, 0]], np.uint8)), transparency=1)
    assert (read(clear) == values).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_of_less_than_a_byte_keeps_its_values(bits):
    values = RNG.integers(0, 2**bits, (9, 13))
    data = png(values, bits)
    assert (read(data) == values).all()


def test_sixteen_bits_come_as_mode_i_only_where_they_are_needed():
    values = RNG.integers(0, 65536, (9, 13)).astype(np.uint16)
    values[0, 0] = 65535
    for data in (encoded(values), encoded(values, "TIFF")):
        assert (read(data, "I") == values).all()
    values = values % 256
    for data in (encoded(values.astype(np.uint16)), encoded(values.astype(np.int32), "TIFF")):
        assert (read(data) == values).all()


def test_one_bit_pictures_hold_0_and_1():
    values = RNG.random((9, 13)) < 0.5
    for file_format in ("PNG", "TIFF", "BMP"):
        assert (read(encoded(Image.fromarray(values), file_format)) == values).all()


def test_three_equal_channels_are_one_label():
    grey = np.stack([LABELS] * 3, 2)
    assert (read(encoded(grey)) == LABELS).all()
    assert (read(encoded(np.dstack([grey, np.full_like(LABELS, 255)]))) == LABELS).all()
    assert (read(encoded(Image.merge("LA", [Image.fromarray(LABELS), Image.new("L", (13, 9), 255)]))) == LABELS).all()


def test_unlabelled_is_coco_stuffs_255():
    values = np.array([[255, 0, 1, 181, 254]], np.uint8)
    assert read(encoded(values), unlabelled=True).tolist() == [[0, 1, 2, 182, 255]]
    assert (
        read(encoded(LABELS), unlabelled=True) == LABELS + np.uint8(1)
    ).all()  # bytes wrap, as in the published code
    with pytest.raises(BadImageError, match=r"^seg.png: holds the label 300"):
        read(encoded(np.array([[300, 255]], np.uint16)), unlabelled=True)


def test_listed_values_are_labels_in_their_order() -> None:
    stored = np.array([[255, 0, 128], [0, 0, 255]], np.uint8)
    assert read(encoded(stored), values=(0, 128, 255)).tolist() == [[2, 0, 1], [0, 0, 2]]
    assert read(encoded(stored), values=(255, 7, 0, 128)).tolist() == [[0, 2, 3], [2, 2, 0]]
    assert read(encoded(np.array([[40000, 3]], np.uint16)), values=(3, 40000)).tolist() == [[1, 0]]
    # Values that are no labels as they are stored.
    signed = Image.fromarray(np.array([[-1, 33, 100_000]], np.int32))
    assert read(encoded(signed, "TIFF"), values=(-1, 33, 100_000)).tolist() == [[0, 1, 2]]
    with pytest.raises(
        BadImageError, match=r"holds labels from -1 to 100000; .* list others with train-vqgan --label-values"
    ):
        read(encoded(signed, "TIFF"))
    with pytest.raises(BadImageError, match=r"holds 128 at \(2, 0\), which is not one of the label values 0, 255"):
        read(encoded(stored), values=(0, 255))

    # --- tables of colours ---_is_looked_up_in_the_table():
    values = RNG.integers(0, 4, (9, 13))
    for kwargs in ({}, {"unlabelled": True}):
        assert (read(encoded(TABLE.rgb[values]), colours=TABLE, **kwargs) == values).all()
    assert (read(encoded(LABELS), colours=TABLE) == LABELS).all()  # no colours to look up
    large = Colours(np.array([[i // 256, i % 256, 99] for i in range(700)], np.uint8), ("",) * 700)
    values = RNG.integers(0, 700, (9, 13))
    values[0, 0] = 699
    assert (read(encoded(large.rgb[values]), "I", colours=large) == values).all()


def test_an_unknown_colour_is_named_with_its_place():
    picture = TABLE.rgb[RNG.integers(0, 4, (9, 13))]
    picture[4, 11], picture[7, 2] = (10, 20, 32), (1, 1, 1)
    with pytest.raises(BadImageError, match=r"^seg.png: the colour #0a1420 at \(11, 4\) is not one of the table's 4"):
        read(encoded(picture), colours=TABLE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("colours", [None, TABLE])
def test_exif_orientation_is_undone(orientation, colours):
    values = RNG.integers(0, 4, (9, 13))
    upright = {
        1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1], 5: values.T, 6: values.T[:, ::-1],
        7: values.T[::-1, ::-1], 8: values.T[::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = values.astype(np.uint8) if colours is None else colours.rgb[values]
    for file_format in ("PNG", "TIFF"):
        assert (read(encoded(picture, file_format, exif=exif), colours=colours) == upright).all()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encoded(LABELS, "JPEG"), "JPEG changes values"),
        (encoded(LABELS, "TIFF", compression="jpeg"), "JPEG changes values"),
        (encoded(LABELS, "WEBP", lossless=True), "not from WEBP"),
        (encoded(LABELS, "GIF"), "not from GIF"),
        (encoded(np.dstack([LABELS, LABELS, LABELS[::-1]])), "a table of the labels' colours"),
        (encoded(np.dstack([LABELS] * 4)), "transparent"),
        (encoded(LABELS.astype(np.float32), "TIFF"), "are not labels"),
        (encoded(np.full((3, 3), 70000, np.int32), "TIFF"), "from 70000 to 70000"),
        (encoded(np.full((3, 3), -1, np.int32), "TIFF"), "from -1"),
        (encoded(Image.new("CMYK", (3, 3)), "TIFF"), "are not labels"),
        (sixteen_bit_colour(LABELS), "are not labels"),
        (encoded(LABELS, "TIFF", tiffinfo={262: 0}), "inverted"),
        (encoded(Image.fromarray(LABELS > 99), "TIFF", tiffinfo={262: 0}), "inverted"),
        (encoded(LABELS)[:60], "damaged"),
        (b"labels", "not a picture"),
        (b"", "empty"),
    ],
)
def test_what_holds_no_certain_labels_is_refused_in_one_line(data, words):
    with pytest.raises(BadImageError) as caught:
        read_labels(data, "a/seg.png")
    assert str(caught.value).startswith("a/seg.png: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_published_map_is_read(shared: Path):
    for folder, unlabelled, highest in (("ade20k", False, 150), ("landscapes", True, 182)):
        paths = sorted((shared / "data" / folder / "segmentation").glob("*.png"))
        assert paths
        for path in paths:
            stored = np.asarray(Image.open(path))
            values = read(path.read_bytes(), unlabelled=unlabelled)
            assert (values == (stored + np.uint8(1) if unlabelled else stored)).all()
            assert values.max() <= highest


# --- tables of colours ----------------------------------------------------------------------------------------------


def table(tmp_path: Path, text: str) -> Colours:
    (tmp_path / "table.txt").write_text(text, "utf-8")
    return read_colours(tmp_path / "table.txt")


def test_a_table_of_colours_has_a_line_a_label(tmp_path: Path):
    read_table = table(tmp_path, "\ufeff# a comment\n#87CEEB sky\n\n  #000001   a  b \n#ffffff\n#\n#(also a comment)\n")
    assert read_table.rgb.dtype == np.uint8
    assert read_table.rgb.tolist() == [[0x87, 0xCE, 0xEB], [0, 0, 1], [255, 255, 255]]
    assert read_table.names == ("sky", "a  b", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#000000 a\n#12345 b\n", "line 2: '#12345 b'"),
        ("#000000 a\n\n#fff\n", "line 3"),
        ("sky #000000\n", "line 1"),
        ("#000000sky\n#0000001\n", "line 2"),
        ("#00000a a\n#00000b b\n#00000A c\n", "line 3: #00000a is also the colour of line 1"),
        ("# nothing\n", "no colours"),
    ],
)
def test_a_bad_table_names_its_line(tmp_path: Path, text, words):
    with pytest.raises(UsageError) as caught:
        table(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "table.txt"))
    assert words in str(caught.value)


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"table.txt: .*No such file"):
        read_colours(tmp_path / "table.txt")
    (tmp_path / "table.txt").write_bytes(b"#000000 \xff\n")
    with pytest.raises(UsageError, match=r"table.txt: .*utf-8"):
        read_colours(tmp_path / "table.txt")


# --- painting -------------------------------------------------------------------------------------------------------


def test_painting_with_a_table_shows_its_colours_and_reads_back():
    labels = torch.from_numpy(RNG.integers(0, 4, (2, 5, 9, 13)))
    painted = paint(labels, TABLE)
    assert painted.shape == (2, 5, 3, 9, 13)
    assert painted.dtype == torch.uint8
    for picture, values in zip(painted.flatten(0, 1), labels.flatten(0, 1), strict=True):
        assert (read(encoded(picture.permute(1, 2, 0).numpy()), colours=TABLE) == values.numpy()).all()


def test_labels_without_a_colour_get_one_that_depends_on_the_label_alone():
    few = paint(torch.arange(4).reshape(1, 4))
    many = paint(torch.arange(300).reshape(1, 300))
    assert (many[..., :4] == few).all()
    assert few[:, 0, 0].tolist() == [51, 51, 51]
    beyond = paint(torch.tensor([[3, 4, 299]], dtype=torch.int32), TABLE)
    assert beyond[:, 0, 0].tolist() == [10, 20, 31]
    assert (beyond[:, 0, 1:] == many[:, 0, [4, 299]]).all()


def test_the_colours_of_182_labels_are_distinguished():
    colours = paint(torch.arange(183).reshape(1, 183))[:, 0].T.float()
    apart = torch.cdist(colours, colours) + 999 * torch.eye(183)
    assert apart.min() > 8
    assert apart[:60, :60].min() > 25
